"""Random blocks within the budget (measurement.md §4)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..records import Candidate
from .speedup import FEWEST_BLOCKS

SCREEN_BLOCKS = 3


def random_block(
    arms: Sequence[Candidate], order_seed: int, stage: str, block: int
) -> list[Candidate]:
    """Every arm once, in the order that this study drew for the block before it began."""
    order = list(arms)
    random.Random(f"{order_seed}/{stage}/{block}").shuffle(order)
    return order


def arms_within_budget(
    arms: Sequence[Candidate], ceilings: Sequence[float], run_seconds: float, left_seconds: float
) -> tuple[list[Candidate], list[Candidate]]:
    """The arms that can be screened and still leave four confirm blocks; and those dropped.

    Arms go by their ceilings, the lowest first; blocks are never cut.
    run_seconds: of a baseline run; no arm is assumed to be faster.
    """
    confirm = FEWEST_BLOCKS * 2 * run_seconds
    most = int((left_seconds - confirm) / (SCREEN_BLOCKS * run_seconds)) - 1
    ranked = sorted(range(len(arms)), key=lambda place: -ceilings[place])
    kept = set(ranked[: max(most, 0)])
    return (
        [arm for place, arm in enumerate(arms) if place in kept],
        [arm for place, arm in enumerate(arms) if place not in kept],
    )
