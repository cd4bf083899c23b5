"""What is read of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from halftime.measure.environment import holders_of_gpu_memory


class NVMLError(Exception):
    pass


def driver(*processes: tuple[int, int | None]) -> SimpleNamespace:
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [
            SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in processes
        ],
    )


def test_live_notebook_kernel_that_holds_gpu_memory_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [sys.executable, "-c", "print(flush=True); input()", "-m", "ipykernel_launcher"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as kernel:
        assert kernel.stdout is not None
        kernel.stdout.readline()
        fake = driver((os.getpid(), 5), (1, None), (kernel.pid, 3_200_000_000))
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        first, second = holders_of_gpu_memory()
        kernel.communicate(b"\n")
    assert f"process {kernel.pid} (a notebook's live kernel" in first
    assert "3.2 GB" in first
    assert second.startswith("process 1 (")
    assert "holds memory of the GPU" in second


def test_machine_without_a_driver_has_no_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = driver()

    def fail() -> None:
        raise NVMLError

    fake.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert holders_of_gpu_memory() == []
