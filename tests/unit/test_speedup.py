"""Verdicts from blocks: planted truth and error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from halftime.trials.speedup import (
    blocks_to_confirm,
    compare,
    half_width,
    pooled_spread,
    resolvable_effect,
)


def test_clear_gain_is_faster_with_a_bound_above_one() -> None:
    seen = compare([0.50, 0.52, 0.48, 0.51])
    assert seen.word == "faster"
    assert 1 < seen.low < seen.speedup < seen.high
    assert seen.speedup == pytest.approx(math.exp(0.5025))


def test_tight_interval_around_one_is_same_speed() -> None:
    assert compare([0.001, -0.001, 0.002, -0.002, 0.0]).word == "same speed"


def test_loss_is_slower() -> None:
    assert compare([-0.30, -0.31, -0.29, -0.30]).word == "slower"


def test_wide_interval_is_inconclusive() -> None:
    assert compare([0.5, -0.4, 0.3, -0.2]).word == "inconclusive"


def test_identical_arms_are_called_different_in_five_percent_of_studies() -> None:
    """Drift between blocks does not matter: it is in both arms of a block."""
    generator = np.random.default_rng(0)
    ratios = generator.normal(0, 0.05, size=(4000, 6))
    words = [compare(row).word for row in ratios]
    different = sum(word in ("faster", "slower") for word in words) / len(words)
    assert 0.04 < different < 0.06


def test_interval_covers_a_planted_speedup_in_95_percent_of_studies() -> None:
    generator = np.random.default_rng(1)
    truth = math.log(1.3)
    seen = [compare(row) for row in generator.normal(truth, 0.08, size=(4000, 5))]
    covered = sum(one.low <= 1.3 <= one.high for one in seen) / len(seen)
    assert 0.94 < covered < 0.96


@pytest.mark.parametrize(
    ("spread", "expected"), [(0.01, 1.4), (0.03, 4.4), (0.05, 7.4), (0.10, 15)]
)
def test_resolvable_effect_is_that_of_the_contract(spread: float, expected: float) -> None:
    assert resolvable_effect(spread, 6) * 100 == pytest.approx(expected, rel=0.06)


def test_resolvable_effect_is_found_with_80_percent_power() -> None:
    effect = math.log1p(resolvable_effect(0.05, 6))
    samples = np.random.default_rng(2).normal(effect, 0.05, size=(20000, 6))
    found = np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.80, abs=0.02)


def test_large_gain_needs_few_blocks_and_noise_needs_many() -> None:
    assert blocks_to_confirm(0.02, math.log(2)) == 4
    assert blocks_to_confirm(0.05, 0.05) == 10
    assert 4 < blocks_to_confirm(0.03, 0.10) < 10


def test_fixed_number_of_blocks_reaches_the_wanted_half_width() -> None:
    blocks = blocks_to_confirm(0.03, 0.10)
    assert half_width(0.03, blocks) <= max(math.log(1.03), 0.10 / 4)
    assert half_width(0.03, blocks - 1) > max(math.log(1.03), 0.10 / 4)


def test_spread_is_pooled_within_arms() -> None:
    assert pooled_spread([[0.0, 0.1, 0.2], [1.0, 1.1, 1.2]]) == pytest.approx(0.1)
