"""The notebook runs from its first cell to its last, at its tiny size."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "cut_training_time.ipynb"


def test_notebook_runs_and_ends_with_a_verified_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALFTIME_NOTEBOOK_SIZE", "tiny")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "mnist-keras is" in said
    assert "Exploratory, one run an arm, no claims." in said
    assert "gradient_accumulation(4)" in said
    assert "every figure and word is the same" in said
