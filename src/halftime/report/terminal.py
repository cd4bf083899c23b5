"""The report in a terminal, and progress on stderr while trials run."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.markup import escape as _escaped
from rich.table import Table

from ..records import Report, Run
from ..trials.execute import Task
from .article import CLAIM_HEADINGS, claims
from .comparison import comparison_table
from .words import (
    duration,
    finding_line,
    headline,
    pipeline_line,
    run_heading,
    savings,
    step_line,
    verdict_cells,
)


class Progress:
    """What is running, what is known, how long is left; one line a run, on stderr."""

    def __init__(self, budget_seconds: float, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._deadline = time.monotonic() + budget_seconds
        self._live = self._console.is_terminal and not quiet

    def note(self, text: str) -> None:
        """One line that stays."""
        self._console.print(f"[dim]halftime[/dim]  {_escaped(text)}", soft_wrap=True)

    def task(self, task: Task) -> None:
        """A run begins: said in a terminal, replaced when it has ended."""
        if self._live:
            left = max(self._deadline - time.monotonic(), 0)
            text = f"{task.stage} {task.block + 1}: {task.candidate.name} …  {duration(left)} left"
            self._console.print(_escaped(text)[: self._console.width - 1], end="\r")

    def finished(self, task: Task, run: Run) -> None:
        """A run has ended: its time, or why it failed."""
        if run.outcome == "failed":
            said = f"failed: {run.cause}"
        else:
            said = duration(run.wall_seconds)
            if run.samples and run.outcome == "window":
                said += f" for {run.samples:,} samples"
        if self._live:
            self._console.print(" " * (self._console.width - 1), end="\r")
        left = duration(max(self._deadline - time.monotonic(), 0))
        self.note(f"{task.stage} {task.block + 1}  {task.candidate.name}: {said}   ({left} left)")


def print_report(report: Report) -> None:
    """The verdict first, then the evidence; to stdout."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(f"\n[bold]{_escaped(headline(report))}[/bold]")
    for line in savings(report):
        console.print(f"  {_escaped(line)}")
    console.print(f"\n{_escaped(finding_line(report))}" if report.status != "diagnosis" else "")
    console.print(f"  {_escaped(step_line(report))}")
    if line := pipeline_line(report):
        console.print(f"  {_escaped(line)}")
    for finding in report.diagnosis.findings:
        ideas = f"  → {', '.join(finding.ideas)}" if finding.ideas else ""
        console.print(f"  {finding.bottleneck}: {_escaped(finding.rule)}{ideas}")
    for ceiling in report.diagnosis.ceilings:
        console.print(
            f"  {ceiling.family}: at most {ceiling.factor:.2f}× ({_escaped(ceiling.evidence)})"
        )
    for brake in report.facts.brakes:
        console.print(f"  brake left on: {brake.name} at {_escaped(brake.place)}")
    if report.already_on:
        console.print(f"  already on, nothing to gain: {', '.join(report.already_on)}")
    for note in (*report.notes, *report.data_sources):
        console.print(f"  {_escaped(note)}")
    if report.verdicts:
        console.print()
        console.print(_comparison(report) if report.status == "comparison" else _table(report))
    if report.protocols:
        console.print(_claims(report))
    for credit in report.credits:
        console.print(f"  {credit.technique} gives {credit.factor:.2f}× within the stack")
    for technique, reason in report.refused:
        console.print(f"  [dim]not tried: {technique}: {_escaped(reason)}[/dim]")
    for run, cause in report.failed_runs:
        console.print(f"  [dim]failed run: {_escaped(run)}: {_escaped(cause)}[/dim]")
    if report.tree_changes:
        console.print(f"  changed in your project: {_escaped(', '.join(report.tree_changes))}")
    console.print()


def _comparison(report: Report) -> Table:
    headings, rows = comparison_table(report)
    table = Table(show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(_escaped, row))
    return table


def _claims(report: Report) -> Table:
    table = Table(show_edge=False, pad_edge=False, title="\nwhat one process in order would claim")
    for heading in CLAIM_HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in claims(report):
        table.add_row(*map(_escaped, row))
    return table


def _table(report: Report) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("arm", "verdict", "speed-up (95 %)", run_heading(report), "result"):
        table.add_column(heading, overflow="fold")
    if report.baseline_seconds is not None:
        table.add_row("baseline", "", "1×", duration(report.baseline_seconds), "")
    for verdict in report.verdicts:
        bold = "bold" if report.winner is not None and verdict == report.winner else ""
        table.add_row(*(_escaped(cell) for cell in verdict_cells(verdict)), style=bold)
    return table
