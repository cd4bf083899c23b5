"""What may be said of an arm after a stage (measurement.md §4)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from ..measure.steady import ENOUGH_SECONDS, ENOUGH_WINDOWS, is_short, steady_rate
from ..records import Candidate, Diagnosis, Proof, Rate, Run, Stage, Verdict, VerdictWord
from .blocks import Trial
from .candidates import ceiling_of
from .execute import BASELINE
from .timing import times_of


def conclude(trial: Trial, stage: Stage, proof: Proof | None, diagnosis: Diagnosis) -> Verdict:
    """What the blocks of an arm allow to say."""
    if trial.failure is not None:
        return verdict_of(trial.candidate, trial.failure, stage, proof, diagnosis)
    comparison = trial.comparison()
    if comparison is None:
        said: tuple[VerdictWord, str] = ("inconclusive", "fewer than two blocks")
        return verdict_of(trial.candidate, said, stage, proof, diagnosis)
    arms = [arm for _, arm in trial.pairs]
    rate = _middle_rate(arms)
    word, reason = comparison.word, ""
    if proof is not None and proof.status == "failed":
        word = "parity failed"
    elif stage == "confirm" and not trial.length.full and (unfit := _unfit(trial, rate)):
        word, reason = "inconclusive", unfit
    elif word == "inconclusive":
        reason = (
            f"this machine resolves ≥ {comparison.resolvable:.1%} with "
            f"{len(comparison.log_ratios)} blocks"
        )
    return replace(
        verdict_of(trial.candidate, (word, reason), stage, proof, diagnosis),
        comparison=comparison,
        rate=rate,
        run_seconds=statistics.fmean(arm.wall_seconds for arm in arms),
        peak_bytes=max(arm.peak_bytes for arm in arms),
    )


def summary_of(runs: Sequence[Run], diagnosis: Diagnosis) -> Verdict:
    """The baseline's own row: its time, rate and memory."""
    said: tuple[VerdictWord, str] = ("same speed", "")
    return replace(
        verdict_of(BASELINE, said, "confirm", None, diagnosis),
        rate=_middle_rate(runs),
        run_seconds=statistics.fmean(run.wall_seconds for run in runs),
        peak_bytes=max(run.peak_bytes for run in runs),
    )


def exploratory(trial: Trial, diagnosis: Diagnosis) -> Verdict:
    """One run an arm: a ratio to look at, and no claim."""
    if trial.failure is not None:
        return verdict_of(trial.candidate, trial.failure, "screen", None, diagnosis)
    base, arm = trial.pairs[0]
    ratio = times_of([base], trial.length)[0] / times_of([arm], trial.length, trial.fill)[0]
    said: tuple[VerdictWord, str] = ("inconclusive", f"{ratio:.2f}× in one run, no claim")
    return replace(
        verdict_of(trial.candidate, said, "screen", None, diagnosis),
        run_seconds=arm.wall_seconds,
        peak_bytes=arm.peak_bytes,
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


def _unfit(trial: Trial, rate: Rate | None) -> str:
    """Why bounded windows cannot carry a claim; '' where they can."""
    if rate is None:
        return "no steady state was seen"
    if is_short(rate):
        return (
            f"its runs kept {rate.kept_seconds:.0f} s in {rate.kept_windows} windows, and "
            f"{ENOUGH_SECONDS:.0f} s in {ENOUGH_WINDOWS} are needed: give a larger --budget"
        )
    return ""


def _middle_rate(runs: Sequence[Run]) -> Rate | None:
    rates = [rate for run in runs if (rate := steady_rate(run)) is not None]
    return (
        sorted(rates, key=lambda rate: rate.seconds_per_sample)[len(rates) // 2] if rates else None
    )
