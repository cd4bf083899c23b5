"""The machine: what makes two runs comparable, and what it did meanwhile (measurement.md §2)."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..agent.memory import available_bytes, first_line, groups_of
from ..records import Machine, Reading

Answer = TypeVar("Answer")
_MOST_HELD_OF_A_FREE_GPU = 0.02


def usable_cores() -> int:
    """Cores that this process may use: affinity, and the cgroup's quota where there is one."""
    cores = len(os.sched_getaffinity(0))
    for group in groups_of("cpu"):
        quota, period = first_line(group / "cpu.cfs_quota_us"), ""
        if quota:
            period = first_line(group / "cpu.cfs_period_us")
        else:
            quota, _, period = first_line(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def processor() -> tuple[str, bool]:
    """The processor's name, and whether it has bfloat16 units (AVX512_BF16 or AMX)."""
    name, flags = platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = value
                break
    except OSError:
        pass
    words = set(flags.split())
    return name, bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def graphics() -> tuple[str, bool] | None:
    """The first NVIDIA GPU's name, and whether it computes in bfloat16; None without one."""

    def name_and_units(pynvml: Any, handle: Any) -> tuple[str, bool]:
        major, _ = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return str(pynvml.nvmlDeviceGetName(handle)), major >= 8

    return _of_first_gpu(name_and_units)


def holders_of_gpu_memory() -> list[str]:
    """Other processes that hold memory of the first GPU, most first: a live notebook, say.

    Empty without a GPU. A driver that hides sizes (some containers) gives the names alone.
    """

    def processes(pynvml: Any, handle: Any) -> list[Any]:
        return list(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))

    others = [process for process in _of_first_gpu(processes) or [] if process.pid != os.getpid()]
    others.sort(key=lambda process: -(process.usedGpuMemory or 0))
    return [_holder(process.pid, process.usedGpuMemory) for process in others]


def free_gpus() -> list[str]:
    """The GPUs like the first one that nobody computes on, by their UUID: that one too, if free.

    What CUDA_VISIBLE_DEVICES leaves out is not counted, nor a GPU that is cut into instances. Of
    GPUs of several kinds none is: CUDA counts the fastest first, the driver by their slots.
    """

    def look(pynvml: Any, handle: Any) -> tuple[str, str]:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        busy = pynvml.nvmlDeviceGetComputeRunningProcesses(handle) or (
            memory.used > _MOST_HELD_OF_A_FREE_GPU * memory.total
        )
        is_free = not busy and not _is_cut(pynvml, handle)
        uuid = str(pynvml.nvmlDeviceGetUUID(handle)) if is_free else ""
        return str(pynvml.nvmlDeviceGetName(handle)), uuid

    if os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-"):
        return []
    found = _of_gpus(look)
    kinds = {name for name, _ in found}
    return [uuid for _, uuid in found if uuid] if len(kinds) == 1 else []


def _is_cut(pynvml: Any, handle: Any) -> bool:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # a GPU that cannot be
        return False
    return bool(current)


def _of_first_gpu(ask: Callable[[Any, Any], Answer]) -> Answer | None:
    """What the driver answers of the first GPU; None without a driver, a GPU or an answer."""
    return next(iter(_of_gpus(ask, 1)), None)


def _of_gpus(ask: Callable[[Any, Any], Answer], most: int | None = None) -> list[Answer]:
    """What the driver answers of each GPU that this process may use; [] without an answer."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [ask(pynvml, handle) for handle in _visible(pynvml)[:most]]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _visible(pynvml: Any) -> list[Any]:
    """The GPUs that CUDA shows to a script, where all are alike. Source: CUDA programming guide."""
    handles = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        with contextlib.suppress(pynvml.NVMLError):  # one that is lost, or not for this group
            handles[index] = pynvml.nvmlDeviceGetHandleByIndex(index)
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None or asked.startswith("MIG-"):  # an instance of a GPU: of the first, mostly
        return list(handles.values())
    shown = []
    for word in map(str.strip, asked.split(",")):
        named = [
            handle
            for index, handle in handles.items()
            if word == str(index)
            or (len(word) > 4 and str(pynvml.nvmlDeviceGetUUID(handle)).startswith(word))
        ]
        if not named:
            break  # as CUDA does, nothing after what it does not know
        shown += named[:1]
    return shown


def _holder(pid: int, held: int | None) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        words = []
    name = os.path.basename(words[0]) if words and words[0] else "a process elsewhere"
    if any("ipykernel" in word for word in words):
        name = "a notebook's live kernel: shut it down to free it"
    size = "memory" if held is None else f"{held / 1e9:.1f} GB"
    return f"process {pid} ({name}) holds {size} of the GPU"


def this_machine() -> Machine:
    """The machine as a study notes it before its first run."""
    name, bfloat16 = processor()
    gpu = graphics()
    return Machine(
        processor=name,
        bfloat16=bfloat16,
        cores=usable_cores(),
        available_bytes=available_bytes(),
        gpu=gpu[0] if gpu else None,
        gpu_bfloat16=bool(gpu and gpu[1]),
        system=f"{platform.system()} {platform.release()}",
    )


def fingerprint(machine: Machine) -> dict[str, str]:
    """What must be the same for a plan's numbers to carry over."""
    return {
        "processor": machine.processor,
        "cores": str(machine.cores),
        "gpu": machine.gpu or "none",
        "system": machine.system,
    }


def describe(machine: Machine) -> str:
    """The machine in one line."""
    memory = f"{machine.available_bytes / 1e9:.0f} GB free"
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    return f"{machine.processor}, {cores}, {memory}, {machine.gpu or 'no GPU'}"


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A reading that has begun."""

    started: float
    pressure: int | None
    steal: int | None
    load: float

    @staticmethod
    def start() -> Meter:
        """Note where the counters stand before a run."""
        return Meter(
            started=time.perf_counter(),
            pressure=_cpu_pressure(),
            steal=_steal(),
            load=os.getloadavg()[0],
        )

    def read(self) -> Reading:
        """What the machine did since; shares of the elapsed time."""
        seconds = max(time.perf_counter() - self.started, 1e-6)
        pressure, steal = _cpu_pressure(), _steal()
        ticks = os.sysconf("SC_CLK_TCK") * seconds * (os.cpu_count() or 1)
        return Reading(
            cpu_pressure_share=(
                None
                if pressure is None or self.pressure is None
                else (pressure - self.pressure) / 1e6 / seconds
            ),
            steal_share=(
                None if steal is None or self.steal is None else (steal - self.steal) / ticks
            ),
            load_before=self.load,
        )


def _cpu_pressure() -> int | None:
    """Microseconds in which some task waited for a core, as the kernel counts them."""
    for word in first_line("/proc/pressure/cpu").split():
        if word.startswith("total="):
            return int(word[6:])
    return None


def _steal() -> int | None:
    words = first_line("/proc/stat").split()
    return int(words[8]) if len(words) > 8 else None
