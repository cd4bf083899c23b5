"""What tests share: values with plain defaults, and runs of small scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from halftime.records import (
    Candidate,
    Diagnosis,
    Facts,
    LoaderFacts,
    Machine,
    Reading,
    RootFacts,
    Run,
    Switch,
    Window,
)

# Scripts of two tests share the cores: a thread of OpenMP that spins while it waits robs the other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SCRIPTS = Path(__file__).parent / "scripts"
QUIET = Reading(cpu_pressure_share=0.1, steal_share=0.0, load_before=0.0)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies of tests stay in their own folder; the width of a terminal is fixed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "120")


def make_window(start: float, seconds: float, samples: int, **more: object) -> Window:
    fields: dict[str, object] = {
        "start": start, "end": start + seconds, "steps": max(samples // 10, 1), "samples": samples,
        "updates": max(samples // 10, 1), "wait": 0.0, "forward": 0.0, "backward": 0.0,
        "optimizer": 0.0, "evaluation": 0.0, "durations": (), "losses": (), "peak_bytes": 0,
    }  # fmt: skip
    return Window(**{**fields, **more})  # type: ignore[arg-type]


def make_run(windows: Sequence[Window] = (), **more: object) -> Run:
    fields: dict[str, object] = {
        "folder": "", "outcome": "completed", "cause": "", "exit_code": 0,
        "wall_seconds": windows[-1].end if windows else 1.0, "imported_at": 0.5,
        "training_start": windows[0].start if windows else None,
        "training_end": windows[-1].end if windows else None, "windows": tuple(windows),
        "evaluations": (), "steps": sum(w.steps for w in windows),
        "samples": sum(w.samples for w in windows), "updates": sum(w.updates for w in windows),
        "effects": {}, "refused": (), "checkpoints": (), "evaluation_losses": (),
        "reported_metrics": (), "evaluation_fingerprints": (), "nonfinite": False,
        "peak_bytes": 0, "device_peak_bytes": None, "reading": QUIET, "last_lines": "",
        "processes_observed": 1,
    }  # fmt: skip
    return Run(**{**fields, **more})  # type: ignore[arg-type]


def make_loader(**more: object) -> LoaderFacts:
    fields: dict[str, object] = {
        "ordinal": 0, "dataset": "Digits", "dataset_length": 1000, "batch_size": 10,
        "batches": 100, "workers": 0, "iterable": False, "shuffles": True,
        "default_collate": True, "torch_sampler": True, "pinned": False, "place": "train.py:1",
        "deterministic": True, "item_seconds": 1e-4, "collate_seconds": 1e-5, "sample_bytes": 100,
    }  # fmt: skip
    return LoaderFacts(**{**fields, **more})  # type: ignore[arg-type]


def make_root(**more: object) -> RootFacts:
    fields: dict[str, object] = {
        "class_name": "__main__:Net", "parameters": 100, "calls_per_update": 1.0,
        "convolutions": 0, "grouped_convolutions": 0, "random_layers": False, "compiled": False,
        "last_operations": ("AddmmBackward0",),
    }  # fmt: skip
    return RootFacts(**{**fields, **more})  # type: ignore[arg-type]


def make_facts(loader: LoaderFacts | None = None, **more: object) -> Facts:
    fields: dict[str, object] = {
        "framework": "torch", "framework_version": "2.13", "device": "cpu", "device_name": "a CPU",
        "threads": 2, "training_loader": 0, "loaders": (loader or make_loader(),),
        "roots": (make_root(),), "brakes": (), "already_on": (), "notes": (), "cores": 2,
        "available_bytes": 10**10, "bfloat16_units": True,
    }  # fmt: skip
    return Facts(**{**fields, **more})  # type: ignore[arg-type]


def make_diagnosis(facts: Facts | None = None, **phases: float) -> Diagnosis:
    from halftime.measure.diagnose import explain

    shares = {"wait": 0.6, "forward": 0.15, "backward": 0.15, "optimizer": 0.05, **phases}
    return explain([make_window(0, 1.0, 100, **shares)], facts or make_facts())


def make_candidate(*names: str, numerics: str = "exact", **settings: object) -> Candidate:
    return Candidate(
        switches=tuple(
            Switch(technique=name, settings=settings, numerics=numerics)  # type: ignore[arg-type]
            for name in names
        )
    )


MACHINE = Machine(
    processor="a CPU", bfloat16=True, cores=2, available_bytes=10**10, gpu=None,
    gpu_bfloat16=False, system="Linux",
)  # fmt: skip


@pytest.fixture
def halftime(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the program as a user would, in a project folder of its own."""
    project = tmp_path / "project"
    project.mkdir()

    def call(*words: str, cwd: Path = project, **more: object) -> subprocess.CompletedProcess[str]:
        options: dict[str, object] = {"timeout": 300, "stdin": subprocess.DEVNULL, **more}
        environment = {**os.environ, **dict(options.pop("env", {}))}  # type: ignore[call-overload]
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [sys.executable, "-m", "halftime", *words],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            **options,
        )

    return call
