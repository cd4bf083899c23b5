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

OF_ONE_TEST = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "XDG_STATE_HOME")
"""Environment variables that differ from test to test and change no run."""


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
class KeptRuns:
    """Runs that tests have in common: each is made once a session.

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
def kept_runs(tmp_path_factory: pytest.TempPathFactory) -> KeptRuns:
    """One folder a session, next to those of its processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "kept-runs"
    folder.mkdir(exist_ok=True)
    return KeptRuns(folder)


@pytest.fixture
def trial(tmp_path: Path, kept_runs: KeptRuns) -> Callable[..., Observed]:
    """Run a script of tests/scripts, or its text, in a trial; gives what was observed.

    A run that another test has made already is not made again; within one test each is.
    """
    made = [0]
    here: set[str] = set()

    def run(script: str, *arguments: str, **how: Any) -> Observed:
        """how: technique, settings, stack (settings by technique), text, seed, and orders.

        text: whether `script` is one.
        """
        own = {name: os.environ[name] for name in sorted(os.environ) if name not in OF_ONE_TEST}
        key = repr((script, arguments, sorted(how.items()), own))
        if key in here:
            return make(script, *arguments, **how)
        here.add(key)
        with kept_runs.kept(key) as path:
            if not path.exists():
                path.write_bytes(pickle.dumps(make(script, *arguments, **how)))
            observed: Observed = pickle.loads(path.read_bytes())
            return observed

    def make(
        script: str, *arguments: str, technique: str | None = None, text: bool = False,
        settings: dict[str, Any] | None = None, stack: dict[str, dict[str, Any]] | None = None,
        seed: int = 0, **orders: Any,
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
        stack = stack or ({technique: settings or {}} if technique is not None else {})
        switches: Sequence[dict[str, Any]] = [
            {"technique": name, "settings": {"memory_bytes": 10**9, **given}}
            for name, given in stack.items()
        ]
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
