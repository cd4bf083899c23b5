"""What the blocks of an arm allow to say: a steady state, or none."""

from __future__ import annotations

from dataclasses import replace

from halftime.records import Rate, Run
from halftime.trials.blocks import Trial
from halftime.trials.timing import Length
from halftime.trials.verdicts import conclude, unsettled
from tests.conftest import make_candidate, make_diagnosis, make_run, make_window

RATE = Rate(
    fixed_seconds=3.0, seconds_per_sample=0.001, training_seconds_per_sample=0.001,
    cut_samples=0, kept_windows=25, kept_seconds=12.0,
    mean_step_seconds=0.01, drift=0.0,
    cut_at_edge=False,
)  # fmt: skip


def drifting(*drifts: float) -> list[Rate]:
    return [replace(RATE, drift=drift) for drift in drifts]


def test_trend_that_comes_back_in_every_run_is_no_steady_state() -> None:
    assert unsettled(drifting(0.10, 0.12, 0.09, 0.11)) == (
        "over a window its time for a sample moved by +10%"
    )
    assert unsettled(drifting(-0.20, -0.22, -0.18, -0.21))


def test_drift_to_either_side_is_the_machine() -> None:
    assert unsettled(drifting(0.10, -0.12, 0.09, -0.05)) == ""
    assert unsettled(drifting(0.01, 0.02, 0.02, 0.01)) == ""


def test_warm_up_without_an_end_in_most_runs_is_no_steady_state() -> None:
    edge = replace(RATE, cut_at_edge=True)
    assert unsettled([edge, edge, RATE])
    assert unsettled([edge, RATE, RATE]) == ""


def run_of(cost: float, growth: float) -> Run:
    """25 windows of 1,000 samples; growth: what the last costs more than the first, as a share."""
    made, now = [], 3.0
    for place in range(25):
        seconds = 1000 * cost * (1 + growth * place / 24)
        made.append(make_window(now, seconds, 1000))
        now += seconds
    return make_run(made, outcome="window")


def test_arm_that_slows_is_not_claimed_by_its_windows() -> None:
    length = Length(full=False, window_samples=25_000, user_samples=1e6)
    pairs = {
        growth: [(run_of(0.001 * (1 + i / 100), 0.0), run_of(0.0006 * (1 + i / 100), growth))
                 for i in range(4)]
        for growth in (0.0, 0.2)
    }  # fmt: skip
    said = {}
    for growth, runs in pairs.items():
        trial = Trial(candidate=make_candidate("store"), length=length, pairs=runs)
        said[growth] = conclude(trial, "confirm", None, make_diagnosis())
    assert said[0.0].word == "faster"
    assert said[0.0].rate is not None
    assert said[0.2].word == "inconclusive"
    assert said[0.2].reason.startswith("no steady state")
    assert said[0.2].rate is None
    whole = Trial(candidate=make_candidate("store"), length=replace(length, full=True),
                  pairs=[(replace(b, wall_seconds=b.wall_seconds * (1 + i / 100)),
                          replace(a, wall_seconds=b.wall_seconds / 2))
                         for i, (b, a) in enumerate(pairs[0.2])])  # fmt: skip
    told = conclude(whole, "confirm", None, make_diagnosis())
    assert told.word == "faster", "whole-run time is claimed"
    assert told.rate is None


def test_time_of_a_run_is_that_of_the_users_length_where_it_is_known() -> None:
    pairs = [(run_of(0.001, 0.0), run_of(0.0005, 0.0)) for _ in range(4)]
    for user_samples, seconds in ((1e6, 500), (None, 12.5)):
        length = Length(full=False, window_samples=25_000, user_samples=user_samples)
        trial = Trial(candidate=make_candidate("workers"), length=length, pairs=pairs)
        told = conclude(trial, "confirm", None, make_diagnosis()).run_seconds
        assert told is not None
        assert abs(told - seconds) < 5


def test_memory_of_an_arm_is_that_of_the_device_it_computes_on() -> None:
    run = make_run([make_window(0, 1.0, 100)], peak_bytes=5)
    assert run.memory_bytes == 5
    assert replace(run, device_peak_bytes=3).memory_bytes == 3
