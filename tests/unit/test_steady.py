"""Warm-up, fixed cost and rate, by planted truth."""

from __future__ import annotations

import pytest

from halftime.measure.steady import (
    break_even_samples,
    common_cut,
    drift,
    is_short,
    steady_rate,
    time_at_length,
    warm_up_cut,
)
from tests.conftest import make_run, make_window


def windows_of(costs: list[float], samples: int = 100, start: float = 3.0) -> list[object]:
    made, now = [], start
    for cost in costs:
        made.append(make_window(now, cost * samples, samples))
        now += cost * samples
    return made


def test_slow_first_windows_are_cut_as_warm_up() -> None:
    assert warm_up_cut([5.0, 3.0, 1.01, 0.99] + [1.0, 1.01, 0.99] * 6) in (2, 3)


def test_steady_series_loses_nothing() -> None:
    assert warm_up_cut([1.0] * 20) == 0


def test_rate_is_the_kept_time_over_the_kept_samples() -> None:
    rate = steady_rate(make_run(windows_of([0.02, 0.02] + [0.01] * 30)))  # type: ignore[arg-type]
    assert rate is not None
    assert rate.seconds_per_sample == pytest.approx(0.01)
    assert rate.cut_samples == 200
    # 3 s of start-up, and 2 s lost on the first two windows beyond their steady cost
    assert rate.fixed_seconds == pytest.approx(5.0)


def test_common_cut_is_applied_to_a_run_that_needs_none() -> None:
    rate = steady_rate(make_run(windows_of([0.01] * 20)), cut_samples=500)  # type: ignore[arg-type]
    assert rate is not None
    assert rate.cut_samples == 500
    assert rate.fixed_seconds == pytest.approx(3.0)


def test_trend_is_no_steady_state() -> None:
    rising = [0.01 * (1 + place / 100) for place in range(30)]
    rate = steady_rate(make_run(windows_of(rising)))  # type: ignore[arg-type]
    assert drift(rising) > 0.2
    assert rate is not None
    assert rate.drift > 0.1
    assert rate.cut_at_edge


def test_common_cut_is_what_the_slowest_to_warm_up_needs() -> None:
    cold = [make_run(windows_of([0.05] * few + [0.01] * 20)) for few in (2, 3, 8)]  # type: ignore[arg-type]
    warm = [make_run(windows_of([0.01] * 20)) for _ in range(3)]  # type: ignore[arg-type]
    assert common_cut(warm) == 0
    assert common_cut(warm, cold) == 300  # of the cold runs' own, the middle one


def test_few_windows_are_good_for_screening_only() -> None:
    rate = steady_rate(make_run(windows_of([0.01] * 5)))  # type: ignore[arg-type]
    assert rate is not None
    assert is_short(rate)


def test_run_without_windows_has_no_rate() -> None:
    assert steady_rate(make_run()) is None


def test_break_even_weighs_the_fixed_cost_against_the_gain() -> None:
    base = steady_rate(make_run(windows_of([0.01] * 20)))  # type: ignore[arg-type]
    arm = steady_rate(make_run(windows_of([0.005] * 20, start=8.0)))  # type: ignore[arg-type]
    assert base is not None
    assert arm is not None
    even = break_even_samples(base, arm)
    assert even == pytest.approx(1000)
    assert time_at_length(base, 1000) == pytest.approx(time_at_length(arm, 1000))
    assert break_even_samples(arm, base) is None
