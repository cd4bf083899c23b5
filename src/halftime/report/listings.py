"""What there is: techniques, workloads, and what works on this machine."""

from __future__ import annotations

import ast
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..frameworks import technique_modules
from ..frameworks.pytorch.reuse import read_about
from ..ideas import IDEAS, Idea, find_idea
from ..measure import environment
from ..measure.command import find_python
from ..measure.command import workloads as bundled

_FRAMEWORKS = {"PyTorch": "torch", "Keras": "keras", "JAX": "jax"}


def techniques(name: str | None) -> str:
    """The catalogue in a line each, or one technique in full. Raises UserError."""
    if name is None:
        rows = [f"  {idea.name:<24} {idea.numerics:<9} {idea.helps_when}" for idea in IDEAS]
        return (
            "\n".join(["name, what it may change in the results, best when:", *rows, ""])
            + "more: halftime techniques NAME\n"
        )
    idea = find_idea(name)
    if idea is None:
        known = ", ".join(other.name for other in IDEAS)
        raise UserError(f"There is no technique {name!r}. There are: {known}.")
    return _in_full(idea)


def table() -> str:
    """The table idea × framework of the README, as Markdown."""
    rows = [f"| idea | {' | '.join(_FRAMEWORKS)} | may change | best when |"]
    rows += ["|---|" + "---|" * (len(_FRAMEWORKS) + 2)]
    for idea in IDEAS:
        here = " | ".join(
            "yes" if idea.name in technique_modules(key) else _on_backends(idea.name, key)
            for key in _FRAMEWORKS.values()
        )
        rows += [f"| `{idea.name}` | {here} | {idea.numerics} | {idea.helps_when} |"]
    return "\n".join(rows) + "\n"


def _on_backends(technique: str, framework: str) -> str:
    """With which others a framework has a technique; a dash where with none."""
    found = [
        name
        for name, backend in _FRAMEWORKS.items()
        if technique in technique_modules(framework, backend=backend)
    ]
    return f"on {', '.join(found)}" if found else "–"


def _in_full(idea: Idea) -> str:
    rows = [
        ("changes", idea.changes),
        ("best when", idea.helps_when),
        ("answers", ", ".join(idea.bottlenecks)),
        ("may change", f"{idea.may_change} ({idea.numerics})"),
        ("needs", idea.needs),
        ("trade-off", idea.trade_off),
        ("excludes", ", ".join(idea.conflicts) or "nothing"),
        ("source", idea.source),
    ]
    names = f" (also: {', '.join(idea.short_names)})" if idea.short_names else ""
    lines = [f"{idea.name}{names}: {idea.title}"]
    for heading, text in rows:
        lines += textwrap.wrap(
            f"{heading:<11} {text}", width=96, initial_indent="  ", subsequent_indent=" " * 14
        )
    return "\n".join(lines) + "\n"


def workloads() -> str:
    """The bundled scripts with their first line."""
    rows = []
    for name, path in bundled().items():
        caption = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        rows.append(f"  {name:<22} {caption.splitlines()[0]}")
    return "\n".join(["bundled training scripts; try: halftime tune NAME", *rows, ""])


def kept_stores(folder: Path) -> str:
    """The stores that `run --store` has kept in a folder, with their samples and sizes."""
    rows = [
        f"  {path.name:<40} {about['samples']:>10,} samples  {about['bytes'] / 1e6:>10,.1f} MB"
        for path, about in _stores(folder)
    ]
    total = sum(about["bytes"] for _, about in _stores(folder))
    return "\n".join([*rows, f"  {len(rows)} stores, {total / 1e6:,.1f} MB", ""])


def clear_stores(folder: Path) -> str:
    """Remove the stores of a folder, and what a crash left half-way; nothing else in it."""
    found = [path for path, _ in _stores(folder)]
    torn = [path for path in folder.glob("*.part-*") if path.is_dir() and not path.is_symlink()]
    for path in found + torn:
        shutil.rmtree(path)
    return f"  {len(found)} stores removed from {folder}\n"


def _stores(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted(folder.iterdir()):
        about = read_about(str(path)) if path.is_dir() and not path.is_symlink() else None
        if about is not None:
            found.append((path, about))
    return found


def doctor() -> str:
    """What works on this machine: framework, working folder, readings, processor."""
    from ..measure.command import Command, state_folder
    from ..trials import probe_workspace

    machine = environment.this_machine()
    python = find_python(None)
    idle = Command(argv=("true",), cwd=str(Path.cwd()), script="true", script_path=None)
    overlay = probe_workspace.works(idle, state_folder() / "studies" / "one")
    reading = environment.Meter.start().read()
    rows = [
        ("machine", environment.describe(machine)),
        ("bfloat16", "processor has units for it" if machine.bfloat16 else "no units: not tried"),
        ("python", f"{python} ({_frameworks(python)})"),
        ("trials", "private overlay over your project" if overlay else "a copy of your project "
         "(no overlay allowed here: cwd and __file__ differ in trials)"),
        ("readings", "pressure and steal" if reading.cpu_pressure_share is not None
         else "no /proc/pressure: disturbed blocks are found by steal alone"),
        ("studies", str(state_folder() / "studies")),
        *(("GPU memory", holder) for holder in environment.holders_of_gpu_memory()),
    ]  # fmt: skip
    return "\n".join(f"  {name:<10} {text}" for name, text in rows) + "\n"


def _frameworks(python: str) -> str:
    """The frameworks of the script's interpreter, asked without importing them."""
    code = (
        "import importlib.metadata as m\n"
        "for n in ('torch','tensorflow','tensorflow-cpu','keras','jax'):\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    try:
        said = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be asked: {error}"
    return ", ".join(said.split("\n")[:-1]) or "no torch, tensorflow, keras or jax"
