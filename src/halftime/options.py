"""The options of every command, in one list."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for. Seconds for times; `length` as written."""

    budget_seconds: float = 1800.0
    quick: bool = False
    dry_run: bool = False
    margin: str | None = None
    metric: str | None = None
    length: str | None = None
    trial_args: str | None = None
    compares: bool = False
    diagnoses: bool = False
    arms: tuple[tuple[str, ...], ...] = ()
    article: bool = False
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    study: str | None = None
    store: str | None = None
    python: str | None = None
    plan: str | None = None
    price_an_hour: float | None = None
    require_gain: bool = False
    allow_write: tuple[str, ...] = ()
    json: bool = False
    quiet: bool = False


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `1h` or a bare number of minutes. Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--budget {text}: expected a time like 90s, 30m or 1h.")
    return float(match[1]) * {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, None: 60.0}[match[2]]


def parse_length(text: str | None) -> tuple[float, str] | None:
    """(number, 'epochs' or 'steps') of `50epochs` or `100000steps`. Raises UserError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(epochs?|steps?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--length {text}: expected 50epochs or 100000steps.")
    return float(match[1]), match[2].rstrip("s") + "s"
