"""The record on disk, and every form of it beside the study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from ..errors import UserError
from ..records import Report
from .html import html
from .markdown import markdown

_ROWS = (list, tuple)


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, report.md and report.html into the study's folder."""
    (folder / "report.json").write_bytes(as_json(report))
    (folder / "report.md").write_text(markdown(report), "utf-8")
    (folder / "report.html").write_text(html(report), "utf-8")


def as_json(report: Report) -> bytes:
    """The record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


def differences(one: Report, other: Report) -> list[str]:
    """Where two records of the same study differ; the user's tree may have moved on since."""
    first, second = (
        msgspec.to_builtins(replace(record, tree_changes=(), folder="")) for record in (one, other)
    )
    return list(_differences("", first, second))


def _differences(place: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() | other.keys():
            yield from _differences(f"{place}.{name}", one.get(name), other.get(name))
    elif isinstance(one, _ROWS) and isinstance(other, _ROWS) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from _differences(f"{place}[{number}]", first, second)
    elif one != other:
        yield f"{place.lstrip('.')}: kept {one!r}, recomputed {other!r}"


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
