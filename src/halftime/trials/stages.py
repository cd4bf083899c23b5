"""The stages of a study, in their order: preflight, pilot, screen, stack, confirm, prove."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..errors import BASELINE_FAILED, UserError
from ..measure.steady import steady_rate, time_at_length
from ..records import (
    Candidate,
    Comparison,
    Diagnosis,
    Facts,
    Proof,
    Rate,
    Run,
    Verdict,
    VerdictWord,
)
from . import parity
from .candidates import ceiling_of, stack, stacks_on
from .execute import Executor, Task
from .schedule import SCREEN_BLOCKS, random_block
from .speedup import (
    FEWEST_BLOCKS,
    blocks_to_confirm,
    compare,
    pooled_spread,
    resolvable_effect,
)

PILOT_RUNS = 3
_WITNESS_UPDATES = 20
WITNESS_STEPS = 2 * (parity.FEWEST_SERVED + 10)
_SECONDS_KEPT = 12.0
_CLOSE = 0.03
_BUSIER_PRESSURE, _BUSIER_STEAL = 0.30, 0.05
BASELINE = Candidate()


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a trial is, and the length that the user trains for."""

    full: bool
    window_samples: int | None
    """Of a bounded trial."""
    user_samples: float | None
    """L; None: not known, then only the rate is claimed."""

    @property
    def stop_after(self) -> dict[str, float] | None:
        return (
            None if self.full or self.window_samples is None else {"samples": self.window_samples}
        )


@dataclass(kw_only=True)
class Trial:
    """An arm beside the baseline: its runs and the baseline's, block by block."""

    candidate: Candidate
    pairs: list[tuple[Run, Run]] = field(default_factory=list)
    failure: tuple[VerdictWord, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What this machine can resolve, from the pilot."""

    run_seconds: float
    spread: float
    """Standard deviation of a block's log-ratio."""
    smallest_gain: float
    """With six confirm blocks, as a share."""


def check_baseline(run: Run, command: str) -> None:
    """Raise UserError where the baseline itself failed (measurement.md §6)."""
    if run.outcome != "failed":
        return
    raise UserError(
        f"{command} ended with {run.cause.removeprefix('crashed: ')} after {run.steps} steps; its "
        f"last lines are below. Run it without halftime first.\n\n{run.last_lines}",
        BASELINE_FAILED,
    )


def check_finite(run: Run, command: str) -> None:
    """Raise UserError where the baseline's own loss is not finite: nothing can be proven then."""
    if run.nonfinite:
        raise UserError(
            f"The loss of {command} becomes NaN or infinite without halftime too, so no result can "
            "be proven as good. Find the cause first (a smaller learning rate, "
            "torch.autograd.detect_anomaly), or use halftime diagnose, which needs no loss.",
            BASELINE_FAILED,
        )


def preflight(
    executor: Executor, candidates: Sequence[Candidate], facts: Facts, diagnosis: Diagnosis
) -> tuple[list[Candidate], dict[str, Proof], list[Verdict]]:
    """A few untimed steps of each arm: it runs, acts, and makes what the baseline makes.

    Gives the arms that live, what is already known of their proof, and the verdicts of the rest.
    """
    alive: list[Candidate] = []
    proofs: dict[str, Proof] = {}
    left: list[Verdict] = []
    if not candidates:
        return alive, proofs, left
    base = executor.run(_witness_task(BASELINE, facts))
    for candidate in candidates:
        run = executor.run(_witness_task(candidate, facts))
        failure = _failure_of(candidate, run)
        proof = None
        if failure is None:
            proof = _first_proof(candidate, base, run, facts)
            if proof.status == "failed":
                failure = ("parity failed", proof.missing)
        if failure is not None:
            left.append(_verdict(candidate, failure, "preflight", proof, diagnosis))
        elif proof is not None:
            alive.append(candidate)
            proofs[candidate.name] = proof
    return alive, proofs, left


def _witness_task(candidate: Candidate, facts: Facts) -> Task:
    """A short run that writes what is handed to the script and what it makes of it."""
    loader = facts.fed_by()
    digests = loader is not None and not loader.iterable
    cycle = None
    steps = _WITNESS_UPDATES + 2
    if digests and loader is not None:
        cycle = min(parity.FEWEST_SERVED + 10, loader.batches or parity.FEWEST_SERVED + 10)
        steps = cycle + parity.FEWEST_SERVED + 10
    return Task(
        stage="preflight",
        candidate=candidate,
        seed=0,
        stop_after={"steps": steps},
        witness={
            "batches": digests,
            "cycle": cycle,
            "loader": facts.training_loader,
            "gradients": _WITNESS_UPDATES,
        },
    )


def _first_proof(candidate: Candidate, base: Run, run: Run, facts: Facts) -> Proof:
    """What the witness shows: exact arms are settled, others are rejected early or left open."""
    trains, how = parity.still_trains(base, run)
    if not trains:
        return parity.failed(candidate.numerics, [], how)
    evidence = [how]
    touches_data = any(
        switch.technique in ("store", "workers", "prefetch") for switch in candidate.switches
    )
    if touches_data:
        equal, said = parity.same_batches(base, run, facts.training_loader or 0)
        evidence.append(said)
        if not equal and candidate.numerics != "draws":
            if "differs" in said:
                return parity.failed(candidate.numerics, evidence, said)
            return parity.not_proven(candidate.numerics, evidence, said)
    if candidate.numerics == "exact":
        equal, said = parity.same_losses(base.losses, run.losses)
        evidence.append(said)
        if not equal:
            return parity.not_proven("exact", evidence, f"{said}: is the baseline reproducible?")
        return Proof(status="exact", numerics="exact", evidence=tuple(evidence), missing="")
    share, said = parity.gradient_witness(base, run)
    evidence.append(said)
    if share is not None and share > 1 and not any(root.random_layers for root in facts.roots):
        return parity.failed(candidate.numerics, evidence, said)
    return parity.not_proven(candidate.numerics, evidence, "the test over seeds")


def _failure_of(candidate: Candidate, run: Run) -> tuple[VerdictWord, str] | None:
    if run.outcome == "failed":
        return "failed", run.cause
    if run.nonfinite:
        return "failed", "nonfinite: a loss is NaN or infinite"
    for switch in candidate.switches:
        if switch.technique not in run.effects:
            reasons = [why for name, why in run.refused if name == switch.technique]
            return "no effect", reasons[0] if reasons else f"{switch.technique} did not take effect"
    return None


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
    executor.learn_limits(runs)
    times = [math.log(seconds) for seconds in times_of(runs, length)]
    spread = statistics.stdev(times) * math.sqrt(2)
    resolution = Resolution(
        run_seconds=statistics.fmean(run.wall_seconds for run in runs),
        spread=spread,
        smallest_gain=resolvable_effect(spread, 6),
    )
    return runs, resolution


def screen(
    executor: Executor,
    arms: Sequence[Candidate],
    length: Length,
    pilots: Sequence[Run],
    order_seed: int,
    stage: str = "screen",
    blocks: int = SCREEN_BLOCKS,
) -> dict[str, Trial]:
    """Random complete blocks of the baseline and the live arms."""
    trials = {arm.name: Trial(candidate=arm) for arm in arms}
    valid = attempts = 0
    while valid < blocks and attempts < blocks + max(blocks // 2, 1):
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
            )
            runs[arm.name] = executor.run(task)
        attempts += 1
        base = runs[BASELINE.name]
        check_baseline(base, executor.command.script)
        if is_busier(list(runs.values()), base, pilots):
            continue  # the whole block is void, and another is queued
        valid += 1
        for arm in alive:
            run = runs[arm.name]
            trial = trials[arm.name]
            trial.failure = _failure_of(arm, run) or _incomparable(base, run)
            if trial.failure is None:
                trial.pairs.append((base, run))
    for trial in trials.values():
        if trial.failure is None and len(trial.pairs) < min(blocks, 2):
            trial.failure = ("inconclusive", "the machine was too busy")
    return trials


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


def _incomparable(base: Run, run: Run) -> tuple[VerdictWord, str] | None:
    if run.outcome != base.outcome:
        return "not comparable", f"it {run.outcome}, the baseline {base.outcome}"
    if base.outcome == "completed" and (run.samples, run.updates) != (base.samples, base.updates):
        return (
            "not comparable",
            f"{run.samples} samples and {run.updates} updates, {base.samples} and {base.updates} "
            "in the baseline",
        )
    return None


def _store_folder(executor: Executor, arm: Candidate, length: Length) -> str | None:
    """In bounded windows the store is filled once a study and mapped by later runs."""
    if length.full or not any(switch.technique == "store" for switch in arm.switches):
        return None
    folder = executor.study.folder / "store"
    folder.mkdir(exist_ok=True)
    return str(folder)


@dataclass(frozen=True, kw_only=True)
class Fill:
    """What a store costs in a user's own run, where bounded trials find it filled.

    T(L) = F + N·s_fill + (L − N)·s_hit for a data set of N samples (measurement.md §3).
    """

    seconds_per_sample: float
    dataset_samples: int


def fill_store(
    executor: Executor, arms: Sequence[Candidate], length: Length, facts: Facts
) -> Fill | None:
    """Fill the store for exactly the window's samples, once a study; None where there is none."""
    loader = facts.fed_by()
    switches = [s for arm in arms for s in arm.switches if s.technique == "store"]
    if length.full or not switches or loader is None or loader.dataset_length is None:
        return None
    arm = Candidate(switches=(switches[0],))
    task = Task(
        stage="fill",
        candidate=arm,
        seed=0,
        stop_after=length.stop_after,
        store_folder=_store_folder(executor, arm, length),
    )
    rate = steady_rate(executor.run(task))
    if rate is None:
        return None
    return Fill(seconds_per_sample=rate.seconds_per_sample, dataset_samples=loader.dataset_length)


def times_of(runs: Sequence[Run], length: Length, fill: Fill | None = None) -> list[float]:
    """What is compared of each run: its whole time, T(L), or its steady cost a sample."""
    if length.full:
        return [run.wall_seconds for run in runs]
    cuts = [rate.cut_samples for run in runs if (rate := steady_rate(run)) is not None]
    rates = [steady_rate(run, max(cuts, default=0)) for run in runs]
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return [run.wall_seconds for run in runs]
    samples = length.user_samples
    if samples is None:
        return [rate.seconds_per_sample for rate in known]
    times = [time_at_length(rate, samples) for rate in known]
    if fill is not None:
        first_pass = min(fill.dataset_samples, samples)
        times = [
            time + first_pass * max(fill.seconds_per_sample - rate.seconds_per_sample, 0.0)
            for time, rate in zip(times, known, strict=True)
        ]
    return times


def judge(trial: Trial, length: Length, fill: Fill | None = None) -> Comparison | None:
    """Compare an arm with the baseline over its blocks; None with under two blocks."""
    if trial.failure is not None or len(trial.pairs) < 2:
        return None
    stores = any(switch.technique == "store" for switch in trial.candidate.switches)
    base = times_of([base for base, _ in trial.pairs], length)
    arm = times_of([arm for _, arm in trial.pairs], length, fill if stores else None)
    return compare([math.log(b) - math.log(a) for b, a in zip(base, arm, strict=True)])


def choose_stack(
    trials: dict[str, Trial], length: Length, pool: Sequence[Candidate], fill: Fill | None
) -> tuple[Candidate | None, list[Candidate]]:
    """The fastest arm of a screen, and the stacks on it that are worth a second screen."""
    judged = {name: judge(trial, length, fill) for name, trial in trials.items()}
    gains = {name: c.speedup for name, c in judged.items() if c is not None}
    if not gains:
        return None, []
    best = max(gains, key=lambda name: gains[name])
    if gains[best] <= 1.0:
        return None, []
    winner = trials[best].candidate
    # The bottleneck has moved: what lost slightly beside it may win on top of it.
    hopeful = [arm for arm in pool if gains.get(arm.name, 1.0) > 0.9]
    return winner, stacks_on(winner, hopeful)


def best_of_stacks(
    winner: Candidate, rescreened: dict[str, Trial], length: Length, fill: Fill | None
) -> list[Candidate]:
    """Arms to confirm, the most promising first: the greedy stack, then what is close to it."""
    judged = {name: judge(trial, length, fill) for name, trial in rescreened.items()}
    speeds = {name: c.speedup for name, c in judged.items() if c is not None}
    reference = speeds.pop(winner.name, 1.0)
    better = sorted(
        (name for name in speeds if speeds[name] > reference * 1.01),
        key=lambda name: -speeds[name],
    )
    if not better:
        return [winner]
    greedy = rescreened[better[0]].candidate
    for name in better[1:]:
        extra = Candidate(
            switches=tuple(
                s for s in rescreened[name].candidate.switches if s not in greedy.switches
            )
        )
        greedy = stack(greedy, extra) or greedy
    return _by_name([greedy, rescreened[better[0]].candidate, winner])


def _by_name(candidates: Sequence[Candidate]) -> list[Candidate]:
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        seen.setdefault(candidate.name, candidate)
    return list(seen.values())


def fastest_first(trials: dict[str, Trial], length: Length, fill: Fill | None) -> list[Trial]:
    """The trials that are faster than the baseline, the fastest first."""
    judged = {name: judge(trial, length, fill) for name, trial in trials.items()}
    faster = {name: c.speedup for name, c in judged.items() if c is not None and c.word == "faster"}
    return [trials[name] for name in sorted(faster, key=lambda name: -faster[name])]


def quick_verdicts(
    trials: dict[str, Trial], length: Length, diagnosis: Diagnosis, fill: Fill | None
) -> dict[str, Verdict]:
    """One run an arm: a ratio to look at, and no claim."""
    found = {}
    for name, trial in trials.items():
        if trial.failure is not None:
            found[name] = _verdict(trial.candidate, trial.failure, "screen", None, diagnosis)
            continue
        base, arm = trial.pairs[0]
        ratio = times_of([base], length)[0] / times_of([arm], length, fill)[0]
        reason = f"{ratio:.2f}× in one run, no claim"
        verdict = _verdict(trial.candidate, ("inconclusive", reason), "screen", None, diagnosis)
        found[name] = replace(verdict, run_seconds=arm.wall_seconds, peak_bytes=arm.peak_bytes)
    return found


def leave_one_out(candidate: Candidate) -> list[Candidate]:
    """The stack without each of its techniques, for what each of them gave."""
    if len(candidate.switches) < 2:
        return []
    return [
        Candidate(switches=tuple(s for s in candidate.switches if s is not without))
        for without in candidate.switches
    ]


def confirm_blocks(trials: dict[str, Trial], winner: str, length: Length, fill: Fill | None) -> int:
    """The number of confirm blocks, fixed before they start."""
    judged = [judge(trial, length, fill) for trial in trials.values()]
    groups = [c.log_ratios for c in judged if c is not None]
    screened = judge(trials[winner], length, fill) if winner in trials else None
    effect = math.log(screened.speedup) if screened is not None else 0.0
    return blocks_to_confirm(pooled_spread(groups), effect)


def affordable(
    finalists: Sequence[Candidate],
    parts: Sequence[Candidate],
    blocks: int,
    run_seconds: float,
    left_seconds: float,
) -> tuple[list[Candidate], int]:
    """The arms and blocks of the confirm stage that fit the budget.

    First the parts of the stack are given up, then what was close to the winner, then blocks
    down to four; under four nothing may be claimed, and 0 is given.
    """
    whole = _by_name([*finalists, *parts])
    for arms in (whole, _by_name(finalists), list(finalists[:1])):
        if (len(arms) + 1) * blocks * run_seconds <= left_seconds:
            return arms, blocks
    fitting = int(left_seconds / (2 * run_seconds)) if run_seconds else blocks
    return list(finalists[:1]), fitting if fitting >= FEWEST_BLOCKS else 0


def proof_before_confirm(
    executor: Executor, candidate: Candidate, known: dict[str, Proof], facts: Facts
) -> Proof:
    """What the witness shows of a candidate; a stack gets a witness run of its own."""
    if candidate.name not in known:
        base = executor.run(_witness_task(BASELINE, facts))
        run = executor.run(_witness_task(candidate, facts))
        failure = _failure_of(candidate, run)
        if failure is not None:
            known[candidate.name] = parity.failed(candidate.numerics, [], failure[1])
        else:
            known[candidate.name] = _first_proof(candidate, base, run, facts)
    return known[candidate.name]


def conclude(
    trial: Trial,
    length: Length,
    stage: str,
    proof: Proof | None,
    diagnosis: Diagnosis,
    fill: Fill | None,
) -> Verdict:
    """What may be said of an arm after a stage."""
    if trial.failure is not None:
        return _verdict(trial.candidate, trial.failure, stage, proof, diagnosis)
    comparison = judge(trial, length, fill)
    if comparison is None:
        return _verdict(
            trial.candidate, ("inconclusive", "fewer than two blocks"), stage, proof, diagnosis
        )
    word: VerdictWord = comparison.word
    if proof is not None and proof.status == "failed":
        word = "parity failed"
    reason = (
        ""
        if word != "inconclusive"
        else (
            f"this machine resolves ≥ {comparison.resolvable:.1%} with "
            f"{len(comparison.log_ratios)} blocks"
        )
    )
    arms = [arm for _, arm in trial.pairs]
    verdict = _verdict(trial.candidate, (word, reason), stage, proof, diagnosis)
    return replace(
        verdict,
        comparison=comparison,
        rate=_mean_rate(arms),
        run_seconds=statistics.fmean(arm.wall_seconds for arm in arms),
        peak_bytes=max(arm.peak_bytes for arm in arms),
    )


def _mean_rate(runs: Sequence[Run]) -> Rate | None:
    rates = [rate for run in runs if (rate := steady_rate(run)) is not None]
    if not rates:
        return None
    middle = sorted(rates, key=lambda rate: rate.seconds_per_sample)[len(rates) // 2]
    return middle


def _verdict(
    candidate: Candidate,
    word: tuple[VerdictWord, str],
    stage: str,
    proof: Proof | None,
    diagnosis: Diagnosis,
) -> Verdict:
    return Verdict(
        candidate=candidate,
        word=word[0],
        reason=word[1],
        stage=stage,  # type: ignore[arg-type]  # one of the three stages by construction
        comparison=None,
        proof=proof,
        rate=None,
        run_seconds=None,
        peak_bytes=None,
        predicted_ceiling=ceiling_of(candidate, diagnosis),
    )


def window_length(rate: Rate, fastest: float, user_samples: float | None) -> Length:
    """A bounded trial long enough that an arm `fastest` times as fast still keeps 12 s."""
    cut = rate.cut_samples
    samples = cut + int(_SECONDS_KEPT * fastest / rate.seconds_per_sample)
    return Length(full=False, window_samples=max(samples, 1), user_samples=user_samples)


def seed_of(length: Length, number: int) -> int:
    """Full runs vary the seed by block; bounded windows keep it, so that a store is filled once."""
    return number if length.full else 0
