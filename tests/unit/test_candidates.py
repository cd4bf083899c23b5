"""Which techniques are tried, in which order, and which go together."""

from __future__ import annotations

import pytest

from halftime.measure.diagnose import explain
from halftime.records import Brake
from halftime.trials.candidates import ceiling_of, propose, techniques
from halftime.trials.schedule import arms_within_budget, random_block
from halftime.trials.stacking import stack, stacks_on, worth_it_beside
from tests.conftest import (
    make_candidate,
    make_diagnosis,
    make_facts,
    make_loader,
    make_root,
    make_window,
)


def reasons(facts: object, **shares: float) -> dict[str, str]:
    _, refused = propose(facts, make_diagnosis(facts, **shares), (), ())  # type: ignore[arg-type]
    return {refusal.technique: refusal.reason for refusal in refused}


def test_what_usually_wins_comes_before_what_could_win_more() -> None:
    facts = make_facts(threads=2)
    diagnosis = make_diagnosis(facts, wait=0.45, forward=0.3, backward=0.2)
    candidates, _ = propose(facts, diagnosis, (), ())
    names = [candidate.name for candidate in candidates]
    assert names[0] == "store"
    assert names.index("mixed_precision") < names.index("threads(1)")
    of_data, of_arithmetic = (
        ceiling_of(make_candidate(n), diagnosis) for n in ("store", "threads")
    )
    assert of_data < of_arithmetic


def test_family_that_cannot_win_two_percent_is_not_tried() -> None:
    facts = make_facts(threads=2)
    diagnosis = explain([make_window(0, 1.0, 100, wait=0.01, forward=0.99)], facts)
    candidates, refused = propose(facts, diagnosis, (), ())
    assert not {"store", "workers", "prefetch"} & {c.name for c in candidates}
    assert any("not worth a trial" in refusal.reason for refusal in refused)


def test_small_family_is_tried_again_once_the_bottleneck_has_moved() -> None:
    facts = make_facts()
    diagnosis = explain([make_window(0, 1.0, 100, wait=0.015, forward=0.985)], facts)
    winner, small = make_candidate("mixed_precision", numerics="rounding"), ("store", "prefetch")
    assert worth_it_beside(winner, 1.1, facts, diagnosis, small) == []
    again = worth_it_beside(winner, 2.0, facts, diagnosis, small)
    assert [c.name for c in again] == ["mixed_precision + store", "mixed_precision + prefetch"]


def test_brake_is_tried_whatever_its_share() -> None:
    brake = Brake(name="anomaly detection", place="train.py:3", times_per_step=1.0)
    candidates, _ = propose(make_facts(brakes=(brake,)), make_diagnosis(wait=0.9), (), ())
    assert "brakes" in [candidate.name for candidate in candidates]


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (make_loader(deterministic=False, randomness="a random transform"), "a random transform"),
        (make_loader(deterministic=None), "not known to be deterministic"),
        (make_loader(iterable=True), "IterableDataset"),
    ],
)
def test_store_refuses_what_it_cannot_keep(loader: object, said: str) -> None:
    assert said in reasons(make_facts(loader), wait=0.9)["store"]  # type: ignore[arg-type]


def test_workers_are_refused_where_an_iterable_would_repeat_its_data() -> None:
    assert "once a worker" in reasons(make_facts(make_loader(iterable=True)), wait=0.9)["workers"]


def test_workers_change_draws_where_samples_are_random() -> None:
    facts = make_facts(make_loader(deterministic=False))
    candidates, _ = propose(facts, make_diagnosis(facts, wait=0.9), ("workers",), ())
    assert {candidate.numerics for candidate in candidates} == {"draws"}


def test_fewer_workers_are_tried_too() -> None:
    facts = make_facts(make_loader(workers=4), cores=4)
    candidates, _ = propose(facts, make_diagnosis(facts, wait=0.5), ("workers",), ())
    assert "workers(0)" in [candidate.name for candidate in candidates]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"bfloat16_units": False}, "no bfloat16 units"),
        ({"already_on": ("mixed_precision",)}, "already on"),
        (
            {"roots": (make_root(last_operations=("AddmmBackward0", "SigmoidBackward0")),)},
            "saturates",
        ),
        ({"roots": (make_root(calls_per_update=100.0),)}, "called 100 times"),
        ({"roots": ()}, "no module was seen"),
    ],
)
def test_mixed_precision_is_refused_where_it_would_harm(more: dict[str, object], said: str) -> None:
    assert said in reasons(make_facts(**more), forward=0.5)["mixed_precision"]


def test_gpu_without_bfloat16_gets_float16_in_a_loop_of_the_scripts_own() -> None:
    gpu = {"device": "cuda", "device_name": "Tesla T4", "bfloat16_units": False}
    facts = make_facts(**gpu)
    candidates, _ = propose(facts, make_diagnosis(facts, forward=0.8), ("mixed_precision",), ())
    assert candidates[0].switches[0].settings["dtype"] == "float16"
    assert "scales float16" in reasons(make_facts(trainer="lightning", **gpu))["mixed_precision"]


def test_store_and_workers_exclude_each_other() -> None:
    assert stack(make_candidate("store"), make_candidate("workers", count=2)) is None
    assert stack(make_candidate("store"), make_candidate("prefetch")) is not None


def test_stack_needs_the_strictest_proof_of_its_parts() -> None:
    both = stack(make_candidate("store"), make_candidate("mixed_precision", numerics="rounding"))
    assert both is not None
    assert both.numerics == "rounding"
    assert both.name == "store + mixed_precision"


def test_stacks_leave_out_what_conflicts_with_the_winner() -> None:
    others = [make_candidate("workers", count=1), make_candidate("threads", count=1)]
    assert [s.name for s in stacks_on(make_candidate("store"), others)] == ["store + threads(1)"]


def test_only_and_without_take_short_names() -> None:
    facts = make_facts()
    only, _ = propose(facts, make_diagnosis(), ("cache",), ())
    assert [candidate.name for candidate in only] == ["store"]
    without, _ = propose(facts, make_diagnosis(), (), ("cache",))
    assert "store" not in [candidate.name for candidate in without]


def test_ceiling_of_a_stack_adds_what_its_families_save() -> None:
    diagnosis = make_diagnosis(wait=0.5, forward=0.3, backward=0.1, optimizer=0.0)
    both = make_candidate("store", "threads")
    assert ceiling_of(both, diagnosis) == pytest.approx(1 / (1 - 0.5 - 0.4), rel=1e-6)


def test_every_technique_says_what_an_idea_must_say() -> None:
    for name, technique in techniques(make_facts()).items():
        idea = technique.IDEA
        assert idea.name == name
        assert all((idea.changes, idea.helps_when, idea.may_change, idea.needs, idea.source))


def test_block_has_every_arm_once_in_an_order_fixed_by_the_study() -> None:
    arms = [make_candidate("store"), make_candidate("threads"), make_candidate("prefetch")]
    orders = {tuple(a.name for a in random_block(arms, 7, "screen", b)) for b in range(40)}
    assert all(sorted(order) == ["prefetch", "store", "threads"] for order in orders)
    assert len(orders) == 6
    again = random_block(arms, 7, "screen", 3)
    assert again == random_block(arms, 7, "screen", 3)


def test_budget_drops_arms_by_their_ceilings_and_never_blocks() -> None:
    arms = [make_candidate("store"), make_candidate("threads"), make_candidate("prefetch")]
    kept, dropped = arms_within_budget(
        arms, [3.0, 1.1, 2.0], run_seconds=10, confirm_seconds=80, left_seconds=175
    )
    assert [arm.name for arm in kept] == ["store", "prefetch"]
    assert [arm.name for arm in dropped] == ["threads"]
    assert arms_within_budget(arms, [3.0, 1.1, 2.0], 10, 80, left_seconds=100)[0] == []
