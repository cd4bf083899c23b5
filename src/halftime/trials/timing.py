"""How long a trial is, and what is compared of its runs (measurement.md §3, §4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..measure.steady import ENOUGH_SECONDS, ENOUGH_WINDOWS, rates_of, time_at_length
from ..records import Rate, Run
from .speedup import FEWEST_BLOCKS

_SCREEN_SECONDS = 6.0
_AMPLE, _TIGHT = 2.0, 1.5
"""How much more than enough is kept: of a run that warms up for half of it, enough is left."""
_SHARE_OF_BLOCKS = 0.95


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a trial is, and the length that the user trains for."""

    full: bool
    window_samples: int | None
    """Of a bounded trial."""
    user_samples: float | None
    """L; None: not known, then only the rate is claimed."""
    short_form: bool = False
    """Full runs are full runs of the short form that --trial-args gives."""

    @property
    def stop_after(self) -> dict[str, float] | None:
        if self.full or self.window_samples is None:
            return None
        return {"samples": self.window_samples}


@dataclass(frozen=True, kw_only=True)
class Fill:
    """What a store costs in a user's own run, where bounded trials find it filled.

    T(L) = F + N·s_fill + (L − N)·s_hit for a data set of N samples (measurement.md §3).
    """

    seconds_per_sample: float
    dataset_samples: int


def screening_length(rate: Rate, user_samples: float | None) -> Length:
    """Bounded trials that are long enough to screen by: every arm gets the same samples."""
    samples = rate.cut_samples + int(_SCREEN_SECONDS / rate.seconds_per_sample)
    return Length(full=False, window_samples=max(samples, 1), user_samples=user_samples)


def confirming_length(
    length: Length,
    rate: Rate,
    speedup: float,
    left_seconds: float,
    pairs: int = FEWEST_BLOCKS,
    fills: bool = False,
) -> Length:
    """Bounded trials in which an arm `speedup` times as fast keeps enough to claim by.

    Ample ones, where the budget has room for so many pairs of them; the claim comes before the
    proof, which needs more pairs than its four blocks. rate: of the baseline. fills: whether a
    store is filled before, by a run of that length.
    """
    speedup = max(speedup, 1.0)
    started = time_at_length(rate, rate.cut_samples)

    def room(pairs: int) -> float:
        left = _SHARE_OF_BLOCKS * left_seconds - (2 * pairs + fills) * started
        return left / (pairs * (1 + 1 / speedup) + fills)

    ample, tight = (factor * _enough_seconds(rate, speedup) for factor in (_AMPLE, _TIGHT))
    seconds = max(min(ample, room(pairs)), min(tight, room(FEWEST_BLOCKS)))
    return _with_seconds(length, rate, max(seconds, _TIGHT * _enough_seconds(rate, 1.0)))


def comparing_length(
    length: Length, rate: Rate, speedup: float, left_seconds: float, runs: int
) -> Length:
    """Bounded trials for blocks of so many runs, none of which is assumed to be fast."""
    a_run = _SHARE_OF_BLOCKS * left_seconds / (FEWEST_BLOCKS * runs)
    room = a_run - time_at_length(rate, rate.cut_samples)
    ample, tight = (factor * _enough_seconds(rate, speedup) for factor in (_AMPLE, _TIGHT))
    return _with_seconds(length, rate, max(min(ample, room), tight))


def shortest_length(length: Length, rate: Rate, speedup: float) -> Length:
    """The shortest bounded trials that an arm `speedup` times as fast may be claimed by."""
    return _with_seconds(length, rate, _TIGHT * _enough_seconds(rate, max(speedup, 1.0)))


def _enough_seconds(rate: Rate, speedup: float) -> float:
    """How long the baseline trains while an arm keeps what a claim needs (steady.is_short).

    Where a step is longer than a window, the faster arm's windows are as many as the baseline's.
    """
    a_window = rate.kept_seconds / max(rate.kept_windows, 1)
    return max(ENOUGH_SECONDS * speedup, ENOUGH_WINDOWS * a_window)


def _with_seconds(length: Length, rate: Rate, seconds: float) -> Length:
    """Bounded trials in which the baseline trains for `seconds` after its warm-up."""
    if length.full:
        return length
    samples = rate.cut_samples + int(seconds / rate.seconds_per_sample)
    return replace(length, window_samples=max(samples, length.window_samples or 1))


def seconds_of(length: Length, rate: Rate | None, full_seconds: float) -> float:
    """What a baseline run of that length is expected to take."""
    if length.full or rate is None or length.window_samples is None:
        return full_seconds
    return time_at_length(rate, length.window_samples)


def times_of(
    runs: Sequence[Run], length: Length, cut_samples: int, fill: Fill | None = None
) -> list[float]:
    """What is compared of each run: its whole time, T(L), or its steady cost a sample.

    cut_samples: the warm-up that every arm of the comparison gives up.
    """
    if length.full:
        return [run.wall_seconds for run in runs]
    rates = rates_of(runs, cut_samples)
    if len(rates) < len(runs):
        return [run.wall_seconds for run in runs]
    samples = length.user_samples
    if samples is None:
        return [rate.seconds_per_sample for rate in rates]
    return [time_at_length(with_fill(rate, fill, samples), samples) for rate in rates]


def with_fill(rate: Rate, fill: Fill | None, samples: float = math.inf) -> Rate:
    """The rate with what a first pass of at most `samples` costs beyond it counted into F."""
    if fill is None:
        return rate
    more = max(fill.seconds_per_sample - rate.seconds_per_sample, 0.0)
    first_pass = min(fill.dataset_samples, samples)
    return replace(rate, fixed_seconds=rate.fixed_seconds + first_pass * more)


def seed_of(length: Length, number: int) -> int:
    """Full runs vary the seed by block; bounded windows keep it, so that a store is filled once."""
    return number if length.full else 0
