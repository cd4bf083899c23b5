"""What is read of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from halftime.agent import memory
from halftime.measure import environment
from halftime.measure.environment import free_gpus, holders_of_gpu_memory


class NVMLError(Exception):
    pass


def driver(*processes: tuple[int, int | None]) -> SimpleNamespace:
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
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


@dataclass(frozen=True)
class Card:
    name: str = "H100"
    used: int = 0
    processes: int = 0
    cut: int = 0
    lost: bool = False


@pytest.mark.parametrize(
    ("cards", "visible", "free"),
    [
        ([Card(), Card()], None, ["GPU-0", "GPU-1"]),
        ([Card(), Card(), Card()], "2,0", ["GPU-2", "GPU-0"]),
        ([Card(), Card()], "GPU-1", ["GPU-1"]),
        ([Card(), Card()], "", []),
        ([Card(), Card()], "0,7,1", ["GPU-0"]),
        ([Card(), Card(name="A2"), Card()], None, []),
        ([Card(), Card(lost=True), Card()], None, ["GPU-0", "GPU-2"]),
        ([Card(), Card(lost=True), Card()], "2", ["GPU-2"]),
        ([Card(cut=1), Card(), Card()], "MIG-7", []),
        ([Card(processes=1), Card(used=50), Card(cut=1), Card(used=1)], None, ["GPU-3"]),
    ],
)
def test_gpus_that_nobody_computes_on_are_free(
    monkeypatch: pytest.MonkeyPatch, cards: list[Card], visible: str | None, free: list[str]
) -> None:
    def opened(index: int) -> int:
        if cards[index].lost:
            raise NVMLError
        return index

    def mode(index: int) -> tuple[int, int]:
        if cards[index].name != "H100":
            raise NVMLError
        return cards[index].cut, 0

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=opened,
        nvmlDeviceGetName=lambda index: cards[index].name,
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}",
        nvmlDeviceGetMigMode=mode,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(used=cards[index].used, total=100),
        nvmlDeviceGetComputeRunningProcesses=lambda index: [1] * cards[index].processes,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_gpus() == free


@pytest.mark.parametrize(
    ("line", "group", "files"),
    [
        ("0::/slurm/job/step", "slurm/job",
         {"memory.max": "3000", "memory.current": "1000", "cpu.max": "100000 100000"}),
        ("9:memory:/slurm/job\n4:cpu,cpuacct:/slurm/job", "memory/slurm",
         {"memory.limit_in_bytes": "3000", "memory.usage_in_bytes": "1000"}),
    ],
)  # fmt: skip
def test_limit_of_a_group_in_between_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, group: str, files: dict[str, str]
) -> None:
    """As SLURM sets one for a job, above the group of each step."""
    place = tmp_path / group
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    read = Path.read_text

    def read_text(self: Path, *args: object) -> str:
        return line if str(self) == "/proc/self/cgroup" else read(self)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert memory.available_bytes() == 2000
    (place / "memory.stat").write_text("anon 900\ninactive_file 300\n")
    assert memory.available_bytes() == 2300
    assert environment.usable_cores() >= 1
    if "cpu.max" in files:
        assert environment.usable_cores() == 1
