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
    arms: Sequence[Candidate],
    expected: Sequence[float],
    run_seconds: float,
    confirm_seconds: float,
    left_seconds: float,
) -> tuple[list[Candidate], list[Candidate]]:
    """The arms that can be screened and still leave four confirm blocks; and those dropped.

    Arms go by what is expected of them, the least first; blocks are never cut.
    run_seconds: of a baseline run; no arm is assumed to be faster. confirm_seconds: of the four.
    """
    most = int((left_seconds - confirm_seconds) / (SCREEN_BLOCKS * run_seconds)) - 1
    ranked = sorted(range(len(arms)), key=lambda place: -expected[place])
    kept = set(ranked[: max(most, 0)])
    return (
        [arm for place, arm in enumerate(arms) if place in kept],
        [arm for place, arm in enumerate(arms) if place not in kept],
    )


def affordable(
    finalists: Sequence[Candidate],
    with_parts: Sequence[Candidate],
    blocks: int,
    run_seconds: float,
    winner_seconds: float,
    left_seconds: float,
) -> tuple[list[Candidate], int]:
    """The arms and blocks of the confirm stage that fit the budget.

    run_seconds: of a baseline run; no other arm is assumed to be faster. winner_seconds: of the
    first finalist.

    First the parts of the stack are given up, then what was close to the winner, then blocks
    down to four; under four nothing may be claimed, and 0 is given.
    """
    for arms in (with_parts, finalists, finalists[:1]):
        if (len(arms) * run_seconds + winner_seconds) * blocks <= left_seconds:
            return list(arms), blocks
    a_block = run_seconds + winner_seconds
    fitting = int(left_seconds / a_block) if a_block else blocks
    return list(finalists[:1]), fitting if fitting >= FEWEST_BLOCKS else 0
