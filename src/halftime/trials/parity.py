"""Proving that the result is as good (measurement.md §5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..measure.events import read_events, training_process
from ..records import Numerics, Proof, Run
from .speedup import ALPHA, POWER

NEED_NO_TEST = ("exact", "draws")
"""The numerics that are proven by what was compared, without a held-out metric."""
FEWEST_SEEDS = 3
MOST_SEEDS = 200
FEWEST_SERVED = 200
_GRADIENT_SHARE = 0.1
_ENVELOPE_SPREADS = 4.0
_CURVE_POINTS = 10


@dataclass(frozen=True, kw_only=True)
class Test:
    """A paired non-inferiority test. p_value: one-sided; needed: seeds for 80 % power."""

    passed: bool
    p_value: float
    difference: float
    needed: int
    seeds: int
    words: str


def non_inferior(
    arm: Sequence[float], baseline: Sequence[float], margin: float, higher_is_better: bool
) -> Test:
    """Whether the arm loses less than `margin` against the baseline, seeds paired.

    arm, baseline: (seeds,), in the metric's unit, as is the margin. Passes only where the
    one-sided paired t-test has p < 0.05 and the seeds give 80 % power at no true loss.
    """
    sign = 1.0 if higher_is_better else -1.0
    a, b = sign * np.asarray(arm, float), sign * np.asarray(baseline, float)
    difference = float(np.mean(a - b))
    needed = seeds_needed(float(np.std(a - b, ddof=1)), margin) if len(a) > 1 else FEWEST_SEEDS
    if len(a) < FEWEST_SEEDS:
        words = f"{len(a)} seeds, at least {FEWEST_SEEDS} are needed"
        return Test(
            passed=False, p_value=1.0, difference=difference, needed=max(needed, FEWEST_SEEDS),
            seeds=len(a), words=words,
        )  # fmt: skip
    if float(np.std(a - b)) == 0.0:
        p_value = 0.0 if difference + margin > 0 else 1.0
    else:
        p_value = float(stats.ttest_rel(a + margin, b, alternative="greater").pvalue)
    passed = p_value < ALPHA and len(a) >= needed
    words = (
        f"{len(a)} seeds, mean difference {sign * difference:+.4g} against a margin of "
        f"{margin:.4g}, one-sided paired t-test p = {p_value:.2g}"
    )
    if len(a) < needed:
        words += f"; 80 % power needs {needed} seeds"
    return Test(
        passed=passed, p_value=p_value, difference=sign * difference, needed=needed,
        seeds=len(a), words=words,
    )  # fmt: skip


def seeds_needed(spread: float, margin: float) -> int:
    """Seeds that show a harmless arm to lose less than `margin` with 80 % power.

    spread: standard deviation of the paired differences.
    """
    for seeds in range(FEWEST_SEEDS, MOST_SEEDS + 1):
        if spread == 0:
            return seeds
        shift = margin * math.sqrt(seeds) / spread
        critical = float(stats.t.ppf(1 - ALPHA, seeds - 1))
        if float(stats.nct.sf(critical, seeds - 1, shift)) >= POWER:
            return seeds
    return MOST_SEEDS


def same_batches(base: Run, arm: Run, loader: int, from_a_store: bool = False) -> tuple[bool, str]:
    """Whether both witnesses were handed the same indices and bytes, batch for batch.

    from_a_store: then a pass has to have come to its end, before which a store serves nothing.
    """
    if from_a_store and not _has_served(arm):
        return False, "no pass over the data came to its end, so that nothing was served from it"
    expected, seen = _digests(base, loader), _digests(arm, loader)
    compared = min(len(expected), len(seen))
    if compared < FEWEST_SERVED:
        return False, f"only {compared} batches could be compared, {FEWEST_SERVED} are needed"
    for place in range(compared):
        if expected[place] != seen[place]:
            what = "indices" if expected[place][0] != seen[place][0] else "bytes"
            return False, f"batch {place + 1} of {compared} differs in its {what}"
    return True, f"indices and bytes of {compared} batches equal"


def same_losses(base: Sequence[float], arm: Sequence[float]) -> tuple[bool, str]:
    """Whether two loss traces are equal, bit for bit. (steps,) each; the shorter one counts."""
    compared = min(len(base), len(arm))
    if compared == 0:
        return False, "no loss was captured"
    for step in range(compared):
        if base[step] != arm[step]:
            return False, f"loss {step + 1} of {compared} differs"
    return True, f"{compared} losses equal, bit for bit"


def gradient_witness(base: Run, arm: Run) -> tuple[float | None, str]:
    """The technique's gradient error as a share of the noise from batch to batch.

    Both runs took the gradients of the same batches at the same weights.
    """
    expected, seen = _gradients(base), _gradients(arm)
    if expected is None or seen is None or expected.shape[1] != seen.shape[1]:
        return None, "gradients could not be compared"
    updates = min(len(expected), len(seen))
    expected, seen = expected[:updates], seen[:updates]
    error = math.sqrt(float(np.mean((seen - expected) ** 2)))
    noise = math.sqrt(float(np.mean((expected - expected.mean(axis=0)) ** 2)))
    if noise == 0 or not math.isfinite(error):
        return None, "the gradients do not vary between batches, or are not finite"
    share = error / noise
    said = f"gradient error is {share:.3f} of the noise from batch to batch"
    return share, said if share < _GRADIENT_SHARE else f"{said}, more than a rounding's tenth"


def shows_updates(run: Run) -> bool:
    """Whether a witness saw its weights move."""
    notes = _gradient_notes(run)
    return bool(notes) and any(note["update_norm"] for note in notes)


def still_trains(base: Run, arm: Run) -> tuple[bool, str]:
    """The same parameters get gradients, with updates of the same size."""
    expected, seen = _gradient_notes(base), _gradient_notes(arm)
    if not seen:
        return False, "no update was seen"
    if (expected[0]["with_gradient"], expected[0]["parameters"]) != (
        seen[0]["with_gradient"],
        seen[0]["parameters"],
    ):
        return False, (
            f"{seen[0]['with_gradient']} parameters get gradients, {expected[0]['with_gradient']} "
            "in the baseline"
        )
    updates = min(len(expected), len(seen))
    norms = [
        float(np.mean([note["update_norm"] for note in notes[:updates]]))
        for notes in (expected, seen)
    ]
    if not norms[0] or not 0.5 < norms[1] / norms[0] < 2:
        return False, f"updates are {norms[1]:.3g} in size, {norms[0]:.3g} in the baseline"
    return True, (
        f"the same {seen[0]['with_gradient']} parameters get gradients, update size "
        f"{norms[1] / norms[0]:.2f} of the baseline's"
    )


def inside_envelope(baselines: Sequence[Sequence[float]], arm: Sequence[float]) -> tuple[bool, str]:
    """Whether a loss curve lies within what the baseline's seeds give.

    Curves are cut into ten stretches; each mean must lie within 4 spreads (of the baselines there)
    of their mean. At least 3 baselines.
    """
    if len(baselines) < FEWEST_SEEDS or len(arm) == 0:
        return False, f"{len(baselines)} baseline curves, at least {FEWEST_SEEDS} are needed"
    length = min(len(arm), *(len(curve) for curve in baselines))
    if length < _CURVE_POINTS:
        return False, f"only {length} losses"
    curves = np.array([_stretches(curve[:length]) for curve in baselines])
    spread = np.maximum(curves.std(axis=0, ddof=1), 0.01 * np.abs(curves.mean(axis=0)))
    off = np.abs(_stretches(arm[:length]) - curves.mean(axis=0)) / spread
    return bool(off.max() <= _ENVELOPE_SPREADS), (
        f"loss curve at most {off.max():.1f} spreads from the mean of {len(baselines)} "
        "baseline seeds"
    )


def loss_curve(run: Run) -> list[float]:
    """The losses of a run in order, step by step.

    Where a trainer tells one loss for several steps, each of these has that loss.
    """
    told = [(step, loss) for w in run.windows for step, _, loss in w.losses if loss is not None]
    if len(told) >= run.steps:
        return [loss for _, loss in told]
    curve: list[float] = []
    for step, loss in told:
        curve += [loss] * max(step + 1 - len(curve), 0)
    return curve


def _stretches(curve: Sequence[float]) -> np.ndarray:
    return np.array(
        [part.mean() for part in np.array_split(np.asarray(curve, float), _CURVE_POINTS)]
    )


def not_proven(numerics: Numerics, evidence: Sequence[str], missing: str) -> Proof:
    """A proof that is lacking, with what would give it."""
    return Proof(status="not proven", numerics=numerics, evidence=tuple(evidence), missing=missing)


def failed(numerics: Numerics, evidence: Sequence[str], reason: str) -> Proof:
    """A proof that failed: the result is not as good, or training does not train."""
    return Proof(status="failed", numerics=numerics, evidence=(*evidence, reason), missing=reason)


def _digests(run: Run, loader: int) -> list[tuple[int, int]]:
    return [
        (indices, checksum)
        for event in training_process(read_events(Path(run.folder)))
        if event["event"] == "batches"
        for ordinal, indices, checksum in event["digests"]
        if ordinal == loader
    ]


def _has_served(run: Run) -> bool:
    events = training_process(read_events(Path(run.folder)))
    return all(event.get("served", True) for event in events if event["event"] == "batches")


def _gradient_notes(run: Run) -> list[dict[str, Any]]:
    events = training_process(read_events(Path(run.folder)))
    return [event for event in events if event["event"] == "gradients"]


def _gradients(run: Run) -> np.ndarray | None:
    notes = _gradient_notes(run)
    if not notes:
        return None
    path = Path(run.folder) / Path(notes[0].get("file", "gradients.f32")).name
    if not path.exists():
        return None
    flat = np.fromfile(path, dtype=np.float32).astype(float)
    rows = len(notes)
    return flat.reshape(rows, -1) if flat.size and flat.size % rows == 0 else None
