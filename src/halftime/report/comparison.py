"""The table of a comparison: every arm with its time, rate, quality, memory and verdict."""

from __future__ import annotations

from ..records import Report, Verdict
from .words import duration, run_heading, size, verdict_cells


def comparison_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """The headings, and a row for the baseline and each arm."""
    article = {row.arm: row for row in report.article}
    whole = run_heading(report)
    headings = ["arm", whole, "speed-up (95 %)", "verdict", "samples/s", "start and warm-up"]
    headings += [report.metric or "last training loss", "peak memory", "result"]
    if article:
        headings.insert(1, "the article")
    rows = []
    base = [report.baseline] if report.baseline is not None else []
    for verdict in (*base, *report.verdicts):
        name, word, gain, run, _ = verdict_cells(verdict)
        if verdict is report.baseline:
            word, gain = "", "1×"
        row = [name, run, gain, word, _rate(verdict), _fixed(verdict), _quality(verdict)]
        row += [size(verdict.peak_bytes), _result(verdict)]
        if article:
            known = article.get(name)
            row.insert(1, f"{known.seconds:.2f} s" if known else "–")
        rows.append(row)
    return headings, rows


def _result(verdict: Verdict) -> str:
    """What is said of the result, or why the arm has no blocks."""
    if verdict.proof is None:
        return verdict.reason if verdict.comparison is None else ""
    lacking = verdict.proof.missing if not verdict.proof.holds else ""
    said = verdict.proof.words
    return f"{said}: {lacking}" if lacking else said


def _rate(verdict: Verdict) -> str:
    return f"{1 / verdict.rate.seconds_per_sample:,.0f}" if verdict.rate is not None else "–"


def _fixed(verdict: Verdict) -> str:
    return duration(verdict.rate.fixed_seconds) if verdict.rate is not None else "–"


def _quality(verdict: Verdict) -> str:
    return f"{verdict.quality:.4f}" if verdict.quality is not None else "–"
