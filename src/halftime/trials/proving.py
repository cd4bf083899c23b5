"""The proof of a confirmed arm: what was looked at before, and the test over seeds (§5)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..records import Candidate, Numerics, Proof, Run
from . import parity
from .blocks import Trial
from .execute import BASELINE, Executor, Task
from .metric import Margin, Metric, find_metric, value_of
from .timing import Length

_FIRST_PARITY_SEED = 1000
_LAST_QUARTER = "the training loss over the last quarter of the window"

Pair = tuple[Run, Run]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the proofs are judged by, fixed before the first screen block."""

    margin: Margin
    metric: Metric | None
    """None: no held-out metric was found, or trials are bounded."""

    def describe(self) -> str:
        unit = {
            "default": "0.5 pp of a share, 1 % of a loss",
            "pp": f"{self.margin.value * 100:g} pp",
        }
        margin = unit.get(self.margin.unit, f"{self.margin.value * 100:g} % relative")
        metric = self.metric.describe() if self.metric else "no held-out metric"
        return f"margin {margin}; {metric}"


def settle_terms(pilots: Sequence[Run], margin: Margin, asked: str | None, length: Length) -> Terms:
    """Find the metric in the pilot runs, before anything is compared."""
    return Terms(margin=margin, metric=find_metric(pilots, asked) if length.full else None)


def has_a_test(terms: Terms, pilots: Sequence[Run], length: Length) -> bool:
    """Whether an arm that rounds could be proven on this script at all, as the pilot shows."""
    if not length.full:
        return True  # by the training loss
    if terms.metric is None:
        return False
    values = [value_of(terms.metric, run) for run in pilots]
    known = [value for value in values if value is not None]
    return bool(known) and not _too_coarse(terms, terms.margin.absolute(terms.metric, known))


def prove(executor: Executor, trial: Trial, first: Proof, terms: Terms) -> Proof:
    """The cheapest sufficient proof of a confirmed arm.

    first: what the preflight showed. More seeds are run while the budget has room for them.
    """
    if first.status == "failed":
        return first
    numerics = trial.candidate.numerics
    if numerics == "exact":
        return _prove_exact(trial, first)
    length = trial.length
    pairs = _enough_pairs(executor, trial)
    evidence = list(first.evidence)
    unsound = _unsound(numerics, pairs, evidence)
    if unsound is not None:
        return unsound
    if len(pairs) < parity.FEWEST_SEEDS:
        missing = f"needs {parity.FEWEST_SEEDS} seeds, the budget had {len(pairs)}"
        price = (parity.FEWEST_SEEDS - len(pairs)) * _seconds_of_a_pair(trial)
        unproven = parity.not_proven(numerics, evidence, missing)
        return replace(unproven, missing_seconds=price)
    if not any(base.losses for base, _ in pairs):
        return parity.not_proven(numerics, evidence, "no loss was captured")
    if len({base.losses[:1] for base, _ in pairs}) == 1:
        missing = "all seeds gave the same first loss: the seed offset has no effect on this script"
        return parity.not_proven(numerics, evidence, missing)
    curves = [parity.loss_curve(base) for base, _ in pairs]
    inside, said = parity.inside_envelope(curves, parity.loss_curve(pairs[0][1]))
    evidence.append(said)
    if not inside and numerics != "training":  # another training may well go another way
        return parity.not_proven(numerics, evidence, said)
    if numerics == "draws":
        said = "the same samples and transforms, other random numbers"
        return _proven(pairs, length, numerics, [*evidence, said])
    if length.full:
        looked = _look_at_held_out(executor)
        failed = next((run.cause for run in looked if run.outcome == "failed"), None)
        if failed is not None:
            missing = f"the held-out set could not be looked at: {failed}"
            return parity.not_proven(numerics, evidence, missing)
        one, other = (run.evaluation_fingerprints for run in looked)
        if one != other:
            missing = "the held-out set changes with the seed, so runs cannot be paired"
            return parity.not_proven(numerics, evidence, missing)
        if not one:
            evidence.append("nothing was seen of the held-out set: it is taken as the same")
    return _prove_by_test(executor, trial.candidate, pairs, evidence, terms, length)


def _unsound(numerics: Numerics, pairs: Sequence[Pair], evidence: Sequence[str]) -> Proof | None:
    """Why no test is needed of these pairs of seeds; None where they can be tested."""
    for base, arm in pairs:
        if base.outcome == "failed":
            missing = f"the baseline itself fails under another seed: {base.cause}"
            return parity.not_proven(numerics, evidence, missing)
        if arm.outcome == "failed":
            return parity.failed(numerics, evidence, f"fails under another seed: {arm.cause}")
        if arm.nonfinite:
            return parity.failed(numerics, evidence, "a loss is NaN or infinite")
    if not {arm.checkpoints for _, arm in pairs} <= {base.checkpoints for base, _ in pairs}:
        return parity.failed(numerics, evidence, "the checkpoints have other keys")
    return None


def _prove_exact(trial: Trial, first: Proof) -> Proof:
    """Bytes were equal in the witness; the losses of the timed blocks are the second witness.

    Where the baseline does not reproduce itself, that was one with deterministic kernels.
    """
    if not first.reproducible:
        return first
    for base, arm in trial.pairs:
        equal, said = parity.same_losses(base.losses, arm.losses)
        if not equal:
            return parity.not_proven("exact", first.evidence, f"in the timed blocks {said}")
    if not first.holds:
        return first
    said = f"losses equal, bit for bit, in {len(trial.pairs)} timed blocks"
    return replace(first, evidence=(*first.evidence, said))


def _proven(pairs: Sequence[Pair], length: Length, numerics: str, evidence: Sequence[str]) -> Proof:
    whole = length.full and not length.short_form
    return Proof(
        status="proven at full length" if whole else "proven on the first N samples",
        samples=0 if whole else pairs[0][0].samples,
        numerics=numerics,  # type: ignore[arg-type]  # of a Switch, hence one of the four
        evidence=tuple(evidence),
        missing="",
    )


def _enough_pairs(executor: Executor, trial: Trial) -> list[Pair]:
    """Pairs of runs with different seeds: full blocks serve; bounded ones kept one seed."""
    length = trial.length
    pairs = list(trial.pairs) if length.full else []
    a_pair = _seconds_of_a_pair(trial)
    while len(pairs) < parity.FEWEST_SEEDS and executor.left_seconds >= a_pair:
        wanted = parity.FEWEST_SEEDS - len(pairs)
        pairs.append(_another_pair(executor, trial.candidate, len(pairs), wanted, length))
    return pairs


def _seconds_of_a_pair(trial: Trial) -> float:
    return max(sum(run.wall_seconds for run in pair) for pair in trial.pairs)


def _another_pair(
    executor: Executor, candidate: Candidate, number: int, wanted: int, length: Length
) -> Pair:
    """An untimed pair with a seed of its own.

    wanted: how many pairs are. They are made side by side where GPUs are free for them, and asked
    for one by one all the same, so that the proof does not depend on how many GPUs there were.
    """
    tasks = [
        Task(
            stage="parity",
            candidate=arm,
            seed=_FIRST_PARITY_SEED + pair,
            block=pair,
            stop_after=length.stop_after,
        )
        for pair in range(number, number + wanted)
        for arm in (BASELINE, candidate)
    ]
    if not all(executor.study.knows(task.key) for task in tasks[:2]):
        gpus = executor.gpus_for(len(tasks))
        if len(gpus) >= 2:
            executor.run_side_by_side(tasks[: len(gpus) // 2 * 2], gpus)
    return executor.run(tasks[0]), executor.run(tasks[1])


def _look_at_held_out(executor: Executor) -> list[Run]:
    """Two untimed runs with different seeds that sum up what evaluation is fed."""
    return [
        executor.run(
            Task(
                stage="held-out",
                candidate=BASELINE,
                seed=seed,
                block=seed,
                fingerprint_evaluation=True,
            )
        )
        for seed in range(2)
    ]


def _prove_by_test(
    executor: Executor,
    candidate: Candidate,
    pairs: list[Pair],
    evidence: list[str],
    terms: Terms,
    length: Length,
) -> Proof:
    """The paired non-inferiority test, with more seeds while the budget has room for them."""
    numerics = candidate.numerics
    if length.full and terms.metric is None:
        missing = "no held-out metric was found; name one with --metric NAME=REGEX"
        return parity.not_proven(numerics, evidence, missing)
    while True:
        qualities = [(_quality(terms, b, length), _quality(terms, a, length)) for b, a in pairs]
        known = [(b, a) for b, a in qualities if b is not None and a is not None]
        if len(known) < len(qualities):
            return parity.not_proven(numerics, evidence, "a run did not report the metric")
        baseline, arm = [b for b, _ in known], [a for _, a in known]
        margin = _margin(terms, baseline)
        unfit = _unfit(terms, baseline, margin)
        if unfit:
            return parity.not_proven(numerics, evidence, unfit)
        higher = terms.metric.higher_is_better if terms.metric is not None else False
        test = parity.non_inferior(arm, baseline, margin, higher)
        cost = sum(run.wall_seconds for run in pairs[-1])
        if test.seeds >= test.needed or executor.left_seconds < cost:
            break
        wanted = test.needed - test.seeds
        pairs.append(_another_pair(executor, candidate, len(pairs), wanted, length))
        unsound = _unsound(numerics, pairs, evidence)
        if unsound is not None:
            return unsound
    name = terms.metric.describe() if terms.metric is not None else _LAST_QUARTER
    proof = replace(
        _proven(pairs, length, numerics, [*evidence, f"{name}: {test.words}"]),
        metric=name,
        margin=margin,
        p_value=test.p_value,
        seeds=test.seeds,
    )
    if test.passed:
        return proof
    if test.seeds < test.needed:
        price = (test.needed - test.seeds) * cost
        missing = f"needs {test.needed} seeds"
        return replace(proof, status="not proven", missing=missing, missing_seconds=price)
    return replace(proof, status="failed", missing=test.words)


def _unfit(terms: Terms, baseline: Sequence[float], margin: float) -> str:
    """Why this metric cannot prove anything; '' where it can."""
    if terms.metric is not None and _too_coarse(terms, margin):
        return (
            f"the metric's resolution of {terms.metric.resolution:.2g} is coarser than a quarter "
            f"of the margin of {margin:.2g}"
        )
    if len(set(baseline)) == 1:
        return "the metric does not vary over seeds"
    return ""


def _too_coarse(terms: Terms, margin: float) -> bool:
    return terms.metric is not None and terms.metric.resolution > margin / 4


def _quality(terms: Terms, run: Run, length: Length) -> float | None:
    """The held-out metric of a full run; of a bounded one the mean loss of its last quarter."""
    if length.full and terms.metric is not None:
        return value_of(terms.metric, run)
    losses = run.losses
    return statistics.fmean(losses[-max(len(losses) // 4, 1) :]) if losses else None


def mean_quality(terms: Terms, runs: Sequence[Run], length: Length) -> float | None:
    """The held-out metric, mean over runs; of bounded ones the loss of their last quarter."""
    values = [_quality(terms, run, length) for run in runs]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _margin(terms: Terms, baseline: Sequence[float]) -> float:
    if terms.metric is not None:
        return terms.margin.absolute(terms.metric, baseline)
    # Of a training loss, points of a share say nothing.
    relative = terms.margin.value if terms.margin.unit == "%" else 0.01
    return relative * abs(statistics.fmean(baseline))
