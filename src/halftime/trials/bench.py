"""What a command measures with: a study, an executor, the machine to itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from ..agent.places import packages_in
from ..errors import UserError
from ..measure import environment
from ..measure.command import Command, changed_files, digest_of_script, shortened
from ..measure.keeper import denies_writes
from ..measure.launch import Event, Limits
from ..measure.workspace import (
    Kind,
    Workspace,
    in_the_project,
    private_workspace,
    project_roots,
    snapshot,
)
from ..options import Options
from ..records import Machine, Run
from . import probe_workspace
from .blocks import EXCLUSION
from .execute import Executor, Task
from .schedule import SCREEN_BLOCKS
from .speedup import ALPHA, FEWEST_BLOCKS, MOST_BLOCKS, TOO_SMALL
from .study import Study, lock_host, new_folder, this_halftime

_FIRST_SILENCE, _SHORTEST_FIRST_RUN = 900.0, 60.0
_TERMS = ("margin", "metric", "length", "trial_args")
_LARGEST_STDIN = 64_000_000
_MOST_NAMED = 4


class Narrator(Protocol):
    """Tells the user what goes on, on stderr."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def task(self, task: Task) -> None:
        """A run begins."""

    def finished(self, task: Task, run: Run) -> None:
        """A run has ended."""


@dataclass(kw_only=True)
class Bench:
    """A study that is being measured."""

    command: Command
    options: Options
    machine: Machine
    study: Study
    executor: Executor
    narrator: Narrator
    listeners: list[Callable[[Event], None]]
    order_seed: int
    before: dict[str, str]

    @property
    def left_seconds(self) -> float:
        """What is left of the budget, as of the last acknowledged run."""
        return self.executor.left_seconds

    def tree_changes(self) -> tuple[str, ...]:
        """Files of the user's project that differ from before the first run."""
        now = snapshot(project_roots(self.command), (str(self.study.folder),))
        names = sorted({*self.before, *now})
        return tuple(name for name in names if self.before.get(name) != now.get(name))


@contextlib.contextmanager
def open_bench(
    command: Command, options: Options, narrator: Narrator, folder: Path | None = None
) -> Iterator[Bench]:
    """Open a study for measuring, new or to be resumed, with the machine locked to us.

    Raises UserError where another halftime measures, or the study belongs to something else.
    """
    lock = lock_host()
    # What a scheduler ends is as good as what the user stops: it can be gone on with.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield from _opened(command, options, narrator, folder)
    finally:
        signal.signal(signal.SIGTERM, before)
        lock.release()


def _opened(
    command: Command, options: Options, narrator: Narrator, folder: Path | None
) -> Iterator[Bench]:
    place = folder or (
        Path(options.study).absolute() if options.study else new_folder(command.script)
    )
    fixed = _what_is_fixed(command, options, _probed_kind(command, place))
    study = Study(place, fixed)
    _refuse_another(study, fixed, options)
    another = measured_by_another(study)
    if another:
        narrator.note(another)
    machine = msgspec.convert(study.fixed["machine"], Machine)
    bench = make_bench(study, command, options, narrator, machine)
    workspace = bench.executor.workspace
    if workspace.kind == "copy" and not denies_writes(in_overlay=False):
        narrator.note(workspace_note(workspace))  # before the first run, not only the first trial
    try:
        yield bench
    finally:
        study.close()


@contextlib.contextmanager
def open_read_only(folder: Path) -> Iterator[Bench]:
    """A study to be looked at: the flow runs again, and no run is made.

    What is asked of it raises NotMeasured where the journal has no such run.
    """
    study = Study(folder, None, read_only=True)
    command = msgspec.convert(study.fixed["command"], Command)
    options = msgspec.convert(study.fixed["options"], Options)
    machine = msgspec.convert(study.fixed["machine"], Machine)
    try:
        yield make_bench(study, command, options, _Silence(), machine)
    finally:
        study.close()


class _Silence:
    """A narrator with nothing to tell."""

    def note(self, text: str) -> None:
        """Nothing."""

    def task(self, task: Task) -> None:
        """Nothing."""

    def finished(self, task: Task, run: Run) -> None:
        """Nothing."""


def make_bench(
    study: Study, command: Command, options: Options, narrator: Narrator, machine: Machine
) -> Bench:
    """A bench on an open study."""
    listeners: list[Callable[[Event], None]] = []

    def hear(event: Event) -> None:
        for listener in listeners:
            listener(event)

    kind: Kind = study.fixed["workspace"]
    executor = Executor(
        study=study,
        command=shortened(command, options.trial_args),
        workspace=private_workspace(command, kind, options.allow_write),
        stdin=os.devnull if study.read_only else _spooled_stdin(study.folder),
        base_seed=study.fixed["base_seed"],
        on_task=narrator.task,
        on_event=hear,
        on_run=narrator.finished,
        budget_seconds=options.budget_seconds,
        limits=Limits(
            wall_seconds=max(options.budget_seconds, _SHORTEST_FIRST_RUN),
            silence_seconds=_FIRST_SILENCE,
        ),
    )
    return Bench(
        command=command,
        options=options,
        machine=machine,
        study=study,
        executor=executor,
        narrator=narrator,
        listeners=listeners,
        order_seed=study.fixed["order_seed"],
        before=snapshot(project_roots(command), (str(study.folder),)),
    )


def _what_is_fixed(command: Command, options: Options, kind: Kind) -> dict[str, object]:
    """What is written to the study before its first run (measurement.md §2)."""
    return {
        "command": asdict(command),
        "script_digest": digest_of_script(command.script_path),
        "options": asdict(options),
        "machine": asdict(environment.this_machine()),
        "halftime": this_halftime(),
        "workspace": kind,
        "order_seed": int.from_bytes(os.urandom(4), "big"),
        "base_seed": 0,
        "alpha": ALPHA,
        "too_small": TOO_SMALL,
        "margin": options.margin or "0.5pp of a share, 1% of a loss",
        "exclusion": EXCLUSION,
        "blocks": {
            "screen": SCREEN_BLOCKS,
            "confirm": f"{FEWEST_BLOCKS} to {MOST_BLOCKS}, fixed from the screen's spread",
        },
    }


def measured_by_another(study: Study) -> str:
    """What to know of a study that another halftime began; '' where it was this one."""
    was, now = study.fixed.get("halftime", "an earlier one"), this_halftime()
    if was == now:
        return ""
    return (
        f"measured by halftime {was}, this is {now}: what it would try, in which order and words, "
        "may differ for that alone"
    )


def refuse_changed_modules(study: Study, sources: Sequence[tuple[str, str]]) -> None:
    """Runs of a script whose own modules have changed since it was observed are never mixed."""
    changed = [] if study.read_only else changed_files(dict(sources))
    if changed:
        raise UserError(
            f"{study.folder} was measured before {', '.join(changed)} changed: runs of both cannot "
            "be mixed. Start a new study (leave --study out, or name a new folder)."
        )


def refuse_changed_packages(study: Study, observed: Sequence[Event]) -> None:
    """Nor are runs under different packages.

    observed: the events of the observed run, which name what was installed and where.
    """
    if study.read_only:
        return
    before = {k: v for e in observed if e["event"] == "packages" for k, v in e["folders"].items()}
    changed: set[str] = set()
    for seen, names in before.items():
        folder = in_the_project(seen)
        if Path(folder).is_dir():
            here = packages_in([folder]).get(folder, [])
            changed |= set(names).symmetric_difference(here)
    changed = {name for name in changed if not name.startswith("halftime-")}  # said elsewhere
    if changed:
        raise UserError(
            f"{study.folder} was measured before packages changed ({_few(changed)}): runs of both "
            "cannot be mixed. Start a new study (leave --study out, or name a new folder)."
        )


def _few(names: Collection[str]) -> str:
    """The first of them, in words."""
    shown = ", ".join(sorted(names)[:_MOST_NAMED])
    return f"{shown}, …" if len(names) > _MOST_NAMED else shown


def _refuse_another(study: Study, fixed: dict[str, object], asked: Options) -> None:
    """Runs of different scripts, machines, lengths or terms are never mixed; a budget may grow."""
    was_on, here = (
        environment.fingerprint(msgspec.convert(one["machine"], Machine))
        for one in (study.fixed, fixed)
    )
    other = [f"{was_on[name]}, this is {here[name]}" for name in ("processor", "cores", "gpu")
             if was_on[name] != here[name]]  # fmt: skip
    if other:
        raise UserError(
            f"{study.folder} was measured on another machine ({'; '.join(other)}): runs of both "
            "cannot be mixed. Start a new study (leave --study out, or name a new folder)."
        )
    was, now = (one["command"] for one in (study.fixed, json.loads(json.dumps(fixed))))
    same_command = (was["argv"], was["cwd"]) == (now["argv"], now["cwd"])
    same_script = study.fixed["script_digest"] == fixed["script_digest"]
    for words, same in (("the command", same_command), ("the script", same_script)):
        if not same:
            raise UserError(
                f"{study.folder} was measured with another state of {words}: runs of both cannot "
                "be mixed. Start a new study (leave --study out, or name a new folder)."
            )
    for name in _TERMS:
        then, today = (options[name] for options in (study.fixed["options"], asdict(asked)))
        if then != today:
            raise UserError(
                f"{study.folder} was begun with --{name.replace('_', '-')} {then or 'left out'}: "
                "what results are judged by is fixed before the first run. Start a new study "
                "(leave --study out, or name a new folder)."
            )
    study.take_options(asdict(asked))


def _probed_kind(command: Command, study: Path) -> Kind:
    """Overlay where the kernel allows one over the project, else a copy."""
    return "overlay" if probe_workspace.works(command, study) else "copy"


def _spooled_stdin(folder: Path) -> str:
    """What is piped into us, kept so that every run of the study reads the same."""
    spool = folder / "stdin"
    if spool.exists():
        return str(spool)
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return os.devnull
    try:
        import select

        if not select.select([sys.stdin], [], [], 0)[0]:
            return os.devnull
        with spool.open("wb") as file:
            shutil.copyfileobj(_Limited(sys.stdin.buffer), file)
    except (OSError, ValueError):
        return os.devnull
    return str(spool)


class _Limited:
    """A stream that ends after 64 MB."""

    def __init__(self, stream: object) -> None:
        self._stream = stream
        self._left = _LARGEST_STDIN

    def read(self, size: int = 65536) -> bytes:
        piece: bytes = self._stream.read(min(size, self._left))  # type: ignore[attr-defined]
        self._left -= len(piece)
        return piece


def workspace_note(workspace: Workspace) -> str:
    """How the user's files are kept as they are, for the screen before the first trial."""
    roots = ", ".join(workspace.roots)
    denied = denies_writes(in_overlay=workspace.kind == "overlay")
    if workspace.kind == "overlay":
        if denied:
            return f"written: nothing outside a private layer over {roots}"
        return f"written: in a private layer over {roots} (not denied elsewhere: no Landlock here)"
    large = "cannot be written" if denied else "ARE NOT PROTECTED: this kernel has no Landlock"
    return (
        f"written: in a copy of {roots} (no overlay here: cwd and __file__ differ; files over 1 MB "
        f"are links to yours and {large})"
    )
