"""The report as one self-contained HTML page."""

from __future__ import annotations

import jinja2

from ..measure.environment import describe
from ..records import Report
from .article import CLAIM_HEADINGS, claims
from .comparison import comparison_table
from .words import (
    duration,
    finding_line,
    headline,
    pipeline_costs,
    pipeline_line,
    run_heading,
    savings,
    shares_of_step,
    size,
    step_line,
    verdict_cells,
)


def html(report: Report) -> str:
    """The whole record as a page that loads nothing and executes nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("halftime.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    seen = report.diagnosis
    page: str = environment.get_template("report.html").render(
        report=report,
        headline=headline(report),
        savings=savings(report),
        run_heading=run_heading(report),
        finding=finding_line(report),
        step=step_line(report),
        pipeline=pipeline_costs(report),
        pipeline_line=pipeline_line(report),
        shares=[pair for pair in shares_of_step(seen) if pair[1]],
        comparison=comparison_table(report) if report.status == "comparison" else None,
        claim_headings=CLAIM_HEADINGS,
        claims=claims(report) if report.protocols else [],
        rows=[(verdict, verdict_cells(verdict)) for verdict in report.verdicts],
        machine=describe(report.machine),
        duration=duration,
        size=size,
    )
    return page
