"""Where the time goes: rules, and when the first word is spoken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halftime.measure.diagnose import FirstDiagnosis, explain, one_line
from halftime.measure.steady import steady_rate
from halftime.records import DeviceStep, Diagnosis, Rate, Reading
from halftime.trials.candidates import ceiling_of
from tests.conftest import (
    MACHINE,
    make_candidate,
    make_facts,
    make_loader,
    make_run,
    make_window,
)


def rate(seconds_per_sample: float) -> Rate:
    return Rate(
        fixed_seconds=1.0, seconds_per_sample=seconds_per_sample,
        training_seconds_per_sample=seconds_per_sample, cut_samples=0, kept_windows=20,
        kept_seconds=10.0, mean_step_seconds=0.1,
        drift=0.0, cut_at_edge=False,
    )  # fmt: skip


def bottlenecks(**shares: float) -> list[str]:
    facts = make_facts()
    return [f.bottleneck for f in explain([make_window(0, 1.0, 100, **shares)], facts).findings]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"wait": 0.6, "forward": 0.2, "backward": 0.2}, "data-bound"),
        ({"wait": 0.02, "forward": 0.4, "backward": 0.5}, "compute-bound"),
        ({"wait": 0.02, "forward": 0.2, "backward": 0.2}, "host-bound"),
        ({"wait": 0.15, "forward": 0.3, "backward": 0.3, "optimizer": 0.02}, "balanced"),
        ({"wait": 0.1, "forward": 0.2, "backward": 0.1, "evaluation": 0.5}, "evaluation-bound"),
    ],
)
def test_largest_share_names_the_bottleneck(shares: dict[str, float], expected: str) -> None:
    assert expected in bottlenecks(**shares)


def test_replay_outweighs_the_wait_that_was_seen() -> None:
    """Workers hide what fetching costs from the waits; free data shows it."""
    facts = make_facts()
    windows = [make_window(0, 1.0, 100, wait=0.05, forward=0.5, backward=0.4)]
    seen = explain(windows, facts, replay=rate(0.005), full=rate(0.010))
    assert seen.findings[0].bottleneck in ("data-bound", "compute-bound")
    data = next(ceiling for ceiling in seen.ceilings if ceiling.family == "data")
    assert data.factor == pytest.approx(2.0)


def test_what_fewer_calls_save_of_a_compiled_step_is_host_work() -> None:
    facts = make_facts(make_loader(kind="arrays in memory"), framework="keras")
    windows = [make_window(0, 1.0, 1000, forward=0.9)]
    unknown = explain(windows, facts)
    assert unknown.host_share is None
    assert "host" not in [ceiling.family for ceiling in unknown.ceilings]
    assert unknown.findings[0].bottleneck == "compute-bound"
    known = explain(windows, facts, full=rate(0.001), fewer_calls=rate(0.0004))
    assert known.host_share == pytest.approx(0.6)
    assert known.findings[0].bottleneck == "host-bound"
    assert "steps_per_execution" in known.findings[0].ideas


def test_host_work_that_hides_behind_waiting_is_told_by_replayed_batches() -> None:
    facts = make_facts(make_loader(kind="tf.data"), framework="keras")
    windows = [make_window(0, 1.0, 1000, forward=0.9)]
    seen = explain(windows, facts, replay=rate(0.0003), full=rate(0.001), fewer_calls=rate(0.0001))
    assert seen.wait_share == pytest.approx(0.7)
    assert seen.host_share == pytest.approx(0.2)
    assert seen.findings[0].bottleneck == "data-bound"
    host = next(ceiling for ceiling in seen.ceilings if ceiling.family == "host")
    assert "100.0 µs a sample against 300.0" in host.evidence


def test_optimizer_that_was_timed_alone_bounds_what_its_techniques_win() -> None:
    facts = make_facts(make_loader(kind="arrays in memory"), framework="keras")
    windows = [make_window(0, 1.0, 100, forward=0.9)]

    def ceiling(**known: float) -> float:
        seen = explain(windows, replace(facts, **known))
        return next(c.factor for c in seen.ceilings if c.family == "optimizer")

    assert ceiling() == pytest.approx(100)
    assert ceiling(optimizer_seconds=0.04) == pytest.approx(1 / 0.6)


def test_tracing_of_the_optimizer_is_a_share_of_the_run_that_its_kernel_could_save() -> None:
    facts = make_facts(
        make_loader(kind="arrays in memory"), framework="keras", backend="tensorflow",
        optimizer="Adam", optimizer_seconds=0.0001, optimizer_tracing_seconds=0.2,
    )  # fmt: skip
    windows = [make_window(0.5, 0.5, 100, forward=0.4)]
    seen = explain(windows, facts, make_run(windows))
    tracing = next(c for c in seen.ceilings if c.family == "tracing")
    assert (tracing.factor, tracing.evidence) == (1.25, "20% of the run traces the optimizer")
    of_both = ceiling_of(make_candidate("fused_optimizer"), seen)
    assert of_both == pytest.approx(1 / (1 - 0.2 - 0.002), rel=0.01)
    assert "tracing" not in [c.family for c in explain(windows, facts).ceilings]


def test_evaluation_is_no_waiting_for_data() -> None:
    """Short replays hold none."""
    windows = [make_window(n, 1.0, 10, forward=0.5, evaluation=0.5) for n in range(8)]
    full = steady_rate(make_run(windows))
    replayed = steady_rate(make_run([make_window(n, 0.5, 10, forward=0.5) for n in range(8)]))
    facts = make_facts(make_loader(kind="tf.data"), framework="keras")
    seen = explain(windows, facts, replay=replayed, full=full, fewer_calls=replayed)
    assert seen.wait_share == pytest.approx(0.0, abs=1e-6)
    assert seen.host_share == pytest.approx(0.0, abs=1e-6)


def test_waiting_within_a_compiled_step_is_not_known_without_a_replay() -> None:
    facts = make_facts(make_loader(kind="tf.data"), framework="keras")
    seen = explain([make_window(0, 1.0, 100, forward=1.0)], facts)
    assert seen.wait_share is None
    assert "data" not in [ceiling.family for ceiling in seen.ceilings]
    assert ceiling_of(make_candidate("store"), seen) == float("inf")


def test_run_spent_before_its_first_step_is_start_up_bound() -> None:
    run = make_run([make_window(8.0, 2.0, 100, forward=2.0)], training_start=8.0)
    seen = explain(run.windows, make_facts(), run)
    assert "start-up-bound" in [finding.bottleneck for finding in seen.findings]


def test_step_that_is_traced_for_long_is_start_up_as_well() -> None:
    """As of a deep Keras model in a short training."""
    windows = [make_window(2.0, 12.0, 1, forward=12.0)]
    windows += [make_window(14.0 + n / 2, 0.5, 10, forward=0.5) for n in range(12)]
    run = make_run(windows, training_start=2.0)
    assert explain(windows, make_facts(), run).start_up_share == pytest.approx(0.1)
    seen = explain(windows, make_facts(), run, full=steady_rate(run))
    assert seen.start_up_share == pytest.approx(0.7, abs=0.01)
    assert "start-up-bound" in [finding.bottleneck for finding in seen.findings]


def test_more_threads_than_cores_under_pressure_is_oversubscribed() -> None:
    crowded = Reading(cpu_pressure_share=0.6, steal_share=0.0, load_before=9.0)
    run = make_run([make_window(0, 1.0, 100, forward=0.9)], reading=crowded)
    seen = explain(run.windows, make_facts(make_loader(workers=8), threads=8), run)
    assert "oversubscribed" in [finding.bottleneck for finding in seen.findings]


def test_no_step_is_said_with_what_was_seen_instead() -> None:
    seen = explain([], make_facts(loaders=(), training_loader=None), make_run())
    assert seen.findings[0].bottleneck == "unobserved"
    cut_short = make_run(outcome="failed", cause="killed at the wall limit of 60 s")
    seen = explain([], make_facts(loaders=(), training_loader=None), cut_short)
    assert seen.findings[0].evidence.endswith("wall limit of 60 s: give a larger --budget")
    assert "no optimizer made a step" in seen.findings[0].evidence
    silent = explain([], make_facts(), make_run(processes_observed=0))
    assert "-I, -S or -E" in silent.findings[0].evidence


def test_line_reads_as_promised() -> None:
    facts = make_facts(make_loader(workers=4), cores=16)
    windows = [make_window(0, 2.12, 100, steps=10, wait=1.41, forward=0.3, backward=0.32)]
    line = one_line(explain(windows, facts), facts, "train.py")
    assert line.startswith("after 10 steps: a step is 212 ms = 141 waiting for data + 62 model")
    assert "4 workers on 16 cores" in line
    assert line.endswith("next: halftime tune train.py")


def spoken_at(step_seconds: float, first_seconds: float = 0.5) -> float:
    """Seconds after the first step at which the first diagnosis is there, on a virtual clock."""
    first = FirstDiagnosis(MACHINE, "train.py")
    events = [
        {"event": "hello", "process": "1", "rank": -1},
        {"event": "imported", "framework": "torch", "version": "2", "process": "1"},
        {"event": "training", "loader": 0, "time": 100.0, "process": "1"},
    ]
    for event in events:
        assert first.hear(event) is None
    now = 100.0
    while True:
        seconds = max(first_seconds if now == 100.0 else 0.5, step_seconds)
        steps = (
            max(int(seconds / step_seconds), 1)
            if seconds < first_seconds or first_seconds == 0.5
            else 1
        )
        event = {
            "event": "window", "process": "1", "start": now, "end": now + seconds, "steps": steps,
            "samples": steps * 8, "updates": steps, "wait": 0.1 * seconds, "forward": 0.0,
            "backward": 0.0, "optimizer": 0.0, "evaluation": 0.0, "durations": [], "losses": [],
            "peak_bytes": 0,
        }  # fmt: skip
        now += seconds
        if first.hear(event) is not None:
            return now - 100.0


@pytest.mark.parametrize("step_seconds", [0.0007, 0.2, 3.0, 14.0])
def test_first_diagnosis_is_there_within_30_seconds(step_seconds: float) -> None:
    assert spoken_at(step_seconds) <= 30.0


def test_first_diagnosis_waits_for_more_than_a_first_step_that_was_traced() -> None:
    assert spoken_at(0.1, first_seconds=17.5) > 17.5


def test_first_diagnosis_is_given_once_and_at_the_end_of_a_short_run() -> None:
    first = FirstDiagnosis(MACHINE, "train.py")
    window = {
        "event": "window", "process": "1", "start": 0.0, "end": 1.0, "steps": 5, "samples": 50,
        "updates": 5, "wait": 0.5, "forward": 0.2, "backward": 0.2, "optimizer": 0.0,
        "evaluation": 0.0, "durations": [], "losses": [], "peak_bytes": 0,
    }  # fmt: skip
    assert first.hear(window) is None
    assert first.hear({"event": "end", "process": "1", "reason": "exit"}) is not None
    assert first.hear({"event": "end", "process": "1", "reason": "exit"}) is None


def test_step_whose_fetching_cannot_be_replayed_is_not_told_apart() -> None:
    loader = make_loader(kind="arrays in memory")
    facts = make_facts(loader, framework="keras", backend="tensorflow")
    diagnosis = explain([make_window(0, 1.0, 100, forward=1.0)], facts)
    assert any("arrays in memory cannot be replayed" in note for note in diagnosis.notes)
    assert "fetching of its batch included" in diagnosis.findings[0].evidence
    assert "a replay will tell" not in one_line(diagnosis, facts, "train.py")


def test_forward_pass_that_nobody_sees_is_not_called_python_alone() -> None:
    facts = make_facts(roots=())
    seen = explain([make_window(0, 1.0, 100, backward=0.4, optimizer=0.1)], facts)
    host = next(finding for finding in seen.findings if finding.bottleneck == "host-bound")
    assert "and its forward pass" in host.evidence
    arithmetic = next(ceiling for ceiling in seen.ceilings if ceiling.family == "arithmetic")
    assert arithmetic.factor > 10
    assert any("forward pass takes is not known" in note for note in seen.notes)


def test_only_what_acts_on_this_device_is_named() -> None:
    windows = [make_window(0, 1.0, 100, wait=0.6, forward=0.2, backward=0.2)]
    on_cpu = explain(windows, make_facts()).findings[0].ideas
    on_gpu = explain(windows, make_facts(device="cuda")).findings[0].ideas
    assert set(on_gpu) - set(on_cpu) == {"pinned_memory", "device_data"}


def on_a_gpu(computing: float, copying: float = 0.0, **window: float) -> Diagnosis:
    """A hundred steps of 10 ms, by what a trace tells of one. computing, copying: milliseconds."""
    step = DeviceStep(computing_seconds=computing / 1e3, copying_seconds=copying / 1e3, kernels=50)
    facts = make_facts(device="cuda", device_step=step)
    return explain([make_window(0, 1.0, 1000, **window)], facts)


def test_gpu_is_idle_between_its_kernels_whatever_device_events_say() -> None:
    seen = on_a_gpu(2.0, forward=0.5, backward=0.5)
    assert seen.idle_share == pytest.approx(0.8)
    assert seen.findings[0].bottleneck == "host-bound"
    assert "50 kernels of 40.0 µs in a step of 10 ms" in seen.findings[0].evidence
    compiled = make_candidate("compilation", numerics="rounding", mode="default")
    assert ceiling_of(compiled, seen) > 10


def test_free_data_wins_nothing_that_a_gpu_computes_meanwhile() -> None:
    seen = on_a_gpu(9.0, wait=0.9)
    data = next(ceiling for ceiling in seen.ceilings if ceiling.family == "data")
    assert data.factor == pytest.approx(1 / 0.9)
    assert seen.findings[0].bottleneck == "compute-bound"


def test_copies_that_hold_up_a_gpu_are_told_apart_from_loading() -> None:
    seen = on_a_gpu(4.0, copying=5.0)
    assert seen.findings[0].bottleneck == "data-bound"
    assert "copying while no kernel runs" in seen.findings[0].evidence


def test_first_windows_that_compile_are_no_part_of_a_step() -> None:
    windows = [make_window(0, 60.0, 10), *(make_window(60 + i, 1.0, 1000) for i in range(6))]
    assert explain(windows, make_facts()).step_seconds == pytest.approx(0.01)
