"""Techniques that need a GPU: what they refuse, set and prove, with a fake of the device."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halftime.agent.patches import Patches
from halftime.agent.recorder import Recorder
from tests.conftest import make_diagnosis, make_facts, make_loader, make_root

GPU = {"device": "cuda", "device_name": "a GPU"}
NAMES = ("matmul_precision", "cudnn_autotune", "pinned_memory")


def technique(name: str) -> Any:
    return importlib.import_module(f"halftime.frameworks.pytorch.{name}")


def reason(name: str, **facts: object) -> str:
    made = make_facts(**facts)  # type: ignore[arg-type]
    proposal = technique(name).settings_to_try(made, make_diagnosis(made))[0]
    return "" if proposal.switch is not None else proposal.reason


class FakeTorch:
    """The switches that these techniques turn, on a device that is in use."""

    def __init__(self) -> None:
        self.precision = "highest"
        self.cuda = SimpleNamespace(is_initialized=lambda: True)
        self.backends = SimpleNamespace(cudnn=SimpleNamespace(benchmark=False, deterministic=False))

    def set_float32_matmul_precision(self, precision: str) -> None:
        self.precision = precision

    def get_float32_matmul_precision(self) -> str:
        return self.precision


@pytest.fixture
def patches(tmp_path: Path) -> Patches:
    return Patches(Recorder(str(tmp_path), 0.5, None, in_trial=False))


@pytest.mark.parametrize("name", NAMES)
def test_technique_for_a_gpu_is_refused_without_one(name: str) -> None:
    assert "there is no GPU" in reason(name)


@pytest.mark.parametrize("name", NAMES)
def test_technique_for_a_gpu_is_proposed_on_one(name: str) -> None:
    assert reason(name, roots=(make_root(convolutions=3),), **GPU) == ""


@pytest.mark.parametrize(
    ("name", "facts", "said"),
    [
        ("matmul_precision", {"bfloat16_units": False}, "has no TF32"),
        ("matmul_precision", {"already_on": ("matmul_precision",)}, "already on"),
        ("cudnn_autotune", {"roots": (make_root(convolutions=0),)}, "no 2-D convolutions"),
        ("cudnn_autotune", {"already_on": ("cudnn_autotune",)}, "already on"),
        ("pinned_memory", {"loader": make_loader(pinned=True)}, "already on"),
        ("pinned_memory", {"training_loader": -1}, "no DataLoader"),
    ],
)
def test_reason_to_leave_a_gpu_script_alone_is_said(
    name: str, facts: dict[str, object], said: str
) -> None:
    assert said in reason(name, **{**GPU, **facts})


def test_matmul_precision_is_proven_at_the_end_or_refused(patches: Patches) -> None:
    torch = FakeTorch()
    technique("matmul_precision").install(torch, {"precision": "high"}, patches)
    assert torch.precision == "high"
    effects = finished(patches)
    assert effects == {"matmul_precision": {"precision": "high"}}


def test_matmul_precision_that_the_script_sets_back_has_no_effect(patches: Patches) -> None:
    torch = FakeTorch()
    technique("matmul_precision").install(torch, {"precision": "high"}, patches)
    torch.precision = "highest"
    assert finished(patches) == {}


@pytest.mark.parametrize(("deterministic", "acts"), [(False, True), (True, False)])
def test_cudnn_autotune_gives_way_to_determinism(
    patches: Patches, deterministic: bool, acts: bool
) -> None:
    torch = FakeTorch()
    technique("cudnn_autotune").install(torch, {}, patches)
    torch.backends.cudnn.deterministic = deterministic
    assert bool(finished(patches)) is acts


class FakeTensor:
    """A tensor of the host, with what a copy to the GPU is asked for."""

    def __init__(self, of_the_loader: bool) -> None:
        if of_the_loader:
            self._halftime_pinned = True

    def to(self, *args: object, **named: object) -> object:
        return args, named

    cuda = to


@pytest.mark.parametrize("of_the_loader", [True, False])
def test_host_waits_for_no_copy_of_what_the_loader_pinned(
    patches: Patches, of_the_loader: bool
) -> None:
    class Tensor(FakeTensor):
        """Of this test alone: its methods are replaced."""

    loaders = importlib.import_module("torch.utils.data.dataloader")
    originals = loaders.DataLoader.__init__, loaders._BaseDataLoaderIter.__next__
    try:
        technique("pinned_memory").install(SimpleNamespace(Tensor=Tensor), {}, patches)
    finally:
        loaders.DataLoader.__init__, loaders._BaseDataLoaderIter.__next__ = originals
    tensor, ahead = Tensor(of_the_loader), {"non_blocking": True} if of_the_loader else {}
    assert tensor.to("cuda") == (("cuda",), ahead)
    assert tensor.cuda() == ((), ahead)
    assert tensor.to("cuda", None, False) == (("cuda", None, False), {})
    assert tensor.to("cuda", non_blocking=False) == (("cuda",), {"non_blocking": False})


def finished(patches: Patches) -> dict[str, dict[str, object]]:
    """What took effect, as it stands in the agent's file at the end."""
    import json

    patches.finish()
    folder = Path(patches.recorder.folder)
    events = [
        json.loads(line)
        for path in folder.glob("events-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return {
        event.pop("technique"): {k: v for k, v in event.items() if k != "event"}
        for event in events
        if event["event"] == "effect"
    }
