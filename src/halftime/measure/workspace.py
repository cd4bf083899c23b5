"""The private working folder of a run: the user's tree is the same after as before."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError
from .command import Command, state_folder

_SMALL_BYTES = 1_000_000
_MOST_FILES = 20_000
_NOT_COPIED = {".git", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache"}
_LINKED = {".venv", "venv", "node_modules"}
_CACHES = ("~/.cache", "~/.keras", "~/.torch", "~/.triton", "~/.nv", "~/nltk_data",
           "~/scikit_learn_data", "~/tensorflow_datasets", "~/.config/matplotlib")  # fmt: skip
_CACHE_VARIABLES = ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "KERAS_HOME", "TFDS_DATA_DIR",
                    "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # fmt: skip
_COMPILERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""Their folders lie in TMPDIR and in HOME, of which a trial has neither."""
_OFFLINE = {"WANDB_MODE": "offline", "COMET_MODE": "disabled", "NEPTUNE_MODE": "offline",
            "CLEARML_OFFLINE_MODE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip

Kind = Literal["overlay", "copy", "none"]
COPY = "/work/copy/"
"""In the path of a file that a run had a copy of: what follows is its place."""


def in_the_project(path: str) -> str:
    """The place of a file or folder, of which a trial may have had a copy."""
    return "/" + path.partition(COPY)[2] if COPY in path else path


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """How a run sees the user's files: where it is private, and what it may write."""

    kind: Kind
    roots: tuple[str, ...]
    """Project folders that are covered (overlay) or copied."""
    writable: tuple[str, ...] | None
    """Folders that the run may write to; None: not limited."""
    environment: dict[str, str]

    def job(
        self, command: Command, folder: Path, shared: Sequence[str], compiled: Path
    ) -> dict[str, object]:
        """What the keeper needs to put the command into its working folder.

        folder: of the run. shared: folders of the study that the run writes to as well.
        compiled: where compilers keep their work for the runs that follow.
        """
        private = folder / "work"
        (private / "tracking").mkdir(parents=True, exist_ok=True)
        compiled.mkdir(parents=True, exist_ok=True)
        shared = [*shared, str(compiled)]
        # Short: worker processes bind sockets below TMPDIR, whose paths may have 108 bytes.
        scratch = tempfile.mkdtemp(prefix="ht-")
        overlays, writable = [], None
        mounted = _mounts_below(self.roots)
        cwd = command.cwd
        argv = list(command.argv)
        if self.kind == "overlay":
            # An overlay shows nothing that is mounted below: such a folder gets one of its own.
            folders = (path for path in mounted if os.path.isdir(path))
            for number, root in enumerate((*self.roots, *folders)):
                upper, work = private / f"upper-{number}", private / f"work-{number}"
                upper.mkdir()
                work.mkdir()
                overlays.append({"lower": root, "upper": str(upper), "work": str(work)})
                # An overlay hides a file that is mounted: its layer holds a copy.
                for path in (p for p in mounted if os.path.isfile(p) and _is_below(p, (root,))):
                    copy = upper / Path(path).relative_to(root)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copy)
        elif self.kind == "copy":
            for root in self.roots:
                copy = private / "copy" / Path(root).relative_to("/")
                _copy_tree(Path(root), copy, leave_out=_places_of_studies(folder))
                cwd = _moved(cwd, root, copy)
                # The interpreter stays where its environment is.
                argv = [argv[0], *(_moved(word, root, copy) for word in argv[1:])]
        if self.writable is not None:
            writable = [*self.writable, str(folder), *shared, scratch]
            writable += self.roots if self.kind == "overlay" else ()
        keep = [str(folder), *shared, *_caches()]
        return {
            "argv": argv,
            "scratch": scratch,
            "cwd": cwd,
            "overlays": overlays,
            "writable": writable,
            "keep": [path for path in keep if _is_below(path, self.roots)] if overlays else [],
            "environment": {
                **self.environment,
                **{
                    variable: str(compiled / name)
                    for variable, name in _COMPILERS.items()
                    if variable not in os.environ
                },
                "TMPDIR": scratch,
                "WANDB_DIR": str(private / "tracking"),
                "MLFLOW_TRACKING_URI": f"file://{private / 'tracking'}",
            },
        }

    @staticmethod
    def discard(folder: Path) -> None:
        """Delete what the run wrote: its checkpoints and its copy of the project."""
        shutil.rmtree(folder / "work", ignore_errors=True)


def private_workspace(command: Command, kind: Kind, allowed: tuple[str, ...]) -> Workspace:
    """A workspace for trials of `command`; `allowed` comes from --allow-write."""
    roots = project_roots(command)
    missing = [path for path in allowed if not os.path.exists(path)]
    if missing:
        raise UserError(f"--allow-write {missing[0]}: no such file or folder; make it first.")
    writable: tuple[str, ...] | None = None
    if kind != "none":
        # Download caches stay the user's; the folder for them is made where it is missing.
        os.makedirs(os.path.expanduser(_CACHES[0]), exist_ok=True)
        writable = ("/dev", "/proc", *_caches(), *(os.path.abspath(p) for p in allowed))
    return Workspace(
        kind=kind,
        roots=roots,
        writable=writable,
        environment=dict(_OFFLINE) if kind != "none" else {},
    )


def project_roots(command: Command) -> tuple[str, ...]:
    """The folders that a script may write to as its own: its repository or folder, and the cwd."""
    places = [command.cwd]
    if command.script_path is not None and not _is_bundled(command.script_path):
        places.append(os.path.dirname(os.path.abspath(command.script_path)))
    roots: list[str] = []
    for place in places:
        root = _repository_of(os.path.realpath(place))
        if root == "/" or any(_is_below(root, (other,)) for other in roots):
            continue
        roots = [other for other in roots if not _is_below(other, (root,))] + [root]
    return tuple(roots)


def _is_bundled(script: str) -> bool:
    package = str(Path(__file__).resolve().parent.parent)
    return _is_below(os.path.realpath(script), (package,))


def _repository_of(place: str) -> str:
    home = os.path.expanduser("~")
    for folder in (Path(place), *Path(place).parents):
        if (folder / ".git").exists() and str(folder) not in (home, "/"):
            return str(folder)
    return place


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _caches() -> list[str]:
    named = [os.environ[name] for name in _CACHE_VARIABLES if os.environ.get(name)]
    return [
        os.path.realpath(p) for p in (*map(os.path.expanduser, _CACHES), *named) if os.path.isdir(p)
    ]


def _mounts_below(roots: tuple[str, ...]) -> list[str]:
    """What is mounted inside a project, folders and files, the outer before the inner."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return []
    points = dict.fromkeys(
        re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in lines
    )
    return [point for point in points if _is_below(point, roots) and point not in roots]


def _moved(word: str, root: str, copy: Path) -> str:
    return str(copy) + word[len(root) :] if _is_below(word, (root,)) else word


def _copy_tree(source: Path, target: Path, leave_out: tuple[str, ...]) -> None:
    """Copy small files, link large ones read-only; the depth below / stays as it was."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(source):
        if entry.name in _LINKED:
            (target / entry.name).symlink_to(entry.path)
        elif entry.name in _NOT_COPIED or os.path.realpath(entry.path) in leave_out:
            continue
        elif not os.access(entry.path, os.R_OK):
            (target / entry.name).symlink_to(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            _copy_tree(Path(entry.path), target / entry.name, leave_out)
        elif entry.is_file() and entry.stat().st_size <= _SMALL_BYTES:
            shutil.copy2(entry.path, target / entry.name)
        else:
            (target / entry.name).symlink_to(entry.path)


def _places_of_studies(folder: Path) -> tuple[str, ...]:
    """What a copy leaves out, as it would hold itself: this run's study, and all others."""
    study = folder.parent.parent if folder.parent.name == "runs" else folder
    return os.path.realpath(study), os.path.realpath(state_folder())


def snapshot(roots: tuple[str, ...], leave_out: tuple[str, ...]) -> dict[str, str]:
    """The state of a tree: content under 1 MB, size, time and inode above; 20,000 files at most."""
    seen: dict[str, str] = {}
    for root in roots:
        for folder, below, names in os.walk(root):
            below[:] = sorted(
                name
                for name in below
                if name not in _NOT_COPIED and not _is_below(os.path.join(folder, name), leave_out)
            )
            for name in sorted(names):
                if len(seen) >= _MOST_FILES:
                    return seen
                path = os.path.join(folder, name)
                seen[path] = _state_of(path)
    return seen


def _state_of(path: str) -> str:
    try:
        status = os.lstat(path)
        if os.path.islink(path) or status.st_size > _SMALL_BYTES or not os.path.isfile(path):
            return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        return type(error).__name__
