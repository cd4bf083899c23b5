"""The fastest stack whose result is proven as good; a faster unproven one stands beside it."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Verdict


def choose(confirmed: Sequence[Verdict]) -> tuple[Verdict | None, Verdict | None]:
    """The proven winner, and a faster one that is not proven; None where there is none.

    Where the baseline does not fit in memory, what fits stands in the second place.

    The choice uses speed only; the held-out metric only proves.
    """
    faster = sorted(
        (v for v in confirmed if v.word == "faster" and v.comparison is not None),
        key=_speedup,
        reverse=True,
    )
    fits = next((v for v in confirmed if v.word == "fits"), None)
    if fits is not None:
        return None, fits
    proven = next((v for v in faster if v.proof is not None and v.proof.holds), None)
    open_ones = [v for v in faster if v.proof is not None and v.proof.status == "not proven"]
    unproven = open_ones[0] if open_ones else None
    if proven is not None and unproven is not None and _speedup(unproven) <= _speedup(proven):
        unproven = None
    return proven, unproven


def _speedup(verdict: Verdict) -> float:
    return verdict.comparison.speedup if verdict.comparison is not None else 0.0
