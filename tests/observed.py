"""Runs of small scripts under the agent, as trials run them."""

from __future__ import annotations

import fcntl
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
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
    def digests(self) -> list[Any]:
        """What the witness wrote of the batches, as it came."""
        return [event["digests"] for event in self.all("batches")]

    @property
    def output(self) -> str:
        return (self.folder / "stdout.txt").read_text()


@dataclass(frozen=True)
class PlainRuns:
    """Runs of the scripts of tests/scripts with no technique: each is made once a session.

    The processes of pytest share the folder.
    """

    folder: Path

    @contextmanager
    def kept(self, *key: object) -> Iterator[Path]:
        """Where the run of `key` is pickled, or will be: whoever comes second waits."""
        path = self.folder / sha256(repr(key).encode()).hexdigest()
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path


@pytest.fixture(scope="session")
def plain_runs(tmp_path_factory: pytest.TempPathFactory) -> PlainRuns:
    """One folder a session, next to those of its processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "plain-runs"
    folder.mkdir(exist_ok=True)
    return PlainRuns(folder)


@pytest.fixture
def trial(tmp_path: Path, plain_runs: PlainRuns) -> Callable[..., Observed]:
    """Run a script of tests/scripts, or its text, in a trial; gives what was observed."""
    made = [0]

    def run(script: str, *arguments: str, **how: Any) -> Observed:
        """how: technique, settings, text (whether `script` is one), seed, and orders."""
        if how.keys() - {"seed"}:
            return make(script, *arguments, **how)
        seed, backend = how.get("seed", 0), os.environ.get("KERAS_BACKEND")
        with plain_runs.kept(script, arguments, seed, backend) as path:
            if not path.exists():
                path.write_bytes(pickle.dumps(make(script, *arguments, seed=seed)))
            observed: Observed = pickle.loads(path.read_bytes())
            return observed

    def make(
        script: str, *arguments: str, technique: str | None = None, text: bool = False,
        settings: dict[str, Any] | None = None, seed: int = 0, **orders: Any,
    ) -> Observed:  # fmt: skip
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
            given = {"memory_bytes": 10**9, **(settings or {})}
            switches = ({"technique": technique, "settings": given},)
        orders.setdefault("training_loader", 0)
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
        return Observed(
            run=read_run(folder, ended, meter.read()),
            facts=read_facts(events, MACHINE),
            events=events,
            folder=folder,
        )

    return run
