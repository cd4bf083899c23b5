"""The newest plan of a script, found without loading what a measurement needs."""

from __future__ import annotations

import json
from pathlib import Path

from ..measure.command import digest_of_script, state_folder
from .apply import changed_sources, read_plan


def newest_plan(script_path: str | None) -> Path | None:
    """The newest proven plan that was measured for this script, and its modules, as they are."""
    places = sorted((state_folder() / "studies").glob("*/plan.toml"), reverse=True)
    if not places or script_path is None:
        return None
    digest = digest_of_script(script_path)
    for place in places:
        fixed = json.loads(place.with_name("study.json").read_text())
        if fixed["script_digest"] == digest and not changed_sources(read_plan(place)):
            return place
    return None
