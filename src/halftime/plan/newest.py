"""The newest plan of a script, found without loading what a measurement needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..measure.command import Command, changed_files, digest_of_script, state_folder
from .apply import read_plan


def newest_plan(command: Command) -> tuple[Path | None, Path | None]:
    """The newest proven plan that was measured for this script, and its modules, as they are.

    Beside it, where there is none: the newest of this script as it was. A comparison that the user
    asked for is no search, and its plan is never chosen unasked.
    """
    places = sorted((state_folder() / "studies").glob("*/plan.toml"), reverse=True)
    digest = digest_of_script(command.script_path) if places else ""
    outdated = None
    for place in places:
        fixed = json.loads(place.with_name("study.json").read_text())
        if fixed["options"].get("compares") or not _is_of(fixed, command, digest):
            continue
        known = digest and fixed["script_digest"] == digest
        if known and not changed_files(read_plan(place).sources):
            return place, None
        outdated = outdated or place
    return None, outdated


def _is_of(fixed: dict[str, Any], command: Command, digest: str) -> bool:
    """Whether a study is of this script: the same text, the same file, or the same module."""
    known = fixed["command"]
    if digest and fixed["script_digest"] == digest:
        return True
    same_file = command.script_path is not None and known["script_path"] == command.script_path
    return same_file or (known["script"], known["cwd"]) == (command.script, command.cwd)
