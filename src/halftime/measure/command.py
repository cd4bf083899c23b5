"""What the user wrote, as the command that will be executed."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FRAMEWORKS = ("torch", "tensorflow", "keras", "jax")
WORKLOADS = Path(__file__).resolve().parent.parent / "workloads"


def state_folder() -> Path:
    """The user's state folder, where studies live unless --study says otherwise."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "halftime"


@dataclass(frozen=True, kw_only=True)
class Command:
    """The user's command, as it will be executed.

    Not in records.py, so that `halftime run` need not load all of them to start a script.
    """

    argv: tuple[str, ...]
    cwd: str
    script: str
    """What the user wrote in the place of the script: a path, `-m module`, a launcher."""
    script_path: str | None
    """The file of the script, where there is one; an absolute path."""
    asked: str = ""
    """All that the user wrote after halftime's options, to be written again in a shell."""


def shortened(command: Command, trial_args: str | None) -> Command:
    """The command with what makes a trial of it short. Raises UserError for unbalanced quotes."""
    if trial_args is None:
        return command
    import shlex
    from dataclasses import replace

    try:
        words = shlex.split(trial_args)
    except ValueError as error:
        raise UserError(f"--trial-args {trial_args}: {error}.") from error
    return replace(command, argv=(*command.argv, *words))


def workloads() -> dict[str, Path]:
    """The bundled training scripts by name."""
    return {
        path.stem.replace("_", "-"): path
        for path in sorted(WORKLOADS.glob("*_*.py"))
        if not path.stem.startswith("_")
    }


def parse_command(words: list[str], python: str | None) -> Command:
    """The command to execute for `train.py …`, `-m module …`, `-- launcher …` or a workload.

    Raises UserError where there is no such script or interpreter.
    """
    if not words:
        raise UserError(
            "Expected the command that trains your model, found none. "
            "For example: halftime diagnose train.py --epochs 1"
        )
    import shlex

    cwd, asked = os.getcwd(), shlex.join(words)
    if words[0] == "--":
        return _launcher(words[1:], cwd, asked)
    interpreter = find_python(python)

    def of(script: str, path: str | None, argv: Sequence[str], folder: str = cwd) -> Command:
        return Command(
            argv=(interpreter, *argv), cwd=folder, script=script, script_path=path, asked=asked
        )

    if words[0] == "-m":
        if len(words) < 2:
            raise UserError(
                "Expected a module after -m. For example: halftime tune -m package.train"
            )
        return of(f"-m {words[1]}", _file_of(words[1], cwd) or _script_in(words[2:]), words)
    script = words[0]
    if not os.path.exists(script) and script in workloads():
        path = str(workloads()[script])
        return of(script, path, (path, *words[1:]))
    if not os.path.isfile(script):
        raise UserError(_no_such_script(script))
    if script.endswith(".ipynb"):
        from .notebook import as_script, say_what_was_left_out

        path, left_out = as_script(script)
        say_what_was_left_out(script, left_out)
        folder = os.path.dirname(os.path.abspath(script))
        return of(script, path, (path, *words[1:]), folder)
    return of(script, os.path.abspath(script), words)


def _script_in(words: list[str]) -> str | None:
    """The script that a launcher is given."""
    script = next((w for w in words if w.endswith(".py") and os.path.isfile(w)), None)
    return os.path.abspath(script) if script else None


def _file_of(module: str, cwd: str) -> str | None:
    """The file that `-m module` runs, where it lies below the cwd."""
    place = os.path.join(cwd, *module.split("."))
    return next(filter(os.path.isfile, (f"{place}.py", f"{place}/__main__.py")), None)


def _launcher(words: list[str], cwd: str, asked: str) -> Command:
    import shutil

    if not words:
        raise UserError(
            "Expected a launcher after --. For example: halftime tune -- torchrun "
            "--nproc-per-node 2 train.py"
        )
    executable = shutil.which(words[0])
    if executable is None:
        beside = os.path.join(os.path.dirname(find_python(None)), words[0])
        if not os.access(beside, os.X_OK):
            raise UserError(f"Expected a program on PATH after --, found no {words[0]!r}.")
        executable = beside
    executable = os.path.abspath(executable)  # it stays in its environment, wherever the cwd is
    return Command(
        argv=(executable, *words[1:]), cwd=cwd, script=" ".join(words),
        script_path=_script_in(words[1:]), asked=asked,
    )  # fmt: skip


def _no_such_script(script: str) -> str:
    if script.startswith("-"):
        return f"Unknown option {script}. Options of halftime: halftime --help"
    if os.path.isdir(script):
        return f"{script} is a folder. Name the script in it, or use -m for a package."
    names = ", ".join(workloads())
    return f"No such script: {script} (looked in {os.getcwd()}). Bundled workloads: {names}."


def find_python(asked: str | None) -> str:
    """The script's interpreter: --python, the active environment, ours, or the one on PATH.

    Ours only where a framework is installed beside us. Raises UserError where none runs.
    """
    if asked is not None and os.path.isfile(asked) and os.access(asked, os.X_OK):
        return os.path.abspath(asked)  # the script may run in another folder
    active = _active_python() if asked is None else None
    if active is not None:
        return active
    # Imported here: a script whose interpreter is known by now starts without them.
    import importlib.util
    import shutil

    if asked is not None:
        found = shutil.which(asked)
        if found is None:
            raise UserError(f"--python {asked}: no such interpreter.")
        return found
    if any(importlib.util.find_spec(name) is not None for name in _FRAMEWORKS):
        return sys.executable
    return shutil.which("python3") or shutil.which("python") or sys.executable


def _active_python() -> str | None:
    """The interpreter of the environment that was activated last: the one that PATH finds first.

    Conda's base is active in every shell of many users, and is chosen by none of them.
    """
    found = []
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = os.environ.get(variable)
        is_base = variable == "CONDA_PREFIX" and os.environ.get("CONDA_DEFAULT_ENV") == "base"
        if prefix and not is_base:
            python = os.path.join(prefix, "bin", "python")
            found += [python] if os.access(python, os.X_OK) else []
    path = os.environ.get("PATH", "").split(os.pathsep)
    places = {python: os.path.dirname(python) for python in found}
    return min(
        found,
        key=lambda python: path.index(places[python]) if places[python] in path else len(path),
        default=None,
    )


def changed_files(known: Mapping[str, str]) -> list[str]:
    """The files that are not what they were; known: their digests."""
    here = {file: digest_of_script(file) for file in known}  # '' where there is none
    return [file for file, digest in known.items() if here[file] not in ("", digest)]


def digest_of_script(path: str | None) -> str:
    """What tells a changed script from the one that was measured; '' where there is no file."""
    if path is None or not os.path.isfile(path):
        return ""
    import hashlib  # only needed with a plan: 2 ms of a script's start

    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
