"""Runs → diagnosis: where the time goes, by which rule, on what evidence."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from ..frameworks import technique_modules
from ..ideas import IDEAS
from ..records import (
    Bottleneck,
    Ceiling,
    DeviceStep,
    Diagnosis,
    Facts,
    Finding,
    LoaderFacts,
    Machine,
    Rate,
    Run,
    Window,
)
from .events import read_facts, read_windows, training_process
from .launch import Event
from .steady import warm_up_cut

# Shares from which a cause is named. XProf warns of input at 5 and 20 %, TraceML at 10 and 20 %;
# ours sits at the upper of both, since a smaller share cannot win 1.25 times.
_DATA_SHARE = 0.20
_HOST_SHARE = 0.25
_COMPUTE_SHARE = 0.65
_EVALUATION_SHARE = 0.30
_START_UP_SHARE = 0.50
_CROWDED_PRESSURE = 0.25
_IDLE_GPU_SHARE = 0.15
_OPTIMIZER_SHARE = 0.25


def explain(
    windows: Sequence[Window],
    facts: Facts,
    run: Run | None = None,
    replay: Rate | None = None,
    full: Rate | None = None,
    fewer_calls: Rate | None = None,
) -> Diagnosis:
    """Say where the time of these windows goes.

    Runs in our process; pure. `run` is there once it has ended, `replay` and `full` once the
    ablation has measured what free data would give, `fewer_calls` once it has run many steps within
    one call of a trainer's compiled function, on replayed batches where there are any.
    """
    seconds = sum(window.end - window.start for window in windows)
    steps = sum(window.steps for window in windows)
    if run is not None and run.cause == "out of memory":
        return _without_steps(_out_of_memory(facts, run), facts)
    if not steps or not seconds:
        return _without_steps(_unobserved(facts, run), facts)
    evaluating = sum(window.evaluation for window in windows)
    warm = _warmed_up(windows)
    training = max(sum(w.end - w.start - w.evaluation for w in warm), 1e-9)
    warm_steps = sum(window.steps for window in warm)
    wait = _share(warm, "wait", training)
    forward = _share(warm, "forward", training)
    backward = _share(warm, "backward", training)
    optimizer = _share(warm, "optimizer", training)
    waited: float | None = wait
    host: float | None = max(0.0, 1 - wait - forward - backward - optimizer)
    on_gpu = facts.device == "cuda"
    computing = min(forward + backward + optimizer, 1.0)
    copying = None
    if facts.device_step is not None:
        # Device events also time the gaps between kernels, in which the GPU waits for the host.
        computing = min(facts.device_step.computing_seconds * warm_steps / training, 1.0)
        copying = min(facts.device_step.copying_seconds * warm_steps / training, 1.0)
        host = max(0.0, 1 - wait - computing - copying)
    if facts.fetches_inside:
        # Only the replay can tell fetching from computing: nobody sees a compiled step wait.
        waited = _saved(replay, full)
        host = _saved(fewer_calls, full, of=replay)
        computing = max(1 - (waited or 0.0) - (host or 0.0), 0.0)
        optimizer = min((facts.optimizer_seconds or 0.0) * warm_steps / training, computing)
    durations = sorted(seconds for window in warm for seconds in window.durations)
    alone = bool(durations) and len(durations) == warm_steps
    # Of a compiled step nobody sees the parts.
    whole = facts.fetches_inside or (facts.framework in ("keras", "jax") and not backward)
    start_up = tracing = None
    if run is not None and run.outcome == "completed" and run.training_start is not None:
        # The first steps trace, compile and warm up, which a rate tells from what is steady.
        before = max(run.training_start, full.fixed_seconds if full is not None else 0.0)
        start_up = min(before / run.wall_seconds, 1.0)
        tracing = min(facts.optimizer_tracing_seconds / run.wall_seconds, start_up)
    diagnosis = Diagnosis(
        findings=(),
        steps=steps,
        step_seconds=training / warm_steps,
        wait_share=waited,
        forward_share=None if whole else forward,
        backward_share=None if whole else backward,
        optimizer_share=optimizer if optimizer or not whole else None,
        host_share=host,
        idle_share=1 - computing,
        idle_device="GPU" if on_gpu else "model",
        evaluation_share=evaluating / seconds,
        start_up_share=start_up,
        ceilings=(),
        notes=(*facts.notes, *_unknown(facts)),
        median_step_seconds=statistics.median(durations) if alone else None,
        p95_step_seconds=durations[int(0.95 * (len(durations) - 1))] if alone else None,
        page_faults_a_step=sum(window.page_faults for window in windows) / steps,
        copy_share=copying,
        kernels_a_step=facts.device_step.kernels if facts.device_step is not None else None,
    )
    ceilings = _ceilings(diagnosis, facts, tracing, replay, full, fewer_calls)
    diagnosis = replace(diagnosis, ceilings=ceilings)
    return replace(diagnosis, findings=_findings(diagnosis, facts, run, on_gpu))


def _saved(ablated: Rate | None, full: Rate | None, of: Rate | None = None) -> float | None:
    """The share of a step that an ablation saves; None where it was not made.

    of: what was ablated, where that is not the full step.
    """
    if ablated is None or full is None:
        return None
    before = (of or full).training_seconds_per_sample
    saved = before - ablated.training_seconds_per_sample
    return max(saved / full.training_seconds_per_sample, 0.0)


def _warmed_up(windows: Sequence[Window]) -> Sequence[Window]:
    """The windows after the first ones, in which the script traces, compiles, loads kernels."""
    with_steps = [window for window in windows if window.steps]
    cut = warm_up_cut([(w.end - w.start - w.evaluation) / w.steps for w in with_steps])
    return with_steps[cut:]


def _unknown(facts: Facts) -> tuple[str, ...]:
    """What nobody can see of this script."""
    if _forward_is_hidden(facts):
        return ("how long the forward pass takes is not known: no module is called by the script",)
    loader = facts.fed_by()
    if not facts.fetches_inside or (loader is not None and loader.can_be_replayed):
        return ()
    why = f"{loader.kind} cannot be replayed" if loader is not None else "nobody saw what feeds it"
    return (f"how much of a step is waiting is not known: {why}",)


def _forward_is_hidden(facts: Facts) -> bool:
    return facts.framework == "torch" and not facts.roots


def _share(windows: Sequence[Window], phase: str, seconds: float) -> float:
    total: float = sum(getattr(window, phase) for window in windows)
    return min(total / seconds, 1.0)


def _out_of_memory(facts: Facts, run: Run) -> Finding:
    return Finding(
        bottleneck="memory-bound",
        rule="the script ended for want of memory",
        evidence=f"it ended after {run.steps} steps, holding {run.memory_bytes / 1e9:.1f} GB",
        ideas=_ideas_against("memory-bound", facts),
    )


def _ideas_against(bottleneck: Bottleneck, facts: Facts) -> tuple[str, ...]:
    """The ideas that this framework has a technique for, and that act on this device."""
    known, loader = technique_modules(facts.framework, backend=facts.backend), facts.fed_by()
    pads = loader is not None and bool(loader.padding_share)
    return tuple(
        idea.name
        for idea in IDEAS
        if bottleneck in idea.bottlenecks
        and idea.name in known
        and idea.device in ("", facts.device)
        and (pads or idea.family != "padding")
    )


def _unobserved(facts: Facts, run: Run | None) -> Finding:
    seen = f"{run.processes_observed} Python processes" if run is not None else "no step yet"
    if run is not None and not run.processes_observed:
        evidence = "no Python process greeted: -I, -S or -E make Python ignore PYTHONPATH"
    elif facts.framework == "none":
        evidence = f"{seen}, none of which imported torch, tensorflow, keras or jax"
    else:
        evidence = f"{seen}; {facts.framework} was imported, but no optimizer made a step"
    if run is not None and run.outcome == "failed":
        evidence += f"; {run.cause}"
        evidence += ": give a larger --budget" if "wall limit" in run.cause else ""
    return Finding(
        bottleneck="unobserved",
        rule="no step boundary was found: no optimizer step followed by another",
        evidence=evidence,
        ideas=(),
    )


def _without_steps(finding: Finding, facts: Facts) -> Diagnosis:
    return Diagnosis(
        findings=(finding,),
        steps=0,
        step_seconds=None,
        wait_share=None,
        forward_share=None,
        backward_share=None,
        optimizer_share=None,
        host_share=None,
        idle_share=None,
        idle_device="model",
        evaluation_share=None,
        start_up_share=None,
        ceilings=(),
        notes=facts.notes,
    )


def _ceilings(
    shares: Diagnosis,
    facts: Facts,
    tracing: float | None,
    replay: Rate | None,
    full: Rate | None,
    fewer_calls: Rate | None,
) -> tuple[Ceiling, ...]:
    """For each family, the most that it could win, as a factor on the training time.

    tracing: the share of the run in which the optimizer's update is traced.
    """
    wait, host = shares.wait_share or 0.0, shares.host_share or 0.0
    computing, copying = 1 - (shares.idle_share or 0.0), shares.copy_share or 0.0
    optimizer, start_up = shares.optimizer_share or 0.0, shares.start_up_share
    evaluation = shares.evaluation_share or 0.0
    # A GPU works on while the host waits for data: what it takes is not won by free data.
    busy = computing + copying if facts.device_step is not None else 0.0
    by_waiting = 1 / max(1 - wait, busy, 0.01)
    waiting = f"{wait:.0%} of a step is waiting"
    found = []
    if replay is not None and full is not None:
        # A short replay is noisy: the wait that was seen is possible to win as well.
        data = Ceiling(
            family="data",
            factor=max(1 / max(1 - (_saved(replay, full) or 0.0), 0.01), by_waiting),
            evidence=f"replayed batches: {_against(replay, full)}"
            + ("" if facts.fetches_inside else f"; {waiting}"),
        )
        found.append(data)
    elif shares.wait_share is not None:
        found.append(Ceiling(family="data", factor=by_waiting, evidence=waiting))
    found.append(
        _ceiling(
            "arithmetic",
            computing + (host if _forward_is_hidden(facts) else 0.0),
            f"{computing:.0%} of a step is "
            + ("forward, backward and optimizer" if facts.device_step is None else "GPU kernels"),
        )
    )
    if shares.host_share is not None:
        found.append(
            _ceiling(
                "host",
                host,
                _in_fewer_calls(fewer_calls, replay or full)
                or f"{host:.0%} of a step is neither data nor arithmetic",
            )
        )
    if optimizer or facts.fetches_inside:
        alone = ", timed alone" if facts.optimizer_seconds is not None else ""
        found.append(
            _ceiling(
                "optimizer",
                optimizer or computing,
                f"{optimizer:.0%} of a step is the optimizer{alone}"
                if optimizer
                else "it runs within the compiled step",
            )
        )
    loader = facts.fed_by()
    if loader is not None and loader.padding_share and loader.padding_share_sorted is not None:
        left = (1 - loader.padding_share) / (1 - loader.padding_share_sorted)
        found.append(
            _ceiling(
                "padding",
                computing * max(1 - left, 0.0),
                f"{loader.padding_share:.0%} of a batch is padding; of rows of like "
                f"length {loader.padding_share_sorted:.0%} would be",
            )
        )
    if tracing:
        said = f"{tracing:.0%} of the run traces the optimizer"
        found.append(_ceiling("tracing", tracing, said))
    if evaluation:
        said = f"{evaluation:.0%} of the observed time is evaluation"
        found.append(_ceiling("evaluation", evaluation, said))
    if start_up is not None:
        said = f"{start_up:.0%} of the run lies before its steady state"
        found.append(_ceiling("start-up", start_up, said))
    return tuple(found)


def _ceiling(family: str, saved: float, evidence: str) -> Ceiling:
    """Of a family that could save that share of the time."""
    return Ceiling(family=family, factor=1 / max(1 - saved, 0.01), evidence=evidence)


def _findings(
    diagnosis: Diagnosis, facts: Facts, run: Run | None, on_gpu: bool
) -> tuple[Finding, ...]:
    host, optimizer = diagnosis.host_share or 0.0, diagnosis.optimizer_share or 0.0
    computing = 1 - (diagnosis.idle_share or 0.0)
    data = next((c for c in diagnosis.ceilings if c.family == "data"), None)
    found: list[tuple[float, Finding]] = []

    def add(weight: float, bottleneck: Bottleneck, rule: str, evidence: str) -> None:
        ideas = _ideas_against(bottleneck, facts)
        finding = Finding(bottleneck=bottleneck, rule=rule, evidence=evidence, ideas=ideas)
        found.append((weight, finding))

    gain = 1 - 1 / data.factor if data is not None else 0.0
    if data is not None and gain >= _DATA_SHARE:
        add(
            gain,
            "data-bound",
            f"free data would save at least {_DATA_SHARE:.0%} of the training time",
            f"{data.evidence}; {_loading(facts)}",
        )
    copying = diagnosis.copy_share or 0.0
    if copying >= _DATA_SHARE:
        add(
            copying,
            "data-bound",
            f"copies to and from the GPU take at least {_DATA_SHARE:.0%} of a step",
            f"{copying:.0%} of a step is copying while no kernel runs",
        )
    if computing >= _COMPUTE_SHARE:
        add(
            computing,
            "compute-bound",
            f"forward, backward and optimizer take at least {_COMPUTE_SHARE:.0%} of a step",
            f"{computing:.0%} of a step on {facts.device_name}"
            + (f", {optimizer:.0%} its optimizer" if optimizer >= _OPTIMIZER_SHARE else "")
            + (", the fetching of its batch included" if diagnosis.wait_share is None else ""),
        )
    late = (
        on_gpu
        and not facts.fetches_inside
        and gain < _DATA_SHARE
        and computing + copying < 1 - _IDLE_GPU_SHARE
    )
    if host >= _HOST_SHARE or late:
        add(
            host,
            "host-bound",
            f"at least {_HOST_SHARE:.0%} of a step is neither data nor arithmetic",
            _late_host(facts.device_step, diagnosis, host)
            if facts.device_step is not None
            else f"{host:.0%} of a step is {_whose_python(facts)}",
        )
    if (diagnosis.evaluation_share or 0) >= _EVALUATION_SHARE:
        share = diagnosis.evaluation_share or 0
        add(
            share,
            "evaluation-bound",
            f"evaluation takes at least {_EVALUATION_SHARE:.0%} of the time",
            f"{share:.0%} of the observed time",
        )
    if (diagnosis.start_up_share or 0) >= _START_UP_SHARE:
        share = diagnosis.start_up_share or 0
        add(
            share,
            "start-up-bound",
            f"at least {_START_UP_SHARE:.0%} of the run lies before its steady state",
            f"{share:.0%} of the run: imports, data, tracing, warm-up",
        )
    pressure = run.reading.cpu_pressure_share if run is not None else None
    runs_threads = (facts.threads or 0) + sum(loader.workers for loader in facts.loaders)
    if runs_threads > facts.cores and (pressure or 0) >= _CROWDED_PRESSURE:
        add(
            pressure or 0,
            "oversubscribed",
            f"tasks wait for a core at least {_CROWDED_PRESSURE:.0%} of the time, and the script "
            "runs more threads and workers than there are cores",
            f"{facts.threads} threads and workers on {facts.cores} cores; waiting {pressure:.0%}",
        )
    if not found:
        add(0, "balanced", "no share reaches its threshold", _loading(facts))
    return tuple(finding for _, finding in sorted(found, key=lambda pair: -pair[0]))


def _whose_python(facts: Facts) -> str:
    if facts.fetches_inside:
        return "Python and calls into the graph, which several steps in one call save"
    return "the script's own Python" + (
        " and its forward pass" if _forward_is_hidden(facts) else ""
    )


def _in_fewer_calls(fewer: Rate | None, before: Rate | None) -> str:
    if fewer is None or before is None:
        return ""
    return f"several steps in one call: {_against(fewer, before)}"


def _against(ablated: Rate, full: Rate) -> str:
    each, of = (rate.training_seconds_per_sample * 1e6 for rate in (ablated, full))
    return f"{each:.1f} µs a sample against {of:.1f}"


def _late_host(device: DeviceStep, diagnosis: Diagnosis, host: float) -> str:
    """Why the GPU is idle though its data is there."""
    each = device.computing_seconds / device.kernels
    return (
        f"{host:.0%} of a step the GPU waits for the host to launch its next kernel: "
        f"{device.kernels:,.0f} kernels of {each * 1e6:.1f} µs in a step of "
        f"{(diagnosis.step_seconds or 0.0) * 1e3:.3g} ms"
    )


def _loading(facts: Facts) -> str:
    loader = facts.fed_by()
    if loader is None:
        return "no loader was seen that feeds the training"
    if loader.kind == "tf.data":
        words = [" → ".join(ops_of(loader))]
    elif loader.kind == "DataLoader":
        words = [f"{loader.workers} workers on {facts.cores} cores"]
    else:
        words = [f"fed by {loader.kind}"]
    if loader.item_seconds is not None and loader.collate_seconds is not None:
        words.append(
            f"a sample takes {loader.item_seconds * 1e6:.0f} µs to fetch and decode and "
            f"{loader.collate_seconds * 1e6:.0f} µs to collate"
        )
    if loader.alone_samples_per_second is not None:
        words.append(f"the loader alone gives {loader.alone_samples_per_second:,.0f} samples/s")
    return ", ".join(words)


def ops_of(loader: LoaderFacts) -> list[str]:
    """The ops of a tf.data pipeline, with what each adds to a sample where that was measured."""
    if len(loader.op_seconds) != len(loader.pipeline):
        return list(loader.pipeline)
    pairs = zip(loader.pipeline, loader.op_seconds, strict=True)
    return [f"{name} {seconds * 1e6:.1f} µs" for name, seconds in pairs]


def one_line(diagnosis: Diagnosis, facts: Facts, command: str) -> str:
    """The first diagnosis, as one line that says what to do next."""
    if diagnosis.step_seconds is None:
        return f"no step was observed: {diagnosis.findings[0].evidence}"
    step = diagnosis.step_seconds * 1e3
    device = "GPU" if diagnosis.idle_device == "GPU" else "model"
    computing = 1 - (diagnosis.idle_share or 0)
    if facts.fetches_inside:
        return (
            f"after {diagnosis.steps:,} steps: a step is {step:.3g} ms, in which the model fetches "
            f"its own batch ({_loading(facts)})"
            + ("" if _unknown(facts) else "; a replay will tell data from model")
            + f"; next: halftime tune {command}"
        )
    data = next(c for c in diagnosis.ceilings if c.family == "data")
    loader = facts.fed_by()
    loading = f"; {loader.workers} workers on {facts.cores} cores" if loader else ""
    idle = f"{device} idle {diagnosis.idle_share:.0%}"
    if device == "GPU" and facts.device_step is None:
        device = "GPU, its waits for the next kernel included"
        idle = f"GPU idle about {diagnosis.idle_share:.0%} or more"
    return (
        f"after {diagnosis.steps:,} steps: a step is {step:.3g} ms = "
        f"{step * (diagnosis.wait_share or 0):.3g} waiting for data + {step * computing:.3g} "
        f"{device} + {step * (diagnosis.host_share or 0):.3g} host; {idle}; with free data at "
        f"most {data.factor:.1f}×{loading}; next: halftime tune {command}"
    )


class FirstDiagnosis:
    """Speaks once, from the observed run alone, at most 30 s after the script's first step."""

    _ENOUGH_SECONDS, _MOST_SECONDS = 10.0, 20.0
    _ENOUGH_STEPS = 8

    def __init__(self, machine: Machine, command: str) -> None:
        self._machine = machine
        self._command = command
        self._events: list[Event] = []
        self._said = False

    def hear(self, event: Event) -> str | None:
        """Take an event as it is written; the diagnosis when there is enough for one."""
        if self._said:
            return None
        self._events.append(event)
        if event["event"] not in ("window", "end"):
            return None
        training = training_process(self._events)
        windows = read_windows(training, 0.0)
        if not windows:
            return None
        seen = windows[-1].end - windows[0].start
        # The first step alone may take that long: it traces, or loads kernels.
        enough = (
            seen >= self._ENOUGH_SECONDS and sum(w.steps for w in windows) >= self._ENOUGH_STEPS
        )
        if event["event"] == "window" and not enough and seen < self._MOST_SECONDS:
            return None
        self._said = True
        facts = read_facts(self._events, self._machine)
        return one_line(explain(windows, facts), facts, self._command)
