"""What the agents of a run wrote, as one Run and as Facts."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..frameworks.pytorch.trainers import NAMES
from ..records import (
    Brake,
    DeviceStep,
    Facts,
    LoaderFacts,
    Machine,
    Reading,
    RootFacts,
    Run,
    Window,
)
from .launch import AGENT_FAILED, Ended, Event, EventReader
from .workspace import in_the_project

_LAST_LINES = 25
_ERROR_LENGTH = 160
_DENIED = ("Permission denied", "errno = 13", "cannot be opened")
_OUT_OF_MEMORY = ("out of memory", "MemoryError", "can't allocate memory", "Cannot allocate memory")


def read_events(folder: Path) -> list[Event]:
    """Every complete line of every process of a run."""
    return list(EventReader(folder).new())


def training_process(events: list[Event]) -> list[Event]:
    """The events of the process that trains: most steps, the lowest rank among equals."""
    by_process: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_process[event["process"]].append(event)

    def merit(of_one: list[Event]) -> tuple[int, int]:
        steps = sum(event["steps"] for event in of_one if event["event"] == "window")
        rank = next((e.get("rank", -1) for e in of_one if e["event"] == "hello"), -1)
        return steps, -rank

    return max(by_process.values(), key=merit, default=[])


def by_rank(events: list[Event]) -> list[tuple[int | None, list[Event]]]:
    """The events of each process that trains, by its rank; rank None where there is but one."""
    processes = dict.fromkeys(event["process"] for event in events if event["event"] == "window")
    found = []
    for process in processes:
        of_one = [event for event in events if event["process"] == process]
        rank = next((e["rank"] for e in of_one if e["event"] == "hello"), -1)
        found.append((rank if rank >= 0 else None, of_one))
    return sorted(found, key=lambda pair: -1 if pair[0] is None else pair[0])


def read_run(folder: Path, ended: Ended, reading: Reading) -> Run:
    """The run as its files tell it."""
    events = read_events(folder)
    training = training_process(events)
    windows = read_windows(training, ended.spawned)
    last = _last(training, "end")
    outcome, cause = _outcome(folder, ended, training, last)
    first = _first(training, "training")
    void = {event["technique"] for event in _all(training, "void")}
    return Run(
        folder=str(folder),
        outcome=outcome,  # type: ignore[arg-type]  # one of the three words by construction
        cause=cause,
        exit_code=ended.exit_code,
        wall_seconds=ended.ended - ended.spawned,
        imported_at=_since(ended, _first(training, "imported").get("time")),
        training_start=_since(ended, first.get("time")),
        training_end=_since(ended, last.get("training_end")) if windows else None,
        windows=windows,
        evaluations=tuple(
            (event["start"] - ended.spawned, event["end"] - ended.spawned)
            for event in _all(training, "evaluation")
        ),
        steps=sum(window.steps for window in windows),
        samples=sum(window.samples for window in windows),
        updates=sum(window.updates for window in windows),
        effects={
            event["technique"]: {
                k: v for k, v in event.items() if k not in ("event", "technique", "process")
            }
            for event in _all(training, "effect")
            if event["technique"] not in void
        },
        refused=tuple((event["technique"], event["reason"]) for event in _all(training, "refused")),
        checkpoints=tuple(dict.fromkeys(e["keys"] for e in _all(training, "checkpoint"))),
        evaluation_losses=tuple(_finite(e["value"]) for e in _all(training, "evaluation_loss")),
        reported_metrics=tuple((e["name"], _finite(e["value"])) for e in _all(training, "metric")),
        evaluation_fingerprints=_fingerprints(training, first.get("loader")),
        nonfinite=any(loss is None for window in windows for _, _, loss in window.losses),
        peak_bytes=max([ended.peak_bytes, *(window.peak_bytes for window in windows)]),
        device_peak_bytes=max(
            (event["peak_bytes"] for event in _all(training, "device")), default=None
        ),
        reading=reading,
        last_lines=last_lines(folder),
        processes_observed=len(_all(events, "hello")),
        set_aside_seconds=sum(event["seconds"] for event in _all(training, "set_aside")),
    )


def read_windows(events: list[Event], spawned: float) -> tuple[Window, ...]:
    """The windows of one process; seconds since the run was spawned.

    What an update left after the last of them belongs to it.
    """
    windows = [
        Window(
            start=event["start"] - spawned,
            end=event["end"] - spawned,
            steps=event["steps"],
            samples=event["samples"],
            updates=event["updates"],
            wait=event["wait"],
            forward=event["forward"],
            backward=event["backward"],
            optimizer=event["optimizer"],
            evaluation=event["evaluation"],
            durations=tuple(event["durations"]),
            losses=_losses(event["losses"]),
            peak_bytes=event["peak_bytes"],
            page_faults=event.get("page_faults", 0),
        )
        for event in events
        if event["event"] == "window"
    ]
    last = _last(events, "end")
    if windows and last.get("late_updates"):
        windows[-1] = replace(
            windows[-1],
            updates=windows[-1].updates + last["late_updates"],
            losses=windows[-1].losses + _losses(last["late_losses"]),
        )
    return tuple(windows)


def _losses(written: list[list[Any]]) -> tuple[tuple[int, int, float | None], ...]:
    return tuple((s, k, _finite(v)) for s, k, v in written)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def read_facts(events: list[Event], machine: Machine) -> Facts:
    """What the observed run, and the ablation after it, showed of the script."""
    training = training_process(events)
    optimizer = _last(training, "optimizer")
    name = optimizer.get("framework")
    imported = [e for e in _all(training, "imported") if name in (None, e["framework"])]
    framework = imported[0] if imported else {}
    notes = [
        f"nn.DataParallel found ({event['class_name']}): it copies the model in every step; "
        "DistributedDataParallel with torchrun is the faster way"
        for event in _all(training, "root")
        if event["data_parallel"]
    ]
    notes += [event["text"] for event in _all(training, "note")]
    for event in _all(training, "untraced"):
        notes.append(
            f"how long the GPU is idle is known by device events alone, which count its waits "
            f"between kernels as work: {event['reason']}"
        )
    for event in _all(training, "first_step"):
        notes.append(f"the first step took {event['seconds']:.1f} s: it was traced")
    return Facts(
        framework=framework.get("framework", "none"),
        framework_version=framework.get("version", ""),
        device=optimizer.get("device", "unknown"),
        device_name=_device_name(optimizer, machine),
        threads=optimizer.get("threads"),
        training_loader=_last(training, "training").get("loader"),
        loaders=_loaders(training),
        roots=tuple(_root(event) for event in _all(training, "root")),
        brakes=tuple(
            Brake(name=e["name"], place=e["place"], times_per_step=e["times_per_step"])
            for e in _all(training, "brake")
        ),
        own_code=optimizer.get("own_code", ""),
        already_on=tuple(_already_on(training)),
        notes=tuple(notes),
        cores=machine.cores,
        available_bytes=machine.available_bytes,
        bfloat16_units=_bfloat16_units(optimizer, machine),
        optimizer=optimizer.get("name", ""),
        trainer=_trainer(training),
        backend=optimizer.get("backend", ""),
        other_backends=tuple(optimizer.get("other_backends", ())),
        random_layers=optimizer.get("random_layers", False),
        bound_to_backend=optimizer.get("bound_to_backend", ""),
        batch_callbacks=tuple(optimizer.get("batch_callbacks", ())),
        own_loop=optimizer.get("own_loop", ""),
        limited_steps=tuple(
            sorted(
                {steps for event in _all(training, "limited_steps") for steps in event["counts"]}
            )
        ),
        planned_samples=_last(training, "planned").get("samples"),
        optimizer_seconds=_last(training, "optimizer_alone").get("seconds"),
        optimizer_tracing_seconds=_last(training, "optimizer_alone").get("tracing", 0.0),
        device_step=_device_step(_last(training, "device_alone")),
        sources=_sources(_last(training, "sources").get("files", {})),
        on_one_gpu=_last(training, "gpus").get("used") == [0]
        and _last(training, "gpus").get("as_told", False)
        and len({event["process"] for event in _all(events, "training")}) == 1,
    )


def _sources(files: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The files by their places in the project."""
    return tuple(sorted((in_the_project(file), digest) for file, digest in files.items()))


def _device_name(optimizer: Event, machine: Machine) -> str:
    """What computes, as the framework calls it; else as the machine does."""
    on_gpu = optimizer.get("device") == "cuda"
    return optimizer.get("device_name") or (on_gpu and machine.gpu) or machine.processor


def _bfloat16_units(optimizer: Event, machine: Machine) -> bool:
    """Whether the device in use has them; of a GPU the framework itself knows best."""
    if optimizer.get("device") != "cuda":
        return machine.bfloat16
    known: bool | None = optimizer.get("bfloat16")
    return machine.gpu_bfloat16 if known is None else known


def _device_step(event: Event) -> DeviceStep | None:
    fields = DeviceStep.__dataclass_fields__
    return DeviceStep(**{name: event[name] for name in fields}) if event else None


def _trainer(events: list[Event]) -> str:
    seen = {event["name"] for event in _all(events, "trainer")}
    return next((name for name in NAMES if name in seen), "")


def _loaders(events: list[Event]) -> tuple[LoaderFacts, ...]:
    learnt: dict[int, Event] = defaultdict(dict)
    for event in _all(events, "loader_facts"):
        learnt[event["ordinal"]].update(event)
    found: dict[int, LoaderFacts] = {}
    for event in _all(events, "loader"):
        known = {"made_as": event["ordinal"], **event, **learnt[event["ordinal"]]}
        fields = LoaderFacts.__dataclass_fields__
        found.setdefault(
            event["ordinal"],
            LoaderFacts(**{name: _frozen(known[name]) for name in fields if name in known}),
        )
    return tuple(found[ordinal] for ordinal in sorted(found))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _root(event: Event) -> RootFacts:
    fields = RootFacts.__dataclass_fields__
    return RootFacts(**{name: _frozen(event[name]) for name in fields if name in event})


def _already_on(events: list[Event]) -> list[str]:
    on = [event["idea"] for event in _all(events, "already_on")]
    if any(event["autocast"] for event in _all(events, "root")):
        on.append("mixed_precision")
    if any(event.get("fused") for event in _all(events, "optimizer")):
        on.append("fused_optimizer")
    if any(event.get("tf32") for event in _all(events, "optimizer")):
        on.append("matmul_precision")
    if any(event.get("cudnn_benchmark") for event in _all(events, "optimizer")):
        on.append("cudnn_autotune")
    if any(event["workers"] for event in _all(events, "loader")):
        on.append("workers")
    if any(event["pinned"] for event in _all(events, "loader")):
        on.append("pinned memory")
    return sorted(set(on))


def _outcome(folder: Path, ended: Ended, training: list[Event], last: Event) -> tuple[str, str]:
    if ended.killed == "window":
        return "window", ""
    if ended.killed:
        return "failed", ended.killed
    if ended.setup_failure:
        return "failed", f"the working folder could not be set up: {ended.setup_failure}"
    failure = _last(training, "agent_failure")
    if failure:
        return "failed", AGENT_FAILED.format(**failure)
    if ended.exit_code == 0:
        if training and not last:
            return "failed", "crashed: exit code 0, but the script left before its end was seen"
        return "completed", ""
    said = last_lines(folder)
    if any(sign in said for sign in _OUT_OF_MEMORY) or ended.exit_code == -9:
        return "failed", "out of memory"
    if any(sign in said for sign in _DENIED):
        return "failed", f"crashed: {_denied(said)}"
    if ended.exit_code is not None and ended.exit_code < 0:
        return "failed", f"crashed: ended by signal {-ended.exit_code}"
    return "failed", f"crashed: exit code {ended.exit_code}{_error_in(said)}"


def _error_in(said: str) -> str:
    """The script's own error, where its last line is one."""
    line = said.splitlines()[-1].strip() if said else ""
    return f" ({line[:_ERROR_LENGTH]})" if re.match(r"[\w.]*(Error|Exception)\b", line) else ""


def _denied(said: str) -> str:
    lines = reversed(said.splitlines())
    line = next(line for line in lines if any(sign in line for sign in _DENIED))
    return (
        f"{line.strip()} — trials may write in the project only; allow it with --allow-write PATH"
    )


def last_lines(folder: Path) -> str:
    """The end of what the script said, stderr before stdout, as text that cannot break out."""
    for name in ("stderr.txt", "stdout.txt"):
        try:
            with (folder / name).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(file.tell() - 8192, 0))
                text = file.read().decode("utf-8", "replace").strip()
        except OSError:
            continue
        if text:
            return "\n".join(text.splitlines()[-_LAST_LINES:])
    return ""


def _fingerprints(events: list[Event], training_loader: Any) -> tuple[str, ...]:
    sums: dict[str, str] = _last(events, "fingerprints").get("loaders", {})
    return tuple(f"{k}:{v}" for k, v in sorted(sums.items()) if k != str(training_loader))


def _since(ended: Ended, time: float | None) -> float | None:
    return None if time is None else time - ended.spawned


def _all(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind]


def _first(events: list[Event], kind: str) -> Event:
    return next(iter(_all(events, kind)), {})


def _last(events: list[Event], kind: str) -> Event:
    return next(iter(reversed(_all(events, kind))), {})
