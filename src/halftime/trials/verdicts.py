"""What may be said of an arm after a stage (measurement.md §4)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..measure.steady import (
    ENOUGH_SECONDS,
    ENOUGH_WINDOWS,
    break_even_samples,
    is_short,
)
from ..records import Candidate, Diagnosis, Proof, Rate, Run, Stage, Verdict, VerdictWord
from .blocks import Trial
from .candidates import ceiling_of
from .execute import BASELINE
from .speedup import compare, half_width

_MOST_DRIFT = 0.03


def conclude(trial: Trial, stage: Stage, proof: Proof | None, diagnosis: Diagnosis) -> Verdict:
    """What the blocks of an arm allow to say."""
    if trial.failure is not None:
        return verdict_of(trial.candidate, trial.failure, stage, proof, diagnosis)
    comparison = trial.comparison()
    if comparison is None:
        said: tuple[VerdictWord, str] = ("inconclusive", "fewer than two blocks")
        return verdict_of(trial.candidate, said, stage, proof, diagnosis)
    bases, arms = trial.rates()
    moves = unsettled(bases) or unsettled(arms)
    word, reason = comparison.word, ""
    if proof is not None and proof.status == "failed":
        word = "parity failed"
    elif stage == "confirm" and not trial.length.full and (unfit := _unfit(arms, moves)):
        word, reason = "inconclusive", unfit
    elif word == "inconclusive":
        reason = (
            f"this machine resolves ≥ {comparison.resolvable:.1%} with "
            f"{len(comparison.log_ratios)} blocks"
        )
    return replace(
        verdict_of(trial.candidate, (word, reason), stage, proof, diagnosis),
        comparison=comparison,
        rate=None if moves else _middle(arms),
        break_even_samples=None if moves else break_even_samples(_middle(bases), _middle(arms)),
        run_seconds=_run_seconds(trial, trial.arms, [arm for _, arm in trial.times()]),
        peak_bytes=max(run.memory_bytes for run in trial.arms),
    )


def summary_of(trial: Trial, diagnosis: Diagnosis) -> Verdict:
    """The baseline's own row beside an arm: its time, rate and memory."""
    said: tuple[VerdictWord, str] = ("same speed", "")
    runs, (rates, _) = trial.bases, trial.rates()
    return replace(
        verdict_of(BASELINE, said, "confirm", None, diagnosis),
        rate=None if unsettled(rates) else _middle(rates),
        run_seconds=_run_seconds(trial, runs, [base for base, _ in trial.times()]),
        peak_bytes=max(run.memory_bytes for run in runs),
    )


def _run_seconds(trial: Trial, runs: Sequence[Run], times: Sequence[float]) -> float:
    """Of a run of the user's length; of a bounded one where that length is not known."""
    length = trial.length
    known = length.full or length.user_samples is not None
    return statistics.fmean(times if known else [run.wall_seconds for run in runs])


def exploratory(trial: Trial, diagnosis: Diagnosis) -> Verdict:
    """One run an arm: a ratio to look at, and no claim."""
    if trial.failure is not None:
        return verdict_of(trial.candidate, trial.failure, "screen", None, diagnosis)
    [(base, arm)] = trial.times()
    said: tuple[VerdictWord, str] = ("inconclusive", f"{base / arm:.2f}× in one run, no claim")
    return replace(
        verdict_of(trial.candidate, said, "screen", None, diagnosis),
        run_seconds=_run_seconds(trial, trial.arms, [arm]),
        peak_bytes=trial.arms[0].memory_bytes,
    )


def verdict_of(
    candidate: Candidate,
    said: tuple[VerdictWord, str],
    stage: Stage,
    proof: Proof | None,
    diagnosis: Diagnosis,
) -> Verdict:
    """A verdict without blocks: why an arm has none."""
    ceiling = ceiling_of(candidate, diagnosis)
    return Verdict(
        candidate=candidate,
        word=said[0],
        reason=said[1],
        stage=stage,
        comparison=None,
        proof=proof,
        rate=None,
        run_seconds=None,
        peak_bytes=None,
        predicted_ceiling=ceiling if math.isfinite(ceiling) else None,
    )


def ranked(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those that are faster, the fastest first as far as their blocks can tell.

    verdicts: in the order that was chosen before these blocks were run. It stands where the blocks
    cannot tell two apart: the luckiest of several arms is not the fastest.
    """
    left = [v for v in verdicts if v.word == "faster" and v.comparison is not None]
    found = []
    while left:
        first = left[0]
        for other in left[1:]:
            if _is_ahead(other, first):
                first = other
        left.remove(first)
        found.append(first)
    return found


def _is_ahead(one: Verdict, other: Verdict) -> bool:
    """Whether an arm is faster than another in the blocks that both stand in."""
    ones, others = (v.comparison.log_ratios if v.comparison else () for v in (one, other))
    if len(ones) != len(others):
        return False
    return compare([a - b for a, b in zip(ones, others, strict=True)]).low > 1


def unsettled(rates: Sequence[Rate]) -> str:
    """Why no steady state of an arm may be claimed; '' where its runs settle.

    rates: of the arm's runs. On a shared machine a single run drifts with its neighbours, to
    either side, while a trend of the arm's own comes back in every run: an arm is not steady where
    the mean drift of its runs is over 3 % by its 95 % interval, or where most runs show no end of
    their warm-up.
    """
    if not rates:
        return "no step was counted"
    if sum(rate.cut_at_edge for rate in rates) > len(rates) / 2:
        return "its warm-up did not end within a window"
    drifts = [rate.drift for rate in rates]
    mean = statistics.fmean(drifts)
    doubt = half_width(statistics.stdev(drifts), len(drifts)) if len(drifts) > 1 else 0.0
    if abs(mean) - doubt > _MOST_DRIFT:
        return f"over a window its time for a sample moved by {mean:+.0%}"
    return ""


def _unfit(rates: Sequence[Rate], moves: str) -> str:
    """Why bounded windows cannot carry a claim; '' where they can."""
    if moves:
        return (
            f"no steady state: {moves}; whole runs can tell, with a short form by --trial-args "
            "or a --budget of twenty runs"
        )
    rate = _middle(rates)
    if is_short(rate):
        return (
            f"its runs kept {rate.kept_seconds:.1f} s in {rate.kept_windows} windows, and "
            f"{ENOUGH_SECONDS:.0f} s in {ENOUGH_WINDOWS} are needed: give a larger --budget"
        )
    return ""


def _middle(rates: Sequence[Rate]) -> Rate:
    return sorted(rates, key=lambda rate: rate.seconds_per_sample)[len(rates) // 2]
