"""The folder on disk: what was fixed before, a journal of runs, one folder a run; resumable."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import msgspec

from .. import __version__
from ..errors import INTERRUPTED, NotMeasured, UserError
from ..measure.command import state_folder
from ..measure.launch import PACKAGE
from ..measure.workspace import Workspace
from ..records import Run

SCHEMA = 1
_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "fuse.sshfs",
    "9p",
    "lustre",
    "glusterfs",
    "ceph",
}


def this_halftime() -> str:
    """The release, and a digest of its source: flow and words change between releases too."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{__version__} ({digest.hexdigest()[:8]})"


def studies() -> list[Path]:
    """All studies of the state folder, the newest first."""
    found = (state_folder() / "studies").glob("*/study.json")
    return sorted((path.parent for path in found), key=lambda p: p.name, reverse=True)


class Study:
    """A study in its folder. A run is acknowledged once it stands in the journal.

    The flow asks for runs by a key; one that the journal has is not run again. So to resume is
    to run the same flow again, and to verify is to run it with no runs left to make.
    """

    def __init__(self, folder: Path, fixed: dict[str, Any] | None, read_only: bool = False) -> None:
        """Open the study of `folder`, or make it with what is `fixed` before the first run.

        Raises UserError where the folder cannot hold a study or holds one we must not touch.
        """
        self.folder = folder
        self.read_only = read_only
        plan = folder / "study.json"
        if fixed is not None and not plan.exists():
            _make(folder, fixed)
        if not plan.exists():
            raise UserError(f"{folder} is no study: it has no study.json.")
        self.fixed: dict[str, Any] = json.loads(plan.read_text())
        if self.fixed.get("schema", 0) > SCHEMA:
            raise UserError(
                f"{folder} was written by a newer halftime (schema {self.fixed['schema']}, "
                f"this one reads {SCHEMA}). It is left as it is; update halftime."
            )
        self._journal = _open_journal(folder)
        self._made: set[str] = set()
        self.spent = 0.0
        self._mark = time.monotonic()

    def obtain(self, key: str, make: Callable[[Path], Run]) -> Run:
        """The run of that key: from the journal, else made now, written, and acknowledged."""
        return self.obtain_together([key], lambda folders: [make(folders[0])])[0]

    def obtain_together(
        self, keys: Sequence[str], make: Callable[[list[Path]], list[Run]]
    ) -> list[Run]:
        """As `obtain` of each key, what is not in the journal made at once and written at once.

        Of several, those that failed are not acknowledged: alone they may not.
        """
        known = [self._known(key) for key in keys]
        if None not in known:
            return [run for run in known if run is not None]
        if self.read_only:
            raise NotMeasured(keys[known.index(None)])
        number = self._journal.execute("SELECT count(*) FROM runs").fetchone()[0] + 1
        missing = [key for key, run in zip(keys, known, strict=True) if run is None]
        folders = [self._run_folder(number + place, key) for place, key in enumerate(missing)]
        self._made.update(missing)
        try:
            runs = make(folders)
        finally:  # whatever stopped it, its checkpoints and copies are nobody's
            for folder in folders:
                Workspace.discard(folder)
        now = time.monotonic()
        self.spent += now - self._mark
        self._mark = now
        done = [
            (key, folder, run)
            for key, folder, run in zip(missing, folders, runs, strict=True)
            if run.outcome != "failed" or len(missing) == 1
        ]
        rows = [
            (key, number + place, folder.name, self.spent, msgspec.json.encode(run))
            for place, (key, folder, run) in enumerate(done)
        ]
        try:
            with self._journal:
                self._journal.executemany(
                    "INSERT INTO runs (key, number, folder, spent, record) VALUES (?, ?, ?, ?, ?)",
                    rows,
                )
        except sqlite3.OperationalError as error:
            raise UserError(
                f"The journal of {self.folder} could not be written ({error}). What was "
                f"acknowledged is kept; make room and go on with: halftime resume {self.folder}",
                INTERRUPTED,
            ) from error
        made = iter(runs)
        return [next(made) if run is None else run for run in known]

    def _known(self, key: str) -> Run | None:
        """The run of that key in the journal, and what was spent until then; None: not made."""
        row = self._row(key)
        if row is None:
            return None
        self.spent = max(self.spent, float(row[1]))  # an early run may be asked for again
        return self._as_it_lies(row[0])

    def knows(self, key: str) -> bool:
        """Whether the journal has that run."""
        return self._row(key) is not None

    def _row(self, key: str) -> Any:
        statement = "SELECT record, spent FROM runs WHERE key = ?"
        return self._journal.execute(statement, (key,)).fetchone()

    def set_failure_aside(self, key: str) -> None:
        """Let a run be made again that failed before this process: its cause may be gone.

        The failed one stays in the journal, under another key.
        """
        row = None if self.read_only or key in self._made else self._row(key)
        if row is None or msgspec.json.decode(row[0], type=Run).outcome != "failed":
            return
        number = 1
        while self.knows(f"{key}, failed {number}"):
            number += 1
        self.spent = max(self.spent, float(row[1]))
        with self._journal:
            self._journal.execute(
                "UPDATE runs SET key = ? WHERE key = ?", (f"{key}, failed {number}", key)
            )

    def runs(self) -> list[tuple[str, Run]]:
        """Every acknowledged run with its key, in the order of their making."""
        rows = self._journal.execute("SELECT key, record FROM runs ORDER BY number").fetchall()
        return [(key, self._as_it_lies(record)) for key, record in rows]

    def runs_under(self, label: str) -> list[Run]:
        """The runs so far of arms that hold a switch of that label, in the order of their making.

        Of a study that is looked at, or gone on with: those that this flow has come past.
        """
        rows = self._journal.execute(
            "SELECT key, record FROM runs WHERE spent <= ? ORDER BY number", (self.spent,)
        ).fetchall()
        arms = ((key.split("/", 2)[-1].split(" + "), record) for key, record in rows)
        return [self._as_it_lies(record) for names, record in arms if label in names]

    def take_options(self, options: dict[str, Any]) -> None:
        """Remember what is asked now, as for verify: a larger budget, other arms."""
        now = json.loads(json.dumps(options))
        if now != self.fixed["options"]:
            self.fixed["options"] = now
            _write(self.folder, self.fixed)

    def _as_it_lies(self, record: str | bytes) -> Run:
        """A run of the journal, in the folder where the study lies now."""
        run = msgspec.json.decode(record, type=Run)
        return replace(run, folder=str(self.folder / "runs" / Path(run.folder).name))

    def _run_folder(self, number: int, key: str) -> Path:
        name = "".join(c if c.isalnum() else "-" for c in key)[:80].strip("-")
        folder = self.folder / "runs" / f"{number:04d}-{name}"
        attempt = 0
        while folder.exists():  # begun once and never acknowledged
            attempt += 1
            folder = folder.with_name(f"{number:04d}-{name}-again{attempt}")
        folder.mkdir(parents=True)
        return folder

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def _make(folder: Path, fixed: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, {"schema": SCHEMA, **fixed})
    except OSError as error:
        raise UserError(
            f"No study can be kept in {folder}: {error.strerror}. Choose another place with "
            "--study DIR."
        ) from error


def _write(folder: Path, fixed: dict[str, Any]) -> None:
    partial = folder / "study.json.part"
    partial.write_text(json.dumps(fixed, indent=1))
    partial.rename(folder / "study.json")


def _open_journal(folder: Path) -> sqlite3.Connection:
    path = folder / "journal.sqlite"
    try:
        journal = sqlite3.connect(path)
        newest = journal.execute("PRAGMA user_version").fetchone()[0]
        if newest > SCHEMA:
            raise UserError(f"{path} was written by a newer halftime; it is left as it is.")
        # WAL needs shared memory, which a network file system does not give.
        mode = "DELETE" if _file_system_of(folder) in _NETWORK else "WAL"
        journal.execute(f"PRAGMA journal_mode={mode}")
        journal.execute("PRAGMA synchronous=FULL")
        with journal:
            journal.execute(
                "CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, number INTEGER, "
                "folder TEXT, spent REAL, record TEXT)"
            )
            journal.execute(f"PRAGMA user_version={SCHEMA}")
        return journal
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path} cannot be used as a journal ({error}); it is left as it is."
        ) from error


def _file_system_of(folder: Path) -> str:
    place, best, kind = str(folder.resolve()), "", ""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return kind
    for line in lines:
        words = line.split()
        point, after = words[4], words[words.index("-") + 1]
        if place.startswith(point) and len(point) > len(best):
            best, kind = point, after
    return kind


def new_folder(script: str) -> Path:
    """A fresh folder for a study of `script`, named by time so that the newest sorts last."""
    name = "".join(c if c.isalnum() else "-" for c in os.path.basename(script))[:40]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return state_folder() / "studies" / f"{stamp}-{name}-{os.getpid()}"


def lock_host() -> filelock.BaseFileLock:
    """One measuring halftime a host. Raises UserError that names the other one."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    host = os.uname().nodename  # several may share a home
    lock = filelock.FileLock(folder / f"{host}.lock")
    note = folder / f"{host}.pid"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        pid = note.read_text().strip() if note.exists() else "unknown"
        raise UserError(
            f"Another halftime (pid {pid}) is measuring on this machine; two at once would measure "
            "each other. Wait until it has ended."
        ) from error
    note.write_text(str(os.getpid()))
    return lock
