"""Device alone: what a GPU itself computes of a step, from a short trace of its kernels.

Events around forward and backward also hold the gaps in which the GPU waits for the host to launch
the next kernel; what the kernels take, and how many there are, only a trace can tell.
Source: torch.profiler (CUPTI).
"""

from __future__ import annotations

import importlib
import json
import os
from typing import Any, Dict, Iterable, List, Optional, Tuple

from ...agent.patches import Patches
from ...agent.recorder import clock

_WARM_STEPS, _WARM_SECONDS = 3, 2.0
_FEWEST_STEPS, _MOST_STEPS, _TRACED_SECONDS, _TRIES = 2, 20, 1.0, 5

Span = Tuple[float, float]


def install(torch: Any, patches: Patches) -> None:
    """Trace some steps once the training has warmed up, write what they took, and end the run."""
    trace = _Trace(torch, patches)
    module = importlib.import_module("torch.optim.optimizer")
    module.register_optimizer_step_post_hook(lambda optimizer, *call: trace.updated(id(optimizer)))


class _Trace:
    """From an update of one optimizer to a later one of the same."""

    def __init__(self, torch: Any, patches: Patches) -> None:
        self._torch = torch
        self._recorder = patches.recorder
        self._first: Optional[float] = None
        self._profile: Any = None
        self._leader = self._tries = 0
        self._why_not = "its steps are too few, too slow, or evaluations lie between them"
        patches.at_exit(self._report)
        self._from_step, self._started = 0, 0.0

    def updated(self, optimizer: int) -> None:
        try:
            self._look(optimizer)
        except Exception as error:  # the script may run a profiler of its own
            self._why_not = f"{type(error).__name__}: {error}"
            self._recorder.end("window")

    def _look(self, optimizer: int) -> None:
        recorder, now = self._recorder, clock()
        if recorder.off or not self._torch.cuda.is_initialized():
            return
        if self._profile is not None and recorder.evaluated_since(self._started):
            # Kernels of an evaluation are none of a step: once more.
            self._profile.stop()
            self._profile, self._tries = None, self._tries + 1
            if self._tries == _TRIES:
                recorder.end("window")
        if self._first is None:
            self._first = now
        if self._profile is None:
            if recorder.steps >= _WARM_STEPS and now - self._first >= _WARM_SECONDS:
                self._start(optimizer)
            return
        steps = recorder.steps - self._from_step
        if optimizer != self._leader or steps < _FEWEST_STEPS:
            return
        if steps >= _MOST_STEPS or now - self._started >= _TRACED_SECONDS:
            self._stop(steps)

    def _start(self, optimizer: int) -> None:
        activity = self._torch.profiler.ProfilerActivity.CUDA
        self._torch.cuda.synchronize()
        self._profile = self._torch.profiler.profile(activities=[activity])
        self._profile.start()
        self._leader, self._from_step = optimizer, self._recorder.steps
        self._started = clock()

    def _stop(self, steps: int) -> None:
        self._torch.cuda.synchronize()
        self._profile.stop()
        path = os.path.join(self._recorder.folder, f"device-{os.getpid()}.json")
        self._profile.export_chrome_trace(path)
        with open(path, encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
        os.unlink(path)
        found = what_the_device_did(events)
        self._why_not = "" if found["kernels"] else "the profiler saw no kernel"
        if found["kernels"]:
            shares = {name: number / steps for name, number in found.items()}
            self._recorder.emit("device_alone", steps=steps, **shares)
        self._recorder.end("window")

    def _report(self) -> None:
        if self._why_not:
            self._recorder.emit("untraced", reason=self._why_not)


def what_the_device_did(events: Iterable[Dict[str, Any]]) -> Dict[str, float]:
    """Of a trace of Chrome's format: seconds in kernels, in copies alone, and how many kernels.

    What runs at the same time on several streams is counted once; of several GPUs this is their
    mean. Copies within a GPU are its own work; what waits for other GPUs (NCCL) is none.
    """
    computing: Dict[Any, List[Span]] = {}
    copying: Dict[Any, List[Span]] = {}
    for event in events:
        kind, name = event.get("cat"), event.get("name", "")
        device = event.get("args", {}).get("device")
        span = (event.get("ts", 0.0), event.get("ts", 0.0) + event.get("dur", 0.0))
        moves = name.startswith("nccl") or (kind == "gpu_memcpy" and "DtoD" not in name)
        if kind in ("kernel", "gpu_memset", "gpu_memcpy"):
            (copying if moves else computing).setdefault(device, []).append(span)
    computes = sum(map(_covered, computing.values()))
    busy = sum(
        _covered(computing.get(device, []) + copying.get(device, []))
        for device in {**computing, **copying}
    )
    devices = max(len(computing), 1)
    return {
        "computing_seconds": computes / devices,
        "copying_seconds": (busy - computes) / devices,
        "kernels": sum(map(len, computing.values())) / devices,
    }


def _covered(spans: List[Span]) -> float:
    """The length of the union of spans of microseconds. Seconds."""
    total, end = 0.0, float("-inf")
    for begins, ends in sorted(spans):
        total += max(0.0, ends - max(begins, end))
        end = max(end, ends)
    return total / 1e6
