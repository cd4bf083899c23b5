"""The fastest stack whose result is proven as good; a faster unproven one stands beside it."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Verdict
from ..trials.verdicts import ranked


def choose(confirmed: Sequence[Verdict]) -> tuple[Verdict | None, Verdict | None]:
    """The proven winner, and a faster one that is not proven; None where there is none.

    Where the baseline does not fit in memory, what fits stands in the second place.

    confirmed: in the order that was chosen before. The choice uses speed only; the held-out metric
    only proves.
    """
    fits = next((v for v in confirmed if v.word == "fits"), None)
    if fits is not None:
        return None, fits
    unproven = None
    for verdict in ranked(confirmed):
        if verdict.proof is not None and verdict.proof.holds:
            ahead = unproven is not None and _speedup(unproven) > _speedup(verdict)
            return verdict, unproven if ahead else None
        if verdict.proof is not None and verdict.proof.status == "not proven":
            unproven = unproven or verdict
    return None, unproven


def _speedup(verdict: Verdict) -> float:
    return verdict.comparison.speedup if verdict.comparison is not None else 0.0
