"""Every bundled script trains, knowing nothing of us, and says which data it found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from halftime.measure.command import workloads

SHORT = {
    "transformer-pytorch": ["--steps", "3"],
    "transformer-keras": ["--steps", "3"],
    "mnist-pytorch": ["--epochs", "1", "--train", "320", "--test", "64"],
    "mlp-pytorch": ["--epochs", "1", "--train", "320", "--test", "64"],
    "mnist-keras": ["--epochs", "1", "--train", "320", "--test", "64"],
}


@pytest.mark.parametrize("name", sorted(workloads()))
def test_workload_trains_and_names_its_data(name: str, tmp_path: Path) -> None:
    words = SHORT.get(name, ["--epochs", "1"])
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(workloads()[name]), *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("data: ")
    assert len(done.stdout.splitlines()) >= 2
