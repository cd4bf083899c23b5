"""Whether this machine lets a trial have an overlay over the project."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..measure.command import Command
from ..measure.launch import Limits, Orders, run_in_trial
from ..measure.workspace import private_workspace


def works(command: Command, study: Path) -> bool:
    """Try it with a command that does nothing, beside the study, where its layers will lie.

    A home on a network file system may hold none.
    """
    idle = Command(
        argv=("/bin/true",), cwd=command.cwd, script="true", script_path=command.script_path
    )
    beside = next(place for place in study.absolute().parents if place.is_dir())
    writable = str(beside) if os.access(beside, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="halftime-probe-", dir=writable) as folder:
        orders = Orders(run_folder=str(Path(folder)), in_trial=True)
        workspace = private_workspace(idle, "overlay", ())
        if not workspace.roots:
            return False
        limits = Limits(wall_seconds=20, silence_seconds=20)
        ended = run_in_trial(idle, orders, workspace, limits, "/dev/null", lambda event: None)
        return ended.exit_code == 0 and not ended.setup_failure
