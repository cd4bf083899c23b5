"""The observed run and the ablation after it: facts, diagnosis, and the length of a trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..ideas import STEPS_PER_EXECUTION
from ..measure.diagnose import FirstDiagnosis, explain
from ..measure.environment import holders_of_gpu_memory
from ..measure.events import read_events, read_facts
from ..measure.launch import Event
from ..measure.steady import steady_rate
from ..options import parse_length
from ..records import Candidate, Diagnosis, Facts, LoaderFacts, Rate, Run
from .bench import Bench, refuse_changed_modules, refuse_changed_packages
from .candidates import techniques
from .execute import BASELINE, Task, check_baseline
from .preflight import failure_of, longest_witness
from .timing import Length, screening_length, seconds_of

_SHARE_OF_BUDGET = 20
_SHORTEST_LOOK = 15.0
_TRACE_SECONDS = 60.0
_LEARNT = ("loader_facts", "device_alone", "untraced")
_REPLAY_SECONDS = 6.0
_ABLATION = {"batches": 32, "drain_seconds": 6.0, "alone": True}
# A call into a compiled step costs under half a millisecond: of a longer step it is no share.
_SHORT_STEP = 0.005


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known before the first trial."""

    run: Run
    facts: Facts
    diagnosis: Diagnosis
    rate: Rate | None
    length: Length

    @property
    def trial_seconds(self) -> float:
        """What a baseline run of that length is expected to take."""
        return seconds_of(self.length, self.rate, self.run.wall_seconds)


def observe(bench: Bench) -> Seen:
    """Run the script once with the agent alone; this run is discarded for timing.

    Raises UserError where the script fails by itself.
    """
    first = FirstDiagnosis(bench.machine, bench.command.asked or bench.command.script)

    def listen(event: Event) -> None:
        said = first.hear(event)
        if said is not None:
            bench.narrator.note(said)

    bench.listeners.append(listen)
    look = max(bench.options.budget_seconds / _SHARE_OF_BUDGET, _SHORTEST_LOOK)
    task = Task(stage="observe", candidate=BASELINE, seed=0, stop_after={"seconds": look})
    is_resumed = bench.study.knows(task.key)
    run = bench.executor.run(task)
    bench.listeners.remove(listen)
    if run.cause == "out of memory":
        for holder in holders_of_gpu_memory():
            bench.narrator.note(f"not alone: {holder}")
    elif not run.cause.startswith("killed"):
        check_baseline(run, bench.command.script)
    elif run.steps:
        raise UserError(
            f"The first look at {bench.command.script} was {run.cause}: its training starts after "
            f"{run.training_start or 0.0:.0f} s. Give a larger --budget."
        )
    else:
        bench.narrator.note(f"{run.cause}, before a training step was seen")
    events = read_events(Path(run.folder))
    facts = read_facts(events, bench.machine)
    if is_resumed:  # else it may have written them itself, in a layer of its own
        refuse_changed_modules(bench.study, facts.sources)
        refuse_changed_packages(bench.study, events)
    rate = steady_rate(run)
    bench.executor.witness_seconds = longest_witness(facts, rate, bench.options.budget_seconds)
    bench.executor.learn_limits([run])
    bench.executor.framework = facts.framework
    bench.executor.training_loader = facts.training_loader
    bench.executor.fed_by = facts.kind_of_feed
    bench.executor.on_one_gpu = facts.on_one_gpu
    bench.executor.roots = tuple(root.class_name for root in facts.roots)
    return Seen(
        run=run,
        facts=facts,
        diagnosis=explain(run.windows, facts, run, full=rate),
        rate=rate,
        length=_length(bench, run, facts, rate),
    )


def sharpen(bench: Bench, seen: Seen) -> Seen:
    """Replay, loader alone and device alone: what free data and a prompt host would give.

    Replay also says whether samples are deterministic.
    """
    if seen.rate is None:
        return seen
    runs, replay, fewer_calls, loader = [], None, None, seen.facts.fed_by()
    if loader is not None and loader.can_be_replayed:
        runs.append(_replay(bench))
        replay = steady_rate(runs[0])
    room = bench.left_seconds > seen.run.wall_seconds
    rate = replay or seen.rate
    training_share = rate.training_seconds_per_sample / rate.seconds_per_sample
    is_short = rate.mean_step_seconds * training_share < _SHORT_STEP
    if room and seen.facts.fetches_inside and is_short:
        fewer_calls = _in_fewer_calls(bench, seen, of_replay=replay is not None)
    if seen.facts.framework == "torch" and seen.facts.device == "cuda":
        limit = {"seconds": _TRACE_SECONDS}
        task = Task(
            stage="device", candidate=BASELINE, seed=0, stop_after=limit, traces_device=True
        )
        runs.append(bench.executor.run(task))
    if not runs and fewer_calls is None:
        return seen
    facts = _sharpened(bench, seen.run, runs)
    return Seen(
        run=seen.run,
        facts=facts,
        diagnosis=explain(seen.run.windows, facts, seen.run, replay, seen.rate, fewer_calls),
        rate=seen.rate,
        length=seen.length,
    )


def _in_fewer_calls(bench: Bench, seen: Seen, of_replay: bool) -> Rate | None:
    """Several steps in one call, which tells what calls cost; None where that cannot be.

    of_replay: of replayed batches, since host work hides behind waiting for data.
    """
    technique = techniques(seen.facts)[STEPS_PER_EXECUTION.name]
    proposal = technique.settings_to_try(seen.facts, seen.diagnosis)[0]
    if proposal.switch is None:
        return None
    candidate = Candidate(switches=(proposal.switch,))
    task = Task(
        stage="fewer calls",
        candidate=candidate,
        seed=0,
        stop_after={"seconds": _REPLAY_SECONDS},
        ablation={**_ABLATION, "alone": False} if of_replay else None,
    )
    run = bench.executor.run(task)
    return steady_rate(run) if failure_of(candidate, run) is None else None


def _replay(bench: Bench) -> Run:
    return bench.executor.run(
        Task(
            stage="replay",
            candidate=BASELINE,
            seed=0,
            stop_after={"seconds": _REPLAY_SECONDS},
            ablation=_ABLATION,
        )
    )


def _sharpened(bench: Bench, seen: Run, runs: Sequence[Run]) -> Facts:
    """The facts of the observed run, with what these runs learnt beside it."""
    events = read_events(Path(seen.folder))
    process = next((e["process"] for e in events if e["event"] == "training"), "")
    for run in runs:
        learnt = [e for e in read_events(Path(run.folder)) if e["event"] in _LEARNT]
        events += [{**event, "process": process} for event in learnt]
    return read_facts(events, bench.machine)


def _length(bench: Bench, run: Run, facts: Facts, rate: Rate | None) -> Length:
    """A short script is run in full; a longer one in bounded windows (measurement.md §4)."""
    if run.outcome == "completed" or rate is None:
        if bench.options.length is not None and run.outcome == "completed":
            text = "--length says nothing here: the training was over within the look"
            bench.narrator.note(f"{text}, and whole runs are compared")
        return Length(
            full=True,
            window_samples=None,
            user_samples=float(run.samples),
            short_form=bench.options.trial_args is not None,
        )
    return screening_length(rate, _samples_asked(bench, run, facts))


def _samples_asked(bench: Bench, run: Run, facts: Facts) -> float | None:
    """The samples of --length; else what a trainer was told; None: not known."""
    asked = parse_length(bench.options.length)
    if asked is None:
        return facts.planned_samples
    number, unit = asked
    if unit == "steps":
        return number * (run.samples or run.steps) / run.steps
    loader = facts.fed_by()
    if loader is None or (epoch := _samples_an_epoch(loader)) is None:
        bench.narrator.note("--length in epochs is not known without a loader: give it in steps")
        return None
    return number * epoch


def _samples_an_epoch(loader: LoaderFacts) -> float | None:
    """What one process draws in an epoch: of several, each has its part of the dataset."""
    drawn = (
        loader.batches * loader.batch_size
        if loader.batches is not None and loader.batch_size is not None
        else math.inf
    )
    length = loader.dataset_length if loader.dataset_length is not None else math.inf
    return float(min(drawn, length)) if min(drawn, length) < math.inf else None
