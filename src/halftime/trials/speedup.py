"""Log-ratios of blocks → interval → verdict (measurement.md §4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from ..records import Comparison, VerdictWord

ALPHA = 0.05
TOO_SMALL = 0.02
"""M: a difference under 2 % is too small to matter."""
FEWEST_BLOCKS, MOST_BLOCKS = 4, 10
POWER = 0.80


def compare(log_ratios: Sequence[float]) -> Comparison:
    """Judge an arm by d = ln T_base − ln T_arm, one value a block.

    log_ratios: (blocks,), at least 2. Speed-up = exp(mean d), interval = exp(mean d ± t·sd/√n);
    no bootstrap, which covers 72–85 % with so few blocks.
    """
    values = np.asarray(log_ratios, dtype=float)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    half = half_width(spread, len(values))
    low, high = math.exp(mean - half), math.exp(mean + half)
    return Comparison(
        log_ratios=tuple(float(value) for value in values),
        speedup=math.exp(mean),
        low=low,
        high=high,
        word=_word(low, high),
        resolvable=resolvable_effect(spread, len(values)),
    )


def _word(low: float, high: float) -> VerdictWord:
    if low >= 1 / (1 + TOO_SMALL) and high <= 1 + TOO_SMALL:
        return "same speed"
    if low > 1:
        return "faster"
    if high < 1:
        return "slower"
    return "inconclusive"


def half_width(spread: float, blocks: int) -> float:
    """Half of the two-sided interval of the mean log-ratio: t·sd/√n."""
    return float(stats.t.ppf(1 - ALPHA / 2, blocks - 1)) * spread / math.sqrt(blocks)


def blocks_to_confirm(spread: float, effect: float) -> int:
    """The fixed number of confirm blocks for this noise and the screened effect.

    spread: standard deviation of a block's log-ratio; effect: the screened log-ratio. The
    smallest n in 4…10 whose half-width is at most max(ln 1.03, |effect| / 4).
    """
    wanted = max(math.log(1.03), abs(effect) / 4)
    for blocks in range(FEWEST_BLOCKS, MOST_BLOCKS + 1):
        if half_width(spread, blocks) <= wanted:
            return blocks
    return MOST_BLOCKS


def resolvable_effect(spread: float, blocks: int) -> float:
    """The smallest speed-up found with 80 % power, as a share: 0.05 for 5 %.

    Source: power of the two-sided one-sample t-test from the noncentral t distribution.
    """
    if spread <= 0 or blocks < 2:
        return 0.0
    freedom = blocks - 1
    critical = float(stats.t.ppf(1 - ALPHA / 2, freedom))

    def lacking(effect: float) -> float:
        shift = effect * math.sqrt(blocks) / spread
        return POWER - float(stats.nct.sf(critical, freedom, shift))

    most = 20 * spread / math.sqrt(blocks) * critical
    return math.expm1(float(optimize.brentq(lacking, 0.0, most)))


def pooled_spread(groups: Sequence[Sequence[float]]) -> float:
    """The standard deviation within groups of log-ratios, pooled over arms."""
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(squares / freedom) if freedom > 0 else 0.0
