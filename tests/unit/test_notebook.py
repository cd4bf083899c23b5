"""A notebook becomes a script: code cells in order, magics left out and named."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from halftime.errors import UserError
from halftime.measure.command import parse_command
from halftime.measure.notebook import as_script


def write_notebook(path: Path, *cells: str) -> str:
    content = [{"cell_type": "markdown", "source": ["# Title"]}]
    content += [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    path.write_text(json.dumps({"cells": content, "nbformat": 4}))
    return str(path)


@pytest.fixture(autouse=True)
def private_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_code_cells_run_in_order_beside_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "mine.py").write_text("answer = 42\n")
    notebook = write_notebook(
        project / "train.ipynb",
        "!pip install torch\nimport mine\n",
        "%%bash\nrm -rf everything\n",
        "%%time\nif mine.answer:\n    %matplotlib inline\n",
        "display(mine.answer)\n",
    )
    command = parse_command([notebook, "--epochs", "1"], None)
    assert command.cwd == str(project)
    assert command.script == notebook
    seen = subprocess.run(command.argv, cwd=command.cwd, capture_output=True, text=True, check=True)
    assert seen.stdout == "42\n"
    _, left_out = as_script(notebook)
    assert left_out == ("!pip install torch", "%%bash", "%%time", "%matplotlib inline")


def test_same_notebook_gives_the_same_script(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "train.ipynb", "print(1)\n")
    assert as_script(notebook) == as_script(notebook)


@pytest.mark.parametrize("text", ["no json", "{}", '{"cells": []}', '{"cells": 3}'])
def test_file_that_is_no_notebook_is_a_usage_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.ipynb"):
        as_script(str(path))
