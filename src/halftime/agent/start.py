"""Starts the agent in one process: its orders, its role, and the frameworks it waits for."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from . import seeding
from .imports import call_after_import
from .patches import Patches
from .places import digests_of_modules, packages_in
from .recorder import Recorder

_GUEST_PACKAGE = __name__.split(".", 1)[0]
_NOT_A_SCRIPT = ("multiprocessing.resource_tracker", "multiprocessing.forkserver",
                 "torch._inductor.compile_worker")  # fmt: skip


def start(orders_path: str) -> None:
    """Read the orders, greet, and wait for the script to import a framework.

    Runs in the user's process, before the script. Costs about a millisecond.
    """
    with open(orders_path, encoding="utf-8") as file:
        orders: dict[str, Any] = json.load(file)
    command_line = _command_line()
    if any(helper in word for word in command_line for helper in _NOT_A_SCRIPT):
        return
    recorder = Recorder(
        folder=orders["run_folder"],
        window_seconds=orders["window_seconds"],
        stop_after=orders["stop_after"],
        in_trial=orders["in_trial"],
    )
    recorder.emit(
        "hello",
        pid=os.getpid(),
        parent=os.getppid(),
        python=sys.version.split()[0],
        command=command_line,
        rank=int(os.environ.get("RANK", -1)),
        time=time.perf_counter(),
    )
    patches = Patches(recorder, orders["training_loader"])
    # A helper that the script spawned, unless it turns out to train.
    patches.is_spawned = any("multiprocessing.spawn" in word for word in command_line)
    recorder.watch_exit(patches)
    if orders["in_trial"]:
        from . import publishing  # a plain run starts without it

        publishing.refuse(patches)
    if orders["looks_closely"]:
        patches.at_exit(lambda: recorder.emit("sources", files=digests_of_modules()))
        recorder.emit("packages", folders=packages_in(sys.path))
    if orders["deterministic"]:
        from . import kernels

        kernels.ask_for_deterministic_ones(recorder)
    if orders["seed"] is not None:
        seeding.offset_global_seeds(orders["seed"], patches)
    for framework, probe in orders["probes"].items():
        call_after_import(framework, _attach(probe, framework, recorder, patches, orders))


def _attach(
    probe: str, framework: str, recorder: Recorder, patches: Patches, orders: dict[str, Any]
) -> Any:
    def attach(module: Any) -> None:
        recorder.emit(
            "imported",
            framework=framework,
            version=str(getattr(module, "__version__", "unknown")),
            time=time.perf_counter(),
        )
        try:
            # Orders name the probe, so that the agent needs to know no framework.
            probe_module = importlib.import_module(f"{_GUEST_PACKAGE}.{probe}")
            probe_module.attach(module, recorder, patches, orders)
        except Exception as error:
            recorder.report_failure(f"attaching to {framework}", error)

    return attach


def _command_line() -> list[str]:
    try:
        with open("/proc/self/cmdline", "rb") as file:
            raw = file.read()
    except OSError:
        return list(getattr(sys, "orig_argv", sys.argv))
    return [word.decode("utf-8", "replace") for word in raw.split(b"\0")[:-1]]
