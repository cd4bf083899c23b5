"""Proofs: planted losses of quality pass at most 5 %, harmless arms at least 80 %."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halftime.records import Run
from halftime.trials import parity
from tests.conftest import make_run, make_window


def studies(true_loss: float, spread: float, margin: float, count: int = 3000) -> float:
    """The share of studies that pass, with as many seeds as the test asks for."""
    generator = np.random.default_rng(0)
    seeds = parity.seeds_needed(spread * np.sqrt(2), margin)
    passed = 0
    for _ in range(count):
        baseline = generator.normal(0.9, spread, seeds)
        arm = generator.normal(0.9 - true_loss, spread, seeds)
        test = parity.non_inferior(arm, baseline, margin, higher_is_better=True)
        passed += test.p_value < 0.05
    return passed / count


def test_arm_that_loses_exactly_the_margin_passes_at_most_five_percent() -> None:
    assert studies(true_loss=0.005, spread=0.003, margin=0.005) <= 0.06


def test_harmless_arm_passes_in_80_percent_with_enough_seeds() -> None:
    assert studies(true_loss=0.0, spread=0.003, margin=0.005) >= 0.79


def test_direction_of_a_loss_is_lower_is_better() -> None:
    base, worse = [0.50, 0.52, 0.51, 0.49], [0.60, 0.62, 0.61, 0.60]
    assert not parity.non_inferior(worse, base, 0.005, higher_is_better=False).passed
    assert parity.non_inferior(base, worse, 0.005, higher_is_better=False).p_value < 0.05


def test_two_seeds_prove_nothing() -> None:
    test = parity.non_inferior([0.9, 0.9], [0.9, 0.9], 0.005, higher_is_better=True)
    assert not test.passed
    assert "at least 3" in test.words


def test_too_few_seeds_for_the_noise_are_not_a_pass_even_where_p_is_small() -> None:
    arm, base = [0.93, 0.91, 0.95], [0.90, 0.90, 0.90]
    test = parity.non_inferior(arm, base, 0.005, higher_is_better=True)
    assert test.needed > 3
    assert not test.passed


def test_losses_are_equal_only_bit_for_bit() -> None:
    assert parity.same_losses([0.1, 0.2], [0.1, 0.2])[0]
    assert not parity.same_losses([0.1, 0.2], [0.1, 0.2 + 1e-16 * 4])[0]
    assert not parity.same_losses([], [])[0]


def witness(folder: Path, digests: list[list[int]]) -> Run:
    folder.mkdir()
    lines = [{"event": "hello"}, {"event": "batches", "digests": digests}]
    (folder / "events-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_run(folder=str(folder))


def test_batches_are_proven_over_at_least_200(tmp_path: Path) -> None:
    base = witness(tmp_path / "a", [[0, n, n] for n in range(300)])
    few = witness(tmp_path / "b", [[0, n, n] for n in range(100)])
    equal, said = parity.same_batches(base, few, loader=0)
    assert not equal
    assert "200 are needed" in said


def test_one_changed_byte_in_one_batch_is_found(tmp_path: Path) -> None:
    base = witness(tmp_path / "a", [[0, n, n] for n in range(300)])
    other = witness(tmp_path / "b", [[0, n, n + (n == 250)] for n in range(300)])
    equal, said = parity.same_batches(base, other, loader=0)
    assert not equal
    assert said == "batch 251 of 300 differs in its bytes"


def test_curve_outside_the_seeds_of_the_baseline_is_seen() -> None:
    generator = np.random.default_rng(0)
    curve = np.linspace(2, 0.5, 200)
    seeds = [curve + generator.normal(0, 0.05, 200) for _ in range(4)]
    assert parity.inside_envelope(seeds, curve + generator.normal(0, 0.05, 200))[0]
    assert not parity.inside_envelope(seeds, curve + 0.5)[0]


def gradients(folder: Path, rows: np.ndarray, with_gradient: int = 4, norm: float = 1.0) -> Run:
    folder.mkdir()
    rows.astype(np.float32).tofile(folder / "gradients.f32")
    note = {
        "event": "gradients", "with_gradient": with_gradient, "parameters": 4, "update_norm": norm,
    }  # fmt: skip
    lines = [{"event": "hello"}] + [note] * len(rows)
    (folder / "events-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_run(folder=str(folder))


def test_gradient_error_is_measured_against_the_noise_of_batches(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(0, 1, (20, 500))
    base = gradients(tmp_path / "a", rows)
    arm = gradients(tmp_path / "b", rows + generator.normal(0, 0.05, rows.shape))
    share, said = parity.gradient_witness(base, arm)
    assert share == pytest.approx(0.05, rel=0.1)
    assert "more than" not in said
    far = gradients(tmp_path / "c", rows + generator.normal(0, 0.3, rows.shape))
    assert parity.gradient_witness(base, far)[1].endswith("more than a rounding's tenth")


def test_parameter_that_gets_no_gradient_any_more_fails_the_arm(tmp_path: Path) -> None:
    rows = np.ones((3, 10))
    base = gradients(tmp_path / "a", rows)
    arm = gradients(tmp_path / "b", rows, with_gradient=1)
    trains, said = parity.still_trains(base, arm)
    assert not trains
    assert "1 parameters get gradients, 4 in the baseline" in said


def test_updates_of_another_size_fail_the_arm(tmp_path: Path) -> None:
    rows = np.ones((3, 10))
    base = gradients(tmp_path / "a", rows)
    assert not parity.still_trains(base, gradients(tmp_path / "b", rows, norm=0.1))[0]


def test_loss_told_for_several_steps_stands_for_each_of_them() -> None:
    every = tuple((step, 0, float(step // 4)) for step in range(12))
    sparse = tuple((step, 0, float(step // 4)) for step in (3, 7, 11))
    window = make_window(0, 1.0, 120, steps=12)
    plain = make_run([replace(window, losses=every)], steps=12)
    told = make_run([replace(window, losses=sparse)], steps=12)
    assert parity.loss_curve(told) == parity.loss_curve(plain) == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
