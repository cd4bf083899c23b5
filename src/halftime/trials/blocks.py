"""Random complete blocks of runs: the pilot, the screens, the confirmation (measurement.md §4)."""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ideas import keeps_samples
from ..measure.steady import common_cut, rates_of, steady_rate
from ..records import TOO_BUSY, Candidate, Comparison, Facts, Rate, Run, VerdictWord
from .execute import BASELINE, Executor, Task, check_baseline
from .preflight import failure_of
from .schedule import random_block
from .speedup import compare, resolvable_effect
from .timing import Fill, Length, seed_of, times_of, with_fill

PILOT_RUNS = 3
_BUSIER_PRESSURE, _BUSIER_STEAL = 0.30, 0.05
EXCLUSION = (
    "a block is void where the baseline's CPU pressure exceeds the pilot's by "
    f"{_BUSIER_PRESSURE:.2f}, or a run's steal the pilot's by {_BUSIER_STEAL:.2f}; at most half as "
    "many extra blocks"
)
"""What a study says of it before its first run (measurement.md §2)."""


@dataclass(kw_only=True)
class Trial:
    """An arm beside the baseline: its runs and the baseline's, block by block."""

    candidate: Candidate
    length: Length
    pairs: list[tuple[Run, Run]] = field(default_factory=list)
    failure: tuple[VerdictWord, str] | None = None
    fill: Fill | None = None
    """What its store costs in a run that has to fill it."""
    cut_samples: int | None = None
    """The warm-up that all arms of its blocks give up; None: its own."""

    def leave_if_under(self, hopeless: float) -> None:
        """Give the arm up where its blocks so far are under a mean log-ratio."""
        ratio = statistics.fmean(self._log_ratios())
        if ratio < hopeless:
            said = f"{math.exp(ratio):.2f}× in the first screening blocks: no more were spent on it"
            self.failure = ("inconclusive", said)

    def comparison(self) -> Comparison | None:
        """The arm against the baseline over its blocks; None with under two blocks."""
        if self.failure is not None or len(self.pairs) < 2:
            return None
        return compare(self._log_ratios())

    def times(self) -> list[tuple[float, float]]:
        """(baseline, arm) of each block."""
        cut = self._cut()
        base = times_of(self.bases, self.length, cut)
        return list(zip(base, times_of(self.arms, self.length, cut, self.fill), strict=True))

    def rates(self) -> tuple[list[Rate], list[Rate]]:
        """Of the baseline's runs and of the arm's, after one warm-up; a store's filling in F."""
        cut = self._cut()
        arms = [with_fill(rate, self.fill) for rate in rates_of(self.arms, cut)]
        return rates_of(self.bases, cut), arms

    @property
    def bases(self) -> list[Run]:
        return [base for base, _ in self.pairs]

    @property
    def arms(self) -> list[Run]:
        return [arm for _, arm in self.pairs]

    def _cut(self) -> int:
        if self.cut_samples is not None:
            return self.cut_samples
        return common_cut(self.bases, self.arms)

    def _log_ratios(self) -> list[float]:
        return [math.log(base) - math.log(arm) for base, arm in self.times()]


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What this machine can resolve, from the pilot."""

    run_seconds: float
    spread: float
    """Standard deviation of a block's log-ratio."""
    smallest_gain: float
    """With six confirm blocks, as a share."""


def pilot(executor: Executor, length: Length) -> tuple[list[Run], Resolution]:
    """Three baseline runs: the cost of a run and its noise."""
    runs = []
    for number in range(PILOT_RUNS):
        task = Task(
            stage="pilot", candidate=BASELINE, seed=seed_of(length, number), block=number,
            stop_after=length.stop_after,
        )  # fmt: skip
        run = executor.run(task)
        check_baseline(run, executor.command.script)
        runs.append(run)
    times = [math.log(seconds) for seconds in times_of(runs, length, common_cut(runs))]
    spread = statistics.stdev(times) * math.sqrt(2)
    resolution = Resolution(
        run_seconds=statistics.fmean(run.wall_seconds for run in runs),
        spread=spread,
        smallest_gain=resolvable_effect(spread, 6),
    )
    return runs, resolution


def run_blocks(
    executor: Executor,
    arms: Sequence[Candidate],
    length: Length,
    pilots: Sequence[Run],
    order_seed: int,
    stage: str,
    blocks: int,
    facts: Facts,
    hopeless: float = -math.inf,
) -> dict[str, Trial]:
    """Random complete blocks of the baseline and the arms that live.

    hopeless: the mean log-ratio under which an arm leaves after a block. Such an arm is none that
    could be chosen, so that nothing is claimed by it; a stage that claims has no such limit.
    """
    # A larger budget may choose other windows, or other arms: their blocks are made anew.
    block = f"{length.window_samples} {sorted(arm.name for arm in arms)}"
    beside = "" if stage.startswith(("screen", "quick")) else f" {zlib.crc32(block.encode()):08x}"
    stores = {keeper_of(arm): arm for arm in arms if has_store(arm)}
    fills = {name: _fill_store(executor, arm, length, facts) for name, arm in stores.items()}
    trials = {
        arm.name: Trial(candidate=arm, length=length, fill=fills.get(keeper_of(arm)))
        for arm in arms
    }
    valid = attempts = 0
    most = blocks + max(blocks // 2, 1)
    a_block = 0.0
    while valid < blocks and attempts < most:
        if attempts >= blocks and executor.left_seconds < a_block:
            break  # a block beyond those that were counted on
        alive = [trial.candidate for trial in trials.values() if trial.failure is None]
        if not alive:
            break
        runs: dict[str, Run] = {}
        for arm in random_block([BASELINE, *alive], order_seed, stage, attempts):
            task = Task(
                stage=stage,
                candidate=arm,
                seed=seed_of(length, attempts + 100 * (1 + len(stage))),
                block=attempts,
                stop_after=length.stop_after,
                store_folder=_store_folder(executor, arm, length),
                beside=beside,
            )
            runs[arm.name] = executor.run(task)
        attempts += 1
        a_block = sum(run.wall_seconds for run in runs.values())
        base = runs[BASELINE.name]
        check_baseline(base, executor.command.script)
        if is_busier(list(runs.values()), base, pilots):
            continue  # the whole block is void, and another is queued
        valid += 1
        for arm in alive:
            run = runs[arm.name]
            trial = trials[arm.name]
            trial.failure = failure_of(arm, run) or _incomparable(arm, base, run)
            if trial.failure is None:
                trial.pairs.append((base, run))
                trial.leave_if_under(hopeless)
    alive_ones = [trial for trial in trials.values() if trial.failure is None and trial.pairs]
    if alive_ones:
        cut = common_cut(alive_ones[0].bases, *(trial.arms for trial in alive_ones))
        for trial in alive_ones:
            trial.cut_samples = cut
    fewest = min(blocks, 2) if stage.startswith("screen") else blocks
    for trial in trials.values():
        if trial.failure is None and len(trial.pairs) < fewest:
            trial.failure = ("inconclusive", TOO_BUSY)
    return trials


def has_store(arm: Candidate) -> bool:
    """Whether an arm keeps samples, so that its first pass costs more than the later ones."""
    return bool(keeper_of(arm))


def keeper_of(arm: Candidate) -> str:
    """The technique of an arm that keeps samples; '' where none does."""
    return next((s.technique for s in arm.switches if keeps_samples(s.technique)), "")


def is_busier(runs: Sequence[Run], base: Run, pilots: Sequence[Run]) -> bool:
    """Whether the machine's own readings say that a block was disturbed.

    Judged by readings of the environment alone, against what was normal in the pilot.
    """
    pressures = [p.reading.cpu_pressure_share for p in pilots]
    steals = [p.reading.steal_share for p in pilots]
    known = [p for p in pressures if p is not None]
    waiting = base.reading.cpu_pressure_share
    if known and waiting is not None and waiting > max(known) + _BUSIER_PRESSURE:
        return True
    stolen = [s for s in steals if s is not None]
    return bool(stolen) and any(
        run.reading.steal_share is not None
        and run.reading.steal_share > max(stolen) + _BUSIER_STEAL
        for run in runs
    )


def _incomparable(arm: Candidate, base: Run, run: Run) -> tuple[VerdictWord, str] | None:
    if run.outcome != base.outcome:
        return "not comparable", f"it {run.outcome}, the baseline {base.outcome}"
    same_updates = run.updates == base.updates or arm.numerics == "training"
    if base.outcome == "completed" and (run.samples != base.samples or not same_updates):
        return (
            "not comparable",
            f"{run.samples} samples and {run.updates} updates, {base.samples} and {base.updates} "
            "in the baseline",
        )
    return None


def _store_folder(executor: Executor, arm: Candidate, length: Length) -> str | None:
    """In bounded windows the store is filled once a length and mapped by later runs."""
    if length.full or not has_store(arm):
        return None
    folder = executor.study.folder / keeper_of(arm) / str(length.window_samples)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _fill_store(executor: Executor, arm: Candidate, length: Length, facts: Facts) -> Fill | None:
    """What a first pass costs with an arm's store that is not filled; None where that is no matter.

    Of a DataLoader that run leaves the store filled for exactly the window's samples; a pipeline of
    tf.data is drained whole, before the window, by the first run that finds no file of it. Where it
    does not say how many samples it has, that run itself drains and counts them.
    """
    loader = facts.fed_by()
    if length.full or loader is None:
        return None
    store = next(switch for switch in arm.switches if switch.technique == keeper_of(arm))
    arm = Candidate(switches=(store,))
    drained_first = loader.kind == "tf.data" and loader.dataset_length is not None
    task = Task(
        stage=f"fill {length.window_samples}",
        candidate=arm,
        seed=0,
        stop_after=length.stop_after,
        store_folder=None if drained_first else _store_folder(executor, arm, length),
    )
    run = executor.run(task)
    rate = steady_rate(run)
    if rate is None:
        return None
    seconds, samples = rate.seconds_per_sample, loader.dataset_length
    if samples is None:
        # Nobody knows how many there are before they were drained, for which nothing trained.
        drained: Any = run.effects.get(store.technique, {}).get("samples")
        if not drained:
            return None
        seconds, samples = seconds + run.set_aside_seconds / drained, int(drained)
    return Fill(seconds_per_sample=seconds, dataset_samples=samples)
