"""Phases on a device, with a fake device: events in the stream, losses in a ring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from halftime.agent.recorder import Recorder
from halftime.frameworks.pytorch.device_alone import what_the_device_did
from halftime.frameworks.pytorch.phases import phases_for


class FakeDevice:
    """Stands for torch with a GPU: its clock is the number of milliseconds of work queued."""

    float32 = torch.float32

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self.synchronized = 0
        self.cuda = self

    def empty(self, size: int, dtype: Any, device: Any) -> torch.Tensor:
        return torch.zeros(size)

    def is_current_stream_capturing(self) -> bool:
        return False

    def synchronize(self, device: Any) -> None:
        self.synchronized += 1

    def max_memory_allocated(self, device: Any) -> int:
        return 123

    def current_stream(self, device: Any) -> str:
        return f"the stream of {device}"

    def Event(self, enable_timing: bool) -> Any:
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.at = 0.0

    def record(self, stream: str) -> None:
        assert stream == "the stream of cuda:0"
        self.at = self.device.milliseconds

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at


class DeviceLoss:
    is_cpu = False
    device = "cuda:0"

    def __init__(self, value: float) -> None:
        self.value = value

    def numel(self) -> int:
        return 1

    def detach(self) -> torch.Tensor:
        return torch.tensor([self.value])


def test_device_times_come_from_events_and_are_read_at_window_edges_alone(tmp_path: Path) -> None:
    device = FakeDevice()
    recorder = Recorder(str(tmp_path), 0.5, None, True)
    phases = phases_for(device, recorder)
    forward = phases.forward(lambda module, args, named: worked(device, 3.0))
    for step in range(16):
        phases.loss(step, 0, DeviceLoss(float(step)))
        forward(None, (), {})
        phases.backward(lambda tensors: worked(device, 5.0), None, (), {})
        phases.before_update()
        worked(device, 2.0)
        phases.after_update()
    assert device.synchronized == 0
    assert recorder.losses == []
    for settle in recorder.at_edge:
        settle()
    assert device.synchronized == 1
    assert [loss for _, _, loss in recorder.losses] == [float(step) for step in range(16)]
    # some of the steps are timed, and stand for all
    phases_seconds = (recorder.forward, recorder.backward, recorder.optimizer)
    assert phases_seconds == pytest.approx((0.048, 0.080, 0.032))
    (path,) = tmp_path.glob("events-*.jsonl")
    assert json.loads(path.read_text().splitlines()[-1])["peak_bytes"] == 123


def test_slow_steps_are_counted_though_few_windows_hold_one_that_is_timed(tmp_path: Path) -> None:
    device = FakeDevice()
    recorder = Recorder(str(tmp_path), 0.5, None, True)
    phases = phases_for(device, recorder)
    forward = phases.forward(lambda module, args, named: worked(device, 100.0))
    for step in range(210):
        phases.loss(step, 0, DeviceLoss(float(step)))
        forward(None, (), {})
        phases.before_update()
        phases.after_update()
        if step % 3 == 2:
            for settle in recorder.at_edge:
                settle()
    assert recorder.forward == pytest.approx(21.0, rel=0.03)


def worked(device: FakeDevice, milliseconds: float) -> None:
    device.milliseconds += milliseconds


def traced(kind: str, begins: float, takes: float, name: str = "a kernel", device: int = 0) -> Any:
    args = {"device": device}
    return {"cat": kind, "ts": begins, "dur": takes, "name": name, "args": args}


def test_trace_tells_kernels_from_copies_and_counts_what_overlaps_once() -> None:
    events = [
        {"ph": "M", "name": "process_name"},
        traced("kernel", 0, 10),
        traced("kernel", 5, 10),
        traced("gpu_memcpy", 10, 10, "Memcpy HtoD (Pageable -> Device)"),
        traced("gpu_memcpy", 30, 2, "Memcpy DtoD (Device -> Device)"),
        traced("kernel", 40, 100, "ncclDevKernel_AllReduce"),
        traced("cuda_runtime", 0, 1000),
    ]
    found = what_the_device_did(events)
    assert found == pytest.approx(
        {"computing_seconds": 17e-6, "copying_seconds": 105e-6, "kernels": 3}
    )
    other = [traced("kernel", 0, 34, device=1)]
    assert what_the_device_did(events + other)["computing_seconds"] == pytest.approx(25.5e-6)
