"""The record on disk, and every form of it beside the study."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..errors import UserError
from ..records import Report
from .html import html
from .markdown import markdown


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, report.md and report.html into the study's folder."""
    (folder / "report.json").write_bytes(as_json(report))
    (folder / "report.md").write_text(markdown(report), "utf-8")
    (folder / "report.html").write_text(html(report), "utf-8")


def as_json(report: Report) -> bytes:
    """The record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


def read_report(folder: Path) -> Report:
    """The record of a study. Raises UserError where there is none yet."""
    path = folder / "report.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise UserError(
            f"{folder} has no report yet. Go on with it: halftime resume {folder}"
        ) from error
    except msgspec.MsgspecError as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
