"""How a search splits its budget: what is tried leaves room for what must be shown."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halftime.records import Rate
from halftime.trials.blocks import Resolution, Trial
from halftime.trials.metric import Metric, parse_margin
from halftime.trials.observing import Seen
from halftime.trials.preflight import witness, witness_seconds
from halftime.trials.proving import Terms, has_a_test
from halftime.trials.schedule import affordable
from halftime.trials.search import Search
from halftime.trials.stacking import (
    all_that_won,
    hopeful_beside,
    promise,
    provable_first,
    stack,
)
from halftime.trials.timing import (
    Length,
    comparing_length,
    confirming_length,
    shortest_length,
)
from tests.conftest import (
    make_candidate,
    make_diagnosis,
    make_facts,
    make_loader,
    make_run,
    make_window,
)

RATE = Rate(
    fixed_seconds=3.0, seconds_per_sample=0.001, training_seconds_per_sample=0.001,
    cut_samples=0, kept_windows=20, kept_seconds=10.0,
    mean_step_seconds=0.01,
    drift=0.0, cut_at_edge=False,
)  # fmt: skip
ARMS = [make_candidate("store"), make_candidate("threads", count=1), make_candidate("prefetch")]


def search(left_seconds: float, run_seconds: float = 20.0, bounded: bool = False) -> Search:
    run = make_run([make_window(2.0, run_seconds - 2.0, 10_000)], training_start=2.0)
    facts = make_facts()
    bench: Any = SimpleNamespace(
        left_seconds=left_seconds,
        study=SimpleNamespace(spent=30.0),
        options=SimpleNamespace(budget_seconds=left_seconds),
    )
    samples = 6_000 if bounded else None
    length = Length(full=not bounded, window_samples=samples, user_samples=1e6)
    seen = Seen(
        run=run, facts=facts, diagnosis=make_diagnosis(facts, wait=0.75), rate=RATE, length=length
    )
    found = Search(bench=bench, seen=seen)
    found.resolution = Resolution(run_seconds=run_seconds, spread=0.02, smallest_gain=0.05)
    return found


def test_arms_that_would_eat_the_confirmation_are_not_preflighted() -> None:
    # A pilot of 60 s, four confirm blocks of 160 s, and for each arm 6.4 s for a preflight and
    # three screen blocks of 60 s; one arm more, since a preflight may end one.
    assert search(450.0).within_reach(ARMS) == ARMS
    tight = search(350.0)
    assert tight.within_reach(ARMS) == ARMS[:2]
    assert [refusal.technique for refusal in tight.refused] == ["prefetch"]


def pairs_of(ratio: float, blocks: int) -> Trial:
    """An arm that is `ratio` times as fast as the baseline in every block."""
    length = Length(full=True, window_samples=None, user_samples=None)
    base, arm = (make_run([make_window(0.0, t, 1000)], wall_seconds=t) for t in (10, 10 / ratio))
    return Trial(candidate=ARMS[0], length=length, pairs=[(base, arm)] * blocks)


def trials_of(**speedups: float) -> dict[str, Trial]:
    found = {}
    for name, speedup in speedups.items():
        arm = make_candidate(name, numerics="rounding")
        found[arm.name] = replace(pairs_of(speedup, 3), candidate=arm)
    return found


def test_arm_that_lost_its_first_block_is_given_up() -> None:
    lost, slightly = pairs_of(0.7, 1), pairs_of(0.95, 1)
    for trial in (lost, slightly):
        trial.leave_if_under(math.log(0.9))
    assert lost.failure == (
        "inconclusive", "0.70× in the first screening blocks: no more were spent on it"
    )  # fmt: skip
    assert slightly.failure is None


def test_what_a_screen_without_a_gain_left_of_the_budget_is_for_the_arms_that_come_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def screened(self: Search, arms: list[Any], stage: str, *_: Any) -> dict[str, Trial]:
        rounds.append([arm.name for arm in arms])
        self.bench.left_seconds -= 3 * 20.0 * (1 + len(arms))  # type: ignore[misc]
        self.screened.update(dict.fromkeys((arm.name for arm in arms), None))  # type: ignore[arg-type]
        return {arm.name: replace(pairs_of(gains[arm.name], 3), candidate=arm) for arm in arms}

    monkeypatch.setattr(Search, "_screen", screened)
    gains = {"store": 1.0, "threads(1)": 1.0, "prefetch": 1.0}
    # Runs of 20 s: three blocks of two arms, three of one, and four that confirm.
    enough = 180.0 + 120.0 + 160.0
    for left, gain, expected, refused in [
        (enough, 1.0, [["store", "threads(1)"], ["prefetch"]], []),
        (enough - 1.0, 1.0, [["store", "threads(1)"]], ["prefetch"]),
        (enough, 2.0, [["store", "threads(1)"]], ["prefetch"]),
    ]:
        found, rounds, gains["store"] = search(left), [], gain
        assert len(found.screen(ARMS)) == sum(map(len, rounds))
        assert rounds == expected
        assert [refusal.technique for refusal in found.refused] == refused


def test_everything_that_won_alone_is_one_stack() -> None:
    trials = trials_of(
        store=1.3, channels_last=1.2, mixed_precision=1.1, threads=1.01, workers=1.25
    )
    (whole,) = all_that_won(trials)
    # workers exclude the store, which is faster; one thread won nothing.
    assert whole.name == "store + channels_last + mixed_precision"
    assert promise(whole, trials) == pytest.approx(1.3 * 1.2 * 1.1)
    assert all_that_won(trials_of(store=1.3, threads=1.01)) == []


def test_what_can_be_proven_is_confirmed_before_what_cannot() -> None:
    store, fused = make_candidate("store"), make_candidate("fused_optimizer", numerics="rounding")
    both = stack(store, fused)
    assert both is not None
    trials = {"store": replace(pairs_of(1.14, 3), candidate=store)}
    assert provable_first([both, fused], trials) == [store, both, fused]
    trials["store"] = replace(pairs_of(1.01, 3), candidate=store)
    assert provable_first([both, fused], trials) == [both, fused]
    assert provable_first([fused], trials) == [fused]
    # What rounds won the screen; what gained alone beside it can be proven.
    trials["prefetch"] = replace(pairs_of(1.2, 3), candidate=make_candidate("prefetch"))
    assert provable_first([fused], trials) == [make_candidate("prefetch"), fused]


@pytest.mark.parametrize(
    ("full", "resolution", "has"),
    [(True, 0.013, False), (True, 0.0001, True), (True, None, False), (False, None, True)],
)
def test_whether_an_arm_that_rounds_has_a_test_is_known_from_the_pilot(
    full: bool, resolution: float | None, has: bool
) -> None:
    metric = None
    if resolution is not None:
        metric = Metric(
            name="val_accuracy", source="the script's own metric function",
            higher_is_better=True, is_share=True, resolution=resolution,
        )  # fmt: skip
    terms = Terms(margin=parse_margin(None), metric=metric)
    pilots = [make_run([make_window(0, 1, 10)], reported_metrics=(("val_accuracy", 0.9),))]
    length = Length(full=full, window_samples=None if full else 100, user_samples=None)
    assert has_a_test(terms, pilots, length) is has


def test_arm_that_was_given_up_is_in_no_stack() -> None:
    trials = trials_of(store=1.3, threads=1.0, channels_last=1.0)
    winner, given_up, kept = (trial.candidate for trial in trials.values())
    trials[given_up.name].failure = ("inconclusive", "0.70× in the first screening blocks")
    stacks = hopeful_beside(winner, trials, [winner, given_up, kept])
    assert [stack.name for stack in stacks] == ["store + channels_last"]


def test_budget_without_room_for_one_arm_names_one_that_has() -> None:
    short = search(100.0)
    assert short.within_reach(ARMS) == []
    (note,) = short.notes
    assert note.startswith("the budget is too small for an answer: one run takes 20 s")
    assert "give at least --budget 8m" in note


def test_most_promising_arm_is_confirmed_where_none_can_be_screened() -> None:
    found = search(170.0)
    assert found.without_a_screen(ARMS) == [ARMS[0]]
    assert "store, the most promising, was confirmed alone" in found.notes[0]
    assert search(150.0).without_a_screen(ARMS) == []


def test_windows_of_an_arm_that_may_be_fast_are_long_enough_to_claim_by() -> None:
    # Free data would win four times: the baseline trains 60 s for the 15 of the arm.
    assert search(400.0, 9.0, bounded=True).without_a_screen(ARMS) == [ARMS[0]]
    assert search(250.0, 9.0, bounded=True).without_a_screen(ARMS) == []


def test_windows_take_what_the_budget_has_for_them() -> None:
    length = Length(full=False, window_samples=100, user_samples=None)

    def kept(left_seconds: float) -> float:
        found = confirming_length(length, RATE, 2.0, left_seconds).window_samples or 0
        return found * RATE.seconds_per_sample

    assert kept(math.inf) == pytest.approx(40.0)  # the arm keeps 20 s of 10 that are needed
    limited = kept(150.0)
    assert 15.0 < limited < 40.0
    assert 4 * (2 * RATE.fixed_seconds + limited * 1.5) == pytest.approx(0.95 * 150.0, rel=0.01)
    assert kept(50.0) == pytest.approx(15.0)  # never less than the baseline's own


def test_windows_leave_room_for_a_proof_a_fill_and_every_arm() -> None:
    length = Length(full=False, window_samples=100, user_samples=None)

    def seconds(of: Length) -> float:
        return (of.window_samples or 0) * RATE.seconds_per_sample

    # Four pairs and three of a proof: each starts twice, in 3 s; an arm is twice as fast.
    window = seconds(confirming_length(length, RATE, 2.0, 400.0, 7))
    assert 7 * (2 * 3 + window * 1.5) == pytest.approx(0.95 * 400.0, rel=0.01)
    # Where there is no room for both, the claim comes first.
    assert seconds(confirming_length(length, RATE, 2.0, 230.0, 7)) == pytest.approx(30.0)
    filled = seconds(confirming_length(length, RATE, 2.0, 200.0, fills=True))
    assert 4 * (2 * 3 + filled * 1.5) + 3 + filled == pytest.approx(0.95 * 200.0, rel=0.01)
    compared = seconds(comparing_length(length, RATE, 2.0, 800.0, runs=5))
    assert 4 * 5 * (3 + compared) == pytest.approx(0.95 * 800.0, rel=0.01)
    # Twenty steps of 2 s: more of them, where the arm is so fast that it keeps less than 10 s.
    slow = replace(RATE, kept_windows=5, seconds_per_sample=1.0)
    assert shortest_length(length, slow, 3.0).window_samples == 100  # never less than a screen's
    short = replace(length, window_samples=1)
    assert shortest_length(short, slow, 3.0).window_samples == 60
    assert shortest_length(short, slow, 5.0).window_samples == 75


def test_end_of_a_training_is_asked_for_no_longer_than_there_is_room() -> None:
    found = search(60.0, bounded=True)
    found.seen = replace(found.seen, length=replace(found.seen.length, user_samples=None))
    found.seen = replace(found.seen, run=make_run([make_window(2.0, 3.0, 1_000)]))
    asked: list[Any] = []
    ended = make_run([make_window(2.0, 7.0, 5_000)], outcome="window")

    def run(task: Any) -> Any:
        asked.append(task.stop_after)
        return ended

    found.bench.executor = SimpleNamespace(run=run, learn_limits=lambda seen, seconds: None)
    found._to_its_end_rather_than_none(ARMS[0])
    assert asked == [{"samples": 5_000}]  # 60 s are room for twelve runs of 5
    assert not found.seen.length.full


def test_arm_that_leaves_data_alone_is_witnessed_beside_a_baseline_as_short() -> None:
    facts = make_facts()
    asked: list[tuple[str, str, float, bool]] = []

    def run(task: Any) -> Any:
        asked.append((task.stage, task.candidate.name, task.stop_after["steps"],
                      task.witness["batches"]))  # fmt: skip
        return make_run([make_window(0.0, 1.0, 100)])

    executor: Any = SimpleNamespace(run=run, budget_seconds=600.0)
    for arm in (ARMS[0], ARMS[1]):
        witness(executor, arm, facts)
    assert asked == [
        ("preflight", "baseline", 310, True), ("preflight", "store", 310, True),
        ("first steps", "baseline", 22, False), ("first steps", "threads(1)", 22, False),
    ]  # fmt: skip
    assert witness_seconds(ARMS[:2], facts, 1.0, 600.0) == [332, 310, 22]


def test_batches_of_a_pipeline_are_drawn_as_long_as_the_budget_allows() -> None:
    loader = make_loader(kind="tf.data", batches=1000, batch_size=10)
    arms = [make_candidate("store"), make_candidate("parallel_map", count=2)]

    def seconds(budget: float) -> list[float]:
        return witness_seconds(arms, make_facts(loader), 0.1, budget)

    # 8.8 s of steps; a store needs two passes of 100 s, of which 30 s are drawn in ten minutes.
    assert seconds(600.0) == pytest.approx([8.8 + 60] * 3)
    assert seconds(7200.0) == pytest.approx([8.8 + 200] * 3)


@pytest.mark.parametrize(
    ("again", "kernels", "status", "words"),
    [
        (
            0.2,
            (0.1, 0.1),
            "exact",
            "does not reproduce itself; with deterministic kernels 1 losses",
        ),
        (0.2, (0.1, 0.3), "not proven", "with deterministic kernels loss 1 of 1 differs"),
        (0.0, (0.1, 0.1), "not proven", "those of the baseline come out the same each time"),
    ],
)
def test_exact_arm_of_a_training_that_does_not_reproduce_itself(
    tmp_path: Path, again: float, kernels: tuple[float, float], status: str, words: str
) -> None:
    moved = {"event": "gradients", "with_gradient": 4, "parameters": 4, "update_norm": 1.0}
    (tmp_path / "events-1.jsonl").write_text(json.dumps(moved) + "\n")
    of_baseline = {"first steps": 0.0, "first steps again": again}
    asked: list[str] = []

    def run(task: Any) -> Any:
        asked.append(task.stage)
        if task.deterministic:
            loss = kernels[bool(task.candidate.switches)]
        else:
            loss = 0.5 if task.candidate.switches else of_baseline[task.stage]
        effects = {"allocator": {}} if task.candidate.switches else {}
        window = make_window(0.0, 1.0, 100, losses=((0, 0, loss),))
        return make_run([window], effects=effects, folder=str(tmp_path))

    executor: Any = SimpleNamespace(run=run, budget_seconds=600.0, left_seconds=600.0)
    failure, proof = witness(executor, make_candidate("allocator"), make_facts())
    assert failure is None
    assert proof.status == status
    assert words in " ".join((*proof.evidence, proof.missing))
    assert proof.reproducible == (status != "exact")
    assert len(asked) == (3 if again == 0.0 else 5)


@pytest.mark.parametrize("arms", [[], ARMS])
def test_nothing_is_confirmed_of_nothing(arms: list[Any]) -> None:
    assert search(0.0).without_a_screen(arms) == []


def test_confirmation_of_a_fast_arm_is_charged_what_it_costs() -> None:
    # 65 s a baseline run, 16 s the arm's: six blocks fit in 500 s, and as many as are wanted.
    arms, blocks = affordable(ARMS[:1], ARMS[:1], 10, 65.0, 16.25, 500.0)
    assert (arms, blocks) == (ARMS[:1], 6)
    assert affordable(ARMS[:1], ARMS[:1], 10, 65.0, 65.0, 500.0)[1] == 0


@pytest.mark.parametrize(("outcome", "whole"), [("completed", True), ("window", False)])
def test_training_that_is_over_within_a_window_is_confirmed_by_whole_runs(
    outcome: str, whole: bool
) -> None:
    found = search(600.0, bounded=True)
    found.seen = replace(found.seen, length=replace(found.seen.length, user_samples=None))
    found.pilots = [make_run([make_window(2.0, 6.0, 6_000)])] * 3
    ended = make_run([make_window(2.0, 10.0, 12_000)], outcome=outcome)
    asked: list[Any] = []

    def run(task: Any) -> Any:
        asked.append(task)
        return ended

    found.bench.executor = SimpleNamespace(run=run, learn_limits=lambda seen, seconds: None)
    found.bench.options = SimpleNamespace(margin=None, metric=None)
    seen_already = replace(found.seen.length, window_samples=10_000)
    assert found._to_its_end(seen_already) is seen_already
    assert not asked, "the first look went on as far"
    window = replace(found.seen.length, window_samples=24_000)
    length = found._to_its_end(window)
    assert [task.stop_after for task in asked] == [{"samples": 24_000}]
    assert length.full is whole
    assert found.seen.length.full is whole
    assert found.pilots[-1] is ended if whole else len(found.pilots) == 3
    assert length.user_samples == (12_000 if whole else None)
