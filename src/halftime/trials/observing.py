"""The observed run and the ablation after it: facts, diagnosis, and the length of a trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..measure.diagnose import FirstDiagnosis, explain
from ..measure.events import read_events, read_facts
from ..measure.launch import Event
from ..measure.steady import steady_rate
from ..options import parse_length
from ..records import Diagnosis, Facts, Rate, Run
from .bench import Bench
from .execute import Task
from .stages import BASELINE, WITNESS_STEPS, Length, check_baseline, window_length

_SHARE_OF_BUDGET = 20
_SHORTEST_LOOK, _LONGEST_LOOK = 15.0, 120.0
_REPLAY_SECONDS, _DRAIN_SECONDS, _REPLAY_BATCHES = 6.0, 6.0, 32
_FASTEST_GUESS = 2.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known before the first trial."""

    run: Run
    facts: Facts
    diagnosis: Diagnosis
    rate: Rate | None
    length: Length


def observe(bench: Bench) -> Seen:
    """Run the script once with the agent alone; this run is discarded for timing.

    Raises UserError where the script fails by itself.
    """
    first = FirstDiagnosis(bench.machine, bench.command.script)

    def listen(event: Event) -> None:
        said = first.hear(event)
        if said is not None:
            bench.narrator.note(said)

    bench.listeners.append(listen)
    look = min(max(bench.options.budget_seconds / _SHARE_OF_BUDGET, _SHORTEST_LOOK), _LONGEST_LOOK)
    run = bench.executor.run(
        Task(stage="observe", candidate=BASELINE, seed=0, stop_after={"seconds": look})
    )
    bench.listeners.remove(listen)
    if not (run.cause == "out of memory" and run.steps):
        check_baseline(run, bench.command.script)
    bench.executor.learn_limits([run], steps=WITNESS_STEPS)
    facts = read_facts(read_events(_folder(bench, run)), bench.machine)
    rate = steady_rate(run)
    return Seen(
        run=run,
        facts=facts,
        diagnosis=explain(run.windows, facts, run),
        rate=rate,
        length=_length(bench, run, facts, rate),
    )


def sharpen(bench: Bench, seen: Seen) -> Seen:
    """Replay and loader-alone: what free data would give, and whether samples are deterministic."""
    if seen.facts.fed_by() is None or seen.rate is None:
        return seen
    bench.executor.roots = tuple(root.class_name for root in seen.facts.roots)
    run = bench.executor.run(
        Task(
            stage="replay",
            candidate=BASELINE,
            seed=0,
            stop_after={"seconds": _REPLAY_SECONDS},
            ablation={
                "loader": seen.facts.training_loader,
                "batches": _REPLAY_BATCHES,
                "drain_seconds": _DRAIN_SECONDS,
            },
        )
    )
    replay = steady_rate(run)
    events = read_events(_folder(bench, seen.run)) + [
        event for event in read_events(_folder(bench, run)) if event["event"] == "loader_facts"
    ]
    process = next((e["process"] for e in events if e["event"] == "training"), "")
    for event in events:
        if event["event"] == "loader_facts":
            event["process"] = process
    facts = read_facts(events, bench.machine)
    return Seen(
        run=seen.run,
        facts=facts,
        diagnosis=explain(seen.run.windows, facts, seen.run, replay, seen.rate),
        rate=seen.rate,
        length=seen.length,
    )


def _length(bench: Bench, run: Run, facts: Facts, rate: Rate | None) -> Length:
    """A short script is run in full; a longer one in bounded windows (measurement.md §4)."""
    asked = parse_length(bench.options.length)
    samples: float | None = None
    loader = facts.fed_by()
    if asked is not None and loader is not None:
        number, unit = asked
        if unit == "epochs" and loader.dataset_length is not None:
            samples = number * loader.dataset_length
        elif unit == "steps" and loader.batch_size is not None:
            samples = number * loader.batch_size
    if run.outcome == "completed" or rate is None:
        return Length(full=True, window_samples=None, user_samples=float(run.samples))
    return window_length(rate, _FASTEST_GUESS, samples)


def _folder(bench: Bench, run: Run) -> Path:
    return bench.study.folder / "runs" / Path(run.folder).name
