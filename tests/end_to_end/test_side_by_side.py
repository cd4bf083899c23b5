"""Runs of which nothing is timed, side by side on GPUs; fakes stand for these."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from halftime.measure.command import parse_command
from halftime.measure.launch import Limits
from halftime.measure.workspace import private_workspace
from halftime.records import Run
from halftime.trials.execute import Executor
from halftime.trials.proving import _another_pair
from halftime.trials.study import Study
from halftime.trials.timing import Length
from tests.conftest import make_candidate

MEET = """\
import os, sys, time
folder = sys.argv[1]
before = len(os.listdir(folder))
open(os.path.join(folder, str(os.getpid())), "w").close()
until = time.monotonic() + 20
while len(os.listdir(folder)) < 4 and time.monotonic() < until:
    time.sleep(0.01)
gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "as its caller")
met = before < 4 <= len(os.listdir(folder))
print(gpu, "met" if met else "came later" if before else "alone")
"""
WHOLE = Length(full=True, window_samples=None, user_samples=None)


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executor:
    (tmp_path / "meet").mkdir()
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text(MEET)
    monkeypatch.chdir(project)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = parse_command(["train.py", str(tmp_path / "meet")], sys.executable)
    return Executor(
        study=Study(tmp_path / "study", {}),
        command=command,
        workspace=private_workspace(command, "overlay", (str(tmp_path / "meet"),)),
        stdin="/dev/null",
        base_seed=0,
        on_task=lambda task: None,
        on_event=lambda event: None,
        on_run=lambda task, run: None,
        limits=Limits(wall_seconds=60, silence_seconds=60),
        on_one_gpu=True,
    )


def said(run: Run) -> str:
    return (Path(run.folder) / "stdout.txt").read_text().strip()


def test_pairs_of_a_proof_run_side_by_side_and_are_asked_for_one_by_one(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = ["GPU-a", "GPU-b", "GPU-c", "GPU-d", "GPU-e"]
    monkeypatch.setattr("halftime.trials.execute.free_gpus", lambda: gpus)
    arm = make_candidate("threads", count=1)
    pairs = [_another_pair(executor, arm, 0, 3, WHOLE)]
    runs = executor.study.runs()
    assert [key for key, _ in runs] == [
        "parity/0/baseline", "parity/0/threads(1)", "parity/1/baseline", "parity/1/threads(1)"
    ]  # fmt: skip
    assert [said(run) for _, run in runs] == [f"{gpu} met" for gpu in gpus[:4]]
    pairs.append(_another_pair(executor, arm, 1, 2, WHOLE))
    assert executor.study.runs() == runs
    assert [run.folder for pair in pairs for run in pair] == [run.folder for _, run in runs]
    pairs.append(_another_pair(executor, arm, 2, 1, WHOLE))
    assert [said(run) for run in pairs[2]] == ["GPU-a came later", "GPU-b came later"]


@pytest.mark.parametrize("reason", ["one GPU", "several in use", "shared folder", "no memory"])
def test_runs_that_cannot_be_apart_are_made_one_by_one(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr("halftime.trials.execute.free_gpus", lambda: ["GPU-a", "GPU-b"])
    if reason == "one GPU":
        monkeypatch.setattr("halftime.trials.execute.free_gpus", lambda: ["GPU-a"])
    elif reason == "several in use":
        executor.on_one_gpu = False
    elif reason == "shared folder":
        executor.workspace = private_workspace(executor.command, "none", ())
    else:
        monkeypatch.setattr("halftime.trials.execute.available_bytes", lambda: 1)
    assert len(executor.gpus_for(2)) < 2
