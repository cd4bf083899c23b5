"""The report as Markdown."""

from __future__ import annotations

from ..measure.environment import describe
from ..records import Report
from .article import CLAIM_HEADINGS, claims
from .comparison import comparison_table
from .words import (
    duration,
    finding_line,
    headline,
    pipeline_line,
    run_heading,
    savings,
    size,
    step_line,
    verdict_cells,
)


def markdown(report: Report) -> str:
    """The whole record as Markdown; text of the user's is escaped."""
    lines = [f"# halftime: {_text(report.script)}", "", f"**{_text(headline(report))}**", ""]
    lines += [f"- {_text(line)}" for line in savings(report)]
    lines += [
        "",
        "## Where the time goes",
        "",
        _text(finding_line(report)),
        "",
        _text(step_line(report)),
        "",
    ]
    if line := pipeline_line(report):
        lines += [_text(line), ""]
    lines += [
        f"- **{finding.bottleneck}** — rule: {_text(finding.rule)}; "
        f"evidence: {_text(finding.evidence)}"
        + (f"; answered by {', '.join(finding.ideas)}" if finding.ideas else "")
        for finding in report.diagnosis.findings
    ]
    lines += [""]
    lines += ["| family | at most | evidence |", "|---|---|---|"]
    lines += [
        f"| {c.family} | {c.factor:.2f}× | {_text(c.evidence)} |" for c in report.diagnosis.ceilings
    ]
    lines += [
        f"- brake left on: {brake.name} at `{_text(brake.place)}`" for brake in report.facts.brakes
    ]
    if report.already_on:
        lines += [f"- already on, nothing to gain: {_text(', '.join(report.already_on))}"]
    lines += [f"- {_text(note)}" for note in report.notes]
    if report.status == "comparison":
        lines += ["", "## Side by side", "", *_table(*comparison_table(report))]
        if report.protocols:
            lines += ["", "## What one process in order would claim", ""]
            lines += _table(list(CLAIM_HEADINGS), [list(row) for row in claims(report)])
    elif report.verdicts:
        lines += ["", "## What was tried", ""]
        whole = run_heading(report)
        lines += [
            f"| arm | verdict | speed-up (95 % interval) | {whole} | memory | blocks | result |"
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        if report.baseline_seconds is not None:
            lines += [f"| baseline | | 1× | {duration(report.baseline_seconds)} | | | |"]
        for verdict in report.verdicts:
            arm, word, gain, run, result = map(_text, verdict_cells(verdict))
            blocks = len(verdict.comparison.log_ratios) if verdict.comparison else ""
            memory = size(verdict.peak_bytes)
            lines += [f"| {arm} | {word} | {gain} | {run} | {memory} | {blocks} | {result} |"]
        lines += ["", "Speed-ups marked `screened` chose the arms and are no claims."]
    if report.credits:
        lines += ["", "## What each technique gave within the stack", ""]
        lines += [f"- {credit.technique}: {credit.factor:.2f}×" for credit in report.credits]
    if report.winner is not None and report.winner.proof is not None:
        lines += ["", f"## Why the result is as good: {report.winner.proof.words}", ""]
        lines += [f"- {_text(evidence)}" for evidence in report.winner.proof.evidence]
    if report.refused:
        lines += ["", "## What was not tried, and why", ""]
        lines += [f"- {technique}: {_text(reason)}" for technique, reason in report.refused]
    lines += ["", "## How this was measured", ""]
    lines += [
        f"- command: `{_text(report.command)}`",
        f"- machine: {_text(describe(report.machine))}",
        f"- {_text(report.framework)}; {'full runs' if report.full_runs else 'bounded windows'} in "
        "random blocks of fresh processes",
        f"- terms fixed before: {_text(report.terms)}",
        f"- {report.runs} runs, {duration(report.spent_seconds)}; "
        f"records: `{_text(report.folder)}`",
    ]
    lines += [f"- {_text(source)}" for source in report.data_sources]
    lines += [f"- failed run {_text(run)}: {_text(cause)}" for run, cause in report.failed_runs]
    lines += [f"- changed in your project: `{_text(path)}`" for path in report.tree_changes]
    return "\n".join(lines) + "\n"


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    return lines + [f"| {' | '.join(map(_text, row))} |" for row in rows]


def _text(raw: str) -> str:
    """Text that neither breaks a table nor becomes markup."""
    for mark in ("\\", "|", "<", ">", "`", "*"):
        raw = raw.replace(mark, f"&#{ord(mark)};")
    return raw.replace("\n", " ")
