"""A few untimed steps of each arm: it runs, acts, and makes what the baseline makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..ideas import find_idea, keeps_samples
from ..records import Candidate, Facts, Proof, Rate, Run, VerdictWord
from . import parity
from .execute import BASELINE, Executor, Task

_UNLIKE_LOSSES = "the losses differ: is the baseline reproducible?"
_WITNESS_UPDATES = 20
_MOST_ACCUMULATED = 4
_BATCHES = parity.FEWEST_SERVED + 10
_SHORTEST_PASS, _LONGEST_PASS, _SHARE_OF_BUDGET = 30.0, 3600.0, 1 / 20


def witness(
    executor: Executor, candidate: Candidate, facts: Facts
) -> tuple[tuple[VerdictWord, str] | None, Proof]:
    """Why an arm leaves, if it does, and what is known of its proof."""
    whole, longest = _is_long(candidate), longest_pass(executor.budget_seconds)
    base = executor.run(_task(BASELINE, facts, whole, longest))
    run = executor.run(_task(candidate, facts, whole, longest))
    failure = failure_of(candidate, run)
    if failure is not None:
        return failure, parity.failed(candidate.numerics, [], failure[1])
    if base.outcome == "failed":
        missing = f"the baseline failed where it was looked at: {base.cause}"
        return None, parity.not_proven(candidate.numerics, [], missing)
    proof = _first_proof(candidate, base, run, facts)
    if proof.missing == _UNLIKE_LOSSES and executor.left_seconds > 3 * run.wall_seconds:
        tasks = [_task(arm, facts, whole, longest) for arm in (BASELINE, candidate)]
        proof = _by_deterministic_kernels(executor, tasks[0], tasks[1], base, proof)
    if proof.status == "failed":
        return ("parity failed", proof.missing), proof
    return None, proof


def failure_of(candidate: Candidate, run: Run) -> tuple[VerdictWord, str] | None:
    """Why a run of an arm says nothing of its speed; None where it does."""
    if run.outcome == "failed":
        return "failed", run.cause
    if run.nonfinite:
        return "failed", "nonfinite: a loss is NaN or infinite"
    for switch in candidate.switches:
        if switch.technique not in run.effects:
            reasons = [why for name, why in run.refused if name == switch.technique]
            return "no effect", reasons[0] if reasons else f"{switch.technique} did not take effect"
    return None


def longest_pass(budget_seconds: float) -> float:
    """How long a pass over a tf.data pipeline is drawn before the training, to compare it."""
    return min(max(_SHORTEST_PASS, budget_seconds * _SHARE_OF_BUDGET), _LONGEST_PASS)


def witness_seconds(
    candidates: Sequence[Candidate], facts: Facts, step_seconds: float, budget_seconds: float
) -> list[float]:
    """What the witness of the baseline takes, and that of each arm.

    The baseline is looked at as long as each kind of arm is.
    """
    longest = longest_pass(budget_seconds)
    takes = {whole: _look_seconds(facts, whole, step_seconds, longest) for whole in (True, False)}
    kinds = [_is_long(candidate) for candidate in candidates]
    return [sum(takes[kind] for kind in set(kinds)), *(takes[kind] for kind in kinds)]


def longest_witness(facts: Facts, rate: Rate | None, budget_seconds: float) -> float:
    """What the longest witness that an arm may take takes beyond the start."""
    step, longest = rate.mean_step_seconds if rate else 0.0, longest_pass(budget_seconds)
    return max(_look_seconds(facts, whole, step, longest) for whole in (True, False))


def _look_seconds(facts: Facts, whole: bool, step_seconds: float, longest: float) -> float:
    steps = _steps(facts, whole) * step_seconds
    return steps + (_drawn_seconds(facts, step_seconds, longest) if whole else 0.0)


def _drawn_seconds(facts: Facts, step_seconds: float, longest: float) -> float:
    """Of the batches of a tf.data pipeline that are drawn before the first step.

    Whole passes, since a store serves nothing before the second; every arm draws what the baseline
    does, since a shuffle gives each pass another order.
    """
    loader = facts.fed_by()
    if loader is None or loader.kind != "tf.data":
        return 0.0
    samples, size = loader.dataset_length, loader.batch_size
    a_pass = loader.batches or (math.ceil(samples / size) if samples and size else None)
    if a_pass is None:
        return 2 * longest
    times = max(2, math.ceil(_BATCHES / max(a_pass, 1)))
    return times * min(a_pass * step_seconds, longest)


def _steps(facts: Facts, whole: bool) -> int:
    cycle = _cycle(facts, whole)
    if cycle is not None and facts.kind_of_feed != "tf.data":
        return cycle + _BATCHES
    # A script may accumulate the gradients of several batches. Of tf.data, batches are drawn before
    # the first step, and an arm that accumulates is to make as many updates.
    of_script = max([1.0, *(root.calls_per_update for root in facts.roots)])
    an_update = of_script if cycle is None else max(of_script, _MOST_ACCUMULATED)
    return math.ceil(an_update) * (_WITNESS_UPDATES + 2)


def _cycle(facts: Facts, whole: bool) -> int | None:
    """The batches after which the sampler starts again; None where no batch is compared."""
    loader = facts.fed_by()
    if loader is None or loader.iterable or not whole:
        return None
    if _ends_passes_itself(facts):
        return loader.batches
    return min(_BATCHES, loader.batches or _BATCHES)


def _ends_passes_itself(facts: Facts) -> bool:
    """Whether passes are so short that a trainer that draws ahead, past their end, is left alone.

    Of an endless sampler it would have drawn some batches too many, and nobody knows how many.
    """
    loader = facts.fed_by()
    short = loader is not None and (loader.batches or math.inf) < 2 * _BATCHES
    return facts.fetches_inside and short


def _is_long(candidate: Candidate) -> bool:
    """Whether batches are compared, or so many updates that fewer of them show."""
    return _acts_on_data(candidate) or candidate.numerics == "training"


def _keeps_samples(candidate: Candidate) -> bool:
    return any(keeps_samples(switch.technique) for switch in candidate.switches)


def _acts_on_data(candidate: Candidate) -> bool:
    ideas = [find_idea(switch.technique) for switch in candidate.switches]
    return any(idea is not None and idea.family in ("data", "transfer") for idea in ideas)


def _task(candidate: Candidate, facts: Facts, whole: bool, longest: float) -> Task:
    """A short run that writes what is handed to the script and what it makes of it."""
    cycle = _cycle(facts, whole)
    return Task(
        stage="preflight" if whole else "first steps",
        candidate=candidate,
        seed=0,
        stop_after={"steps": _steps(facts, whole)},
        witness={
            "batches": cycle is not None,
            "longest_pass": longest,
            "cycle": None if _ends_passes_itself(facts) else cycle,
            "gradients": _WITNESS_UPDATES,
        },
    )


def _first_proof(candidate: Candidate, base: Run, run: Run, facts: Facts) -> Proof:
    """What the witness shows: exact arms are settled, others are rejected early or left open."""
    if not parity.shows_updates(base):
        missing = "the updates of the baseline itself could not be seen, so none can be compared"
        return parity.not_proven(candidate.numerics, [], missing)
    trains, how = parity.still_trains(base, run)
    if not trains:
        return parity.failed(candidate.numerics, [], how)
    evidence = [how]
    redraws = any(switch.numerics == "draws" for switch in candidate.switches)
    if _acts_on_data(candidate):
        loader, keeps = facts.training_loader or 0, _keeps_samples(candidate)
        equal, said = parity.same_batches(base, run, loader, keeps)
        evidence.append(said)
        if not equal and not redraws:
            if "differs" in said:
                return parity.failed(candidate.numerics, evidence, said)
            return parity.not_proven(candidate.numerics, evidence, said)
    if candidate.numerics == "exact":
        equal, said = parity.same_losses(base.losses, run.losses)
        evidence.append(said)
        if not equal:
            return parity.not_proven("exact", evidence, _UNLIKE_LOSSES)
        return Proof(status="exact", numerics="exact", evidence=tuple(evidence), missing="")
    if candidate.numerics == "training":  # other updates by intention: only seeds can tell
        return parity.not_proven("training", evidence, "the test over seeds")
    if redraws:  # the same samples under other random numbers have other gradients
        return parity.not_proven(candidate.numerics, evidence, "the test over seeds")
    share, said = parity.gradient_witness(base, run)
    evidence.append(said)
    draws = facts.random_layers or any(root.random_layers for root in facts.roots)
    if share is not None and share > 1 and not draws:
        return parity.failed(candidate.numerics, evidence, said)
    return parity.not_proven(candidate.numerics, evidence, "the test over seeds")


def _by_deterministic_kernels(
    executor: Executor, plain: Task, arm: Task, base: Run, proof: Proof
) -> Proof:
    """The second witness of an exact arm, where the baseline does not reproduce itself (§5).

    plain, arm: what was run of both. base: what the baseline gave.
    """
    again = executor.run(replace(plain, stage=f"{plain.stage} again"))
    if again.outcome == "failed":
        return proof
    if parity.same_losses(base.losses, again.losses)[0]:
        missing = "the losses differ, and those of the baseline come out the same each time"
        return replace(proof, missing=missing)
    stage = f"{plain.stage} with deterministic kernels"
    runs = [executor.run(replace(task, stage=stage, deterministic=True)) for task in (plain, arm)]
    failures = [failure_of(t.candidate, run) for t, run in zip((plain, arm), runs, strict=True)]
    failed = next((failure[1] for failure in failures if failure is not None), "")
    equal, said = parity.same_losses(runs[0].losses, runs[1].losses)
    if failed or not equal:
        missing = (
            f"the baseline does not reproduce itself; with deterministic kernels {failed or said}"
        )
        return replace(proof, missing=missing)
    said = f"the baseline does not reproduce itself; with deterministic kernels {said}"
    return Proof(
        status="exact", numerics="exact", evidence=(*proof.evidence, said), missing="",
        reproducible=False,
    )  # fmt: skip
