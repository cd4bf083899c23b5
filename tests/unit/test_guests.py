"""Guests in the user's process: standard library alone, Python 3.9, nothing at import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import halftime

PACKAGE = Path(halftime.__file__).parent
GUESTS = sorted(
    [*PACKAGE.glob("agent/**/*.py"), *PACKAGE.glob("frameworks/**/*.py"), PACKAGE / "ideas.py"]
)
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax"}


@pytest.mark.parametrize("path", GUESTS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_guest_compiles_on_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("path", GUESTS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_guest_imports_only_the_standard_library_and_other_guests(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_no_module_but_the_workloads_imports_a_framework() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "workloads" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not FRAMEWORKS & {alias.name.split(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in FRAMEWORKS, path
