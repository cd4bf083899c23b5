"""A notebook as a script: its code cells in order, magics left out and listed."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from ..errors import UserError
from .command import state_folder

# As in a notebook: the working folder comes first on the path, and `display` shows a value.
_PRELUDE = "import sys; sys.path[0] = ''; display = print\n"
_MAGICS = ("%", "!", "?")


def as_script(notebook: str) -> tuple[str, tuple[str, ...]]:
    """The path of the script that a notebook makes, and the lines that were left out.

    Raises UserError where the file is no notebook, or holds no code.
    """
    try:
        cells = json.loads(Path(notebook).read_text("utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{notebook} is no notebook that can be read ({error}).") from error
    left_out: list[str] = []
    kept = [_without_magics(source, left_out) for source in sources]
    code = _PRELUDE + "\n\n".join(kept) + "\n"
    if not "".join(kept).strip():
        raise UserError(f"{notebook} has no code cell.")
    folder = state_folder() / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(notebook).stem
    path = folder / f"{name}-{hashlib.sha256(code.encode()).hexdigest()[:12]}.py"
    path.write_text(code, "utf-8")
    return str(path), tuple(left_out)


def say_what_was_left_out(notebook: str, left_out: tuple[str, ...]) -> None:
    """List on stderr the lines of a notebook that are no Python."""
    for line in left_out:
        sys.stderr.write(f"halftime: {notebook}: left out: {line}\n")


def _without_magics(source: str, left_out: list[str]) -> str:
    """The Python of a cell; a cell magic leaves the whole cell out but for timing ones."""
    lines = source.splitlines()
    if lines and lines[0].startswith("%%"):
        left_out.append(lines[0])
        if not lines[0].startswith(("%%time", "%%capture")):
            return ""
        lines = lines[1:]
    kept = []
    for line in lines:
        if line.lstrip().startswith(_MAGICS):
            left_out.append(line.strip())
            line = line[: len(line) - len(line.lstrip())] + "pass"
        kept.append(line)
    return "\n".join(kept)
