"""Steps → warm-up, fixed cost, steady rate (measurement.md §3)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from ..records import Rate, Run, Window

ENOUGH_WINDOWS, ENOUGH_SECONDS = 20, 10.0


def warm_up_cut(values: Sequence[float]) -> int:
    """How many first windows are warm-up, by MSER.

    values: (windows,), seconds per sample. The cut is
    d* = argmin over 0 ≤ d ≤ m/2 of Var(w[d:]) / (m − d).
    Source: White 1997, "An effective truncation heuristic for bias reduction".
    """
    series = np.asarray(values, dtype=float)
    most = len(series) // 2
    if most == 0:
        return 0
    scores = [float(np.var(series[d:])) / (len(series) - d) for d in range(most + 1)]
    # Differences below rounding are ties: the earliest cut gives nothing up for nothing.
    tie = min(scores) + 1e-18 * float(np.mean(series)) ** 2
    return next(d for d, score in enumerate(scores) if score <= tie)


def drift(values: Sequence[float]) -> float:
    """The Theil–Sen trend over the whole series, as a share of its median; above 0: it slows."""
    series = np.asarray(values, dtype=float)
    if len(series) < 3:
        return 0.0
    from scipy.stats import theilslopes

    slope = float(theilslopes(series, np.arange(len(series)))[0])
    return slope * (len(series) - 1) / float(np.median(series))


def common_cut(*arms: Sequence[Run]) -> int:
    """The samples that every run of these arms gives up as warm-up: the most that an arm needs.

    An arm needs the median of what its runs would choose, since a single run's choice may be a
    neighbour's doing.
    """
    needs = [[rate.cut_samples for rate in rates_of(runs)] for runs in arms]
    return max((statistics.median_high(cuts) for cuts in needs if cuts), default=0)


def rates_of(runs: Sequence[Run], cut_samples: int | None = None) -> list[Rate]:
    """The rates of those runs that have one."""
    return [rate for run in runs if (rate := steady_rate(run, cut_samples)) is not None]


def steady_rate(run: Run, cut_samples: int | None = None) -> Rate | None:
    """Fixed cost and steady cost of a run; None where it has too few windows.

    cut_samples: the common cut of all arms of a study; None lets this run choose its own.
    The estimate is kept time over kept samples: users pay for stalls and checkpoints too.
    """
    windows = [window for window in run.windows if window.samples > 0 or window.steps > 0]
    if not windows or run.training_start is None:
        return None
    unit = [_amount(window) for window in windows]
    values = [(w.end - w.start) / amount for w, amount in zip(windows, unit, strict=True)]
    own = warm_up_cut(values)
    cut = own if cut_samples is None else _windows_before(unit, cut_samples)
    kept = windows[cut:] or windows[-1:]
    kept_amount = sum(_amount(window) for window in kept)
    kept_seconds = sum(window.end - window.start for window in kept)
    per_sample = kept_seconds / kept_amount
    spent_before = kept[0].start - run.set_aside_seconds
    first_amount = sum(unit) - kept_amount
    at_edge = len(values) >= 4 and own >= len(values) // 2
    return Rate(
        fixed_seconds=max(spent_before - first_amount * per_sample, 0.0),
        seconds_per_sample=per_sample,
        training_seconds_per_sample=per_sample - sum(w.evaluation for w in kept) / kept_amount,
        cut_samples=first_amount,
        kept_windows=len(kept),
        kept_seconds=kept_seconds,
        mean_step_seconds=kept_seconds / max(sum(window.steps for window in kept), 1),
        drift=drift(values[cut:]),
        cut_at_edge=at_edge,
    )


def is_short(rate: Rate) -> bool:
    """Under 20 kept windows or 10 kept seconds a run is good for screening only."""
    return rate.kept_windows < ENOUGH_WINDOWS or rate.kept_seconds < ENOUGH_SECONDS


def time_at_length(rate: Rate, samples: float) -> float:
    """T(L) = F + L·s, in seconds."""
    return rate.fixed_seconds + samples * rate.seconds_per_sample


def break_even_samples(base: Rate, arm: Rate) -> float | None:
    """The length from which the arm wins: (F_t − F_b) / (s_b − s_t); 0 at once, None never."""
    gain = base.seconds_per_sample - arm.seconds_per_sample
    if gain <= 0:
        return None
    return max((arm.fixed_seconds - base.fixed_seconds) / gain, 0.0)


def _amount(window: Window) -> int:
    """Samples of a window; its steps where no sample could be counted."""
    return window.samples or window.steps


def _windows_before(amounts: Sequence[int], cut_samples: int) -> int:
    gone = windows = 0
    for amount in amounts:
        if gone >= cut_samples:
            break
        gone += amount
        windows += 1
    return min(windows, max(len(amounts) - 1, 0))
