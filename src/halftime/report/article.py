"""The article that halftime grew from: its table, and the words that set ours beside it."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import ArticleRow, Report

ROWS = (
    ArticleRow(arm="baseline", title="baseline", seconds=20.03),
    ArticleRow(arm="store + prefetch", title="cache + prefetch", seconds=11.27),
    ArticleRow(arm="mixed_precision", title="mixed precision", seconds=15.89),
    ArticleRow(arm="gradient_accumulation(4)", title="gradient accumulation", seconds=14.65),
)
"""Seconds for MNIST in TensorFlow 2: 20,000 train, 5,000 test, five epochs; each arm once."""

CLAIM_HEADINGS = ("arm", "the article", "its protocol, here", "random blocks of fresh processes")
ARMS = (("store", "prefetch"), ("mixed_precision",), ("gradient_accumulation",), ("autotune",))
"""The article's arms by the names of their ideas, and one that it did not know."""


def claims(report: Report) -> list[tuple[str, str, str, str]]:
    """Arm, what the article claims, what its protocol claims here, what random blocks say.

    Speed-ups; of several runs of the protocol the range of what each would have claimed.
    """
    verdicts = {verdict.candidate.name: verdict for verdict in report.verdicts}
    base = ROWS[0].seconds
    rows = []
    names = [("baseline again", None), *((row.arm, row.seconds) for row in ROWS[1:])]
    for name, seconds in names:
        verdict = verdicts.get(name)
        seen = verdict.comparison if verdict is not None else None
        rows.append(
            (
                name,
                f"{base / seconds:.2f}×" if seconds else "–",
                _range_of(_claimed(report, name)),
                f"{seen.speedup:.2f}× ({seen.low:.2f}–{seen.high:.2f})" if seen else "–",
            )
        )
    return rows


def _claimed(report: Report, name: str) -> list[float]:
    found = []
    for run in report.protocols:
        seconds = dict(run.seconds)
        if name in seconds and "baseline" in seconds:
            found.append(seconds["baseline"] / seconds[name])
    return found


def _range_of(ratios: Sequence[float]) -> str:
    if not ratios:
        return "–"
    return f"{min(ratios):.2f}–{max(ratios):.2f}× in {len(ratios)} runs"
