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
    shares = [
        ("data", seen.wait_share),
        ("forward", seen.forward_share),
        ("backward", seen.backward_share),
        ("optimizer", seen.optimizer_share),
        ("host", seen.host_share),
        ("model", None if seen.backward_share is not None else 1 - (seen.wait_share or 0)),
    ]
    page: str = environment.get_template("report.html").render(
        report=report,
        headline=headline(report),
        savings=savings(report),
        run_heading=run_heading(report),
        finding=finding_line(report),
        step=step_line(report),
        pipeline=pipeline_costs(report),
        pipeline_line=pipeline_line(report),
        shares=[(name, share) for name, share in shares if share],
        comparison=comparison_table(report) if report.status == "comparison" else None,
        claim_headings=CLAIM_HEADINGS,
        claims=claims(report) if report.protocols else [],
        rows=[(verdict, verdict_cells(verdict)) for verdict in report.verdicts],
        machine=describe(report.machine),
        duration=duration,
        size=size,
    )
    return page
