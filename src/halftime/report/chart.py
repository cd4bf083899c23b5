"""The chart of a comparison: how long a training takes under each arm, with 95 % intervals."""

from __future__ import annotations

from pathlib import Path

from ..records import Report, Verdict
from .words import duration, run_heading

_WIDTH_INCHES, _ROW_INCHES, _DPI = 8.0, 0.62, 160
_DARK, _LIGHT = "#3b4a5a", "#b9c4cf"


def draw_chart(report: Report, folder: Path) -> list[Path]:
    """Write chart.png and chart.svg; nothing where no arm was compared.

    Readable in grey: the baseline's bar is light, an arm's that is not shown to be faster is
    hatched, and every bar carries its figures.
    """
    base = report.baseline
    arms = [v for v in report.verdicts if v.comparison is not None]
    if base is None or base.run_seconds is None or not arms:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, 1.5 + _ROW_INCHES * (len(arms) + 1)), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = [base, *arms]
    places = range(len(rows), 0, -1)
    for place, verdict in zip(places, rows, strict=True):
        seconds, low, high = _seconds(base, verdict)
        faster = verdict.word == "faster"
        axes.barh(
            place, seconds, height=0.62, color=_DARK if faster else _LIGHT, edgecolor=_DARK,
            hatch="" if faster or verdict is base else "///", linewidth=0.8,
        )  # fmt: skip
        if verdict is not base:
            axes.errorbar(
                seconds, place, xerr=[[seconds - low], [high - seconds]], color="black",
                capsize=4, linewidth=1.4,
            )  # fmt: skip
        axes.text(high * 1.015, place, _label(base, verdict), va="center", fontsize=9.5)
    axes.set_yticks(list(places), [verdict.candidate.name for verdict in rows], fontsize=10.5)
    axes.set_xlim(0, 1.5 * max(_seconds(base, verdict)[2] for verdict in rows))
    axes.set_xlabel(
        f"seconds of {run_heading(report)} (95 % interval of the ratio to the baseline)"
    )
    blocks = len(arms[0].comparison.log_ratios) if arms[0].comparison else 0
    axes.set_title(
        f"{report.script}: {blocks} random blocks of fresh processes\n{report.machine.processor}, "
        f"{report.machine.cores} cores, {report.framework}",
        fontsize=10.5, loc="left",
    )  # fmt: skip
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    paths = [folder / "chart.png", folder / "chart.svg"]
    for path in paths:
        figure.savefig(path)
    return paths


def _seconds(base: Verdict, verdict: Verdict) -> tuple[float, float, float]:
    """Seconds of a run and its interval: the baseline's over the ratio's."""
    seconds = base.run_seconds or 0.0
    seen = verdict.comparison
    if seen is None:
        return seconds, seconds, seconds
    return seconds / seen.speedup, seconds / seen.high, seconds / seen.low


def _label(base: Verdict, verdict: Verdict) -> str:
    seconds = duration(_seconds(base, verdict)[0])
    seen = verdict.comparison
    return seconds if seen is None else f"{seconds}  ·  {seen.speedup:.2f}×  {verdict.word}"
