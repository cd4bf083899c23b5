"""Runs of small scripts under the agent, as trials run them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halftime.measure.command import Command
from halftime.measure.environment import Meter
from halftime.measure.events import read_events, read_facts, read_run
from halftime.measure.launch import Event, Limits, Orders, run_in_trial
from halftime.measure.workspace import private_workspace
from halftime.records import Facts, Run
from tests.conftest import MACHINE, SCRIPTS


@dataclass(frozen=True, kw_only=True)
class Observed:
    run: Run
    facts: Facts
    events: list[Event]
    folder: Path

    def all(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def output(self) -> str:
        return (self.folder / "stdout.txt").read_text()


@pytest.fixture(scope="session")
def plain_runs() -> dict[tuple[object, ...], Observed]:
    """Runs of the scripts of tests/scripts with no technique: each is made once a session."""
    return {}


@pytest.fixture
def trial(
    tmp_path: Path, plain_runs: dict[tuple[object, ...], Observed]
) -> Callable[..., Observed]:
    """Run a script of tests/scripts, or its text, in a trial; gives what was observed."""
    made = [0]

    def run(
        script: str, *arguments: str, technique: str | None = None, text: bool = False,
        settings: dict[str, Any] | None = None, seed: int = 0, **orders: Any,
    ) -> Observed:  # fmt: skip
        key = (script, arguments, seed, os.environ.get("KERAS_BACKEND"))
        is_plain = technique is None and not text and not orders
        if is_plain and key in plain_runs:
            return plain_runs[key]
        made[0] += 1
        project = tmp_path / "project"
        project.mkdir(exist_ok=True)
        path = SCRIPTS / script
        if text:
            path = project / "train.py"
            path.write_text(script)
        folder = tmp_path / f"run-{made[0]}"
        folder.mkdir()
        switches: Sequence[dict[str, Any]] = ()
        if technique is not None:
            given = {"memory_bytes": 10**9, "loader": 0, **(settings or {})}
            switches = ({"technique": technique, "settings": given},)
        command = Command(
            argv=(sys.executable, str(path), *arguments), cwd=str(project), script=script,
            script_path=str(path),
        )  # fmt: skip
        meter = Meter.start()
        ended = run_in_trial(
            command,
            Orders(
                run_folder=str(folder), in_trial=True, seed={"base": 0, "offset": seed},
                switches=tuple(switches), window_seconds=0.05, **orders,
            ),
            private_workspace(command, "overlay", ()),
            Limits(wall_seconds=120, silence_seconds=60),
            "/dev/null",
            lambda event: None,
        )  # fmt: skip
        events = read_events(folder)
        observed = Observed(
            run=read_run(folder, ended, meter.read()),
            facts=read_facts(events, MACHINE),
            events=events,
            folder=folder,
        )
        if is_plain:
            plain_runs[key] = observed
        return observed

    return run
