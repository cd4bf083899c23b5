"""The tables of a comparison, and what the article's protocol would have claimed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from halftime.records import ProtocolRun, Report
from halftime.report.article import ROWS, claims
from halftime.report.chart import draw_chart
from halftime.report.comparison import comparison_table
from halftime.report.html import html
from halftime.report.markdown import markdown
from halftime.trials.speedup import compare
from tests.conftest import make_candidate
from tests.unit.test_report import make_report, make_verdict


def make_comparison() -> Report:
    base = replace(make_verdict(), candidate=make_candidate(), comparison=None, proof=None)
    arm = replace(make_verdict(), candidate=make_candidate("mixed_precision"), quality=0.985)
    slow = replace(
        make_verdict(), candidate=make_candidate("gradient_accumulation", count=4), word="slower",
        comparison=compare([-0.1, -0.12, -0.09, -0.11]), proof=None,
    )  # fmt: skip
    runs = (
        ProtocolRun(order="forward", seconds=(("baseline", 20.0), ("mixed_precision", 10.0))),
        ProtocolRun(order="reverse", seconds=(("mixed_precision", 16.0), ("baseline", 20.0))),
    )
    return make_report(
        status="comparison", baseline=base, verdicts=(arm, slow), metric="accuracy", article=ROWS,
        protocols=runs,
    )  # fmt: skip


def test_every_arm_has_a_row_with_the_article_beside_it() -> None:
    headings, rows = comparison_table(make_comparison())
    assert headings[:3] == ["arm", "the article", "a run"]
    assert [row[:2] for row in rows] == [
        ["baseline", "20.03 s"],
        ["mixed_precision", "15.89 s"],
        ["gradient_accumulation(4)", "14.65 s"],
    ]
    assert rows[0][3] == "1×"
    assert "0.9850" in rows[1]


def test_protocol_claims_stand_beside_the_blocks() -> None:
    row = next(row for row in claims(make_comparison()) if row[0] == "mixed_precision")
    assert row[1] == "1.26×"
    assert row[2] == "1.25–2.00× in 2 runs"
    assert row[3].startswith("2.")


def test_every_form_of_the_report_has_both_tables() -> None:
    for text in (markdown(make_comparison()), html(make_comparison())):
        assert "20.03 s" in text
        assert "1.25–2.00× in 2 runs" in text


def test_chart_shows_every_arm_as_png_and_svg(tmp_path: Path) -> None:
    paths = draw_chart(make_comparison(), tmp_path)
    assert [path.name for path in paths] == ["chart.png", "chart.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    # Labels are drawn as paths in SVG; each carries its text as a comment.
    assert "mixed_precision" in paths[1].read_text()


def test_no_chart_where_nothing_was_compared(tmp_path: Path) -> None:
    assert draw_chart(make_report(), tmp_path) == []
