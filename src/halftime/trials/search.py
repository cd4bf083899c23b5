"""A search for the fastest stack that is as good, stage by stage (measurement.md §4)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..measure.steady import time_at_length
from ..records import Candidate, Credit, Proof, ProtocolRun, Rate, Run, Status, Verdict, VerdictWord
from . import costs
from .bench import Bench
from .blocks import PILOT_RUNS, Resolution, Trial, has_store, pilot, run_blocks
from .candidates import (
    NOT_AT_FIRST,
    Refusal,
    expected_speedup,
    likely_speedup,
    named,
    propose,
    that_save_memory,
)
from .execute import BASELINE, Task
from .metric import parse_margin
from .observing import Seen
from .parity import FEWEST_SEEDS, NEED_NO_TEST, not_proven
from .preflight import failure_of, witness
from .proving import Terms, has_a_test, mean_quality, prove, settle_terms
from .schedule import SCREEN_BLOCKS, affordable, arms_within_budget
from .speedup import FEWEST_BLOCKS, blocks_to_confirm, pooled_spread
from .stacking import (
    WON,
    all_that_won,
    best_of_stacks,
    by_name,
    fastest_first,
    hopeful_beside,
    leave_one_out,
    promise,
    provable_first,
    worth_it_beside,
)
from .timing import Length, comparing_length, confirming_length, seconds_of, shortest_length
from .verdicts import conclude, exploratory, ranked, summary_of, verdict_of

_RESCUED_STEPS = 64
# What a first screen leaves for the second: the baseline, the winner and two stacks on it.
_RUNS_FOR_STACKS = 4 * SCREEN_BLOCKS
_HOPELESS = -math.log(0.9)
_RUNS_TO_CONFIRM = 1 + PILOT_RUNS + 2 * FEWEST_BLOCKS
# How far beyond what was seen of a training its end is asked for: at twice it is as likely as not.
_WORTH_ASKING, _RATHER_THAN_NONE = 2.0, 1.2
_UNCOMPARED = not_proven("rounding", (), "the baseline does not run here: nothing to compare with")


@dataclass(kw_only=True)
class Search:
    """Grows as the stages go by; what is not known yet is None or empty."""

    bench: Bench
    seen: Seen
    status: Status = "partial"
    refused: list[Refusal] = field(default_factory=list)
    pilots: list[Run] = field(default_factory=list)
    resolution: Resolution | None = None
    terms: Terms | None = None
    proofs: dict[str, Proof] = field(default_factory=dict)
    early: list[Verdict] = field(default_factory=list)
    screened: dict[str, Verdict] = field(default_factory=dict)
    confirmed: dict[str, Verdict] = field(default_factory=dict)
    baseline: Verdict | None = None
    credits: list[Credit] = field(default_factory=list)
    protocols: list[ProtocolRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def propose(self) -> list[Candidate]:
        """The techniques worth a trial, the most promising first."""
        options = self.bench.options
        self._say_short_form()
        candidates, self.refused = propose(
            self.seen.facts, self.seen.diagnosis, options.only, options.without
        )
        return candidates

    def named(self, arms: Sequence[Sequence[str]]) -> list[Candidate]:
        """The arms that the user asked for by name."""
        self._say_short_form()
        candidates, self.refused = named(arms, self.seen.facts, self.seen.diagnosis)
        return candidates

    def _say_short_form(self) -> None:
        added = self.bench.options.trial_args
        if added is not None:
            self.notes.append(f"measured with {added} added: a short form of your run")

    def within_reach(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The most promising whose preflight leaves room for a pilot and four confirm blocks.

        Says which budget would do where that is none of them.
        """
        if not candidates:
            return []
        self._to_its_end_rather_than_none(candidates[0])
        seen = self.seen
        cost = seen.trial_seconds
        preflights = self._preflights(candidates)
        needed = costs.of_an_answer(candidates[0], seen)
        left = self.bench.left_seconds - needed

        def fits(count: int) -> bool:
            # One more than can be screened, since a preflight may end an arm; two at least.
            screens = sum(preflights[1:count]) + SCREEN_BLOCKS * cost * count
            return sum(preflights[: count + 1]) <= left and (count <= 2 or screens <= left)

        count = max(filter(fits, range(1, len(candidates) + 1)), default=0)
        self._refuse_for_want_of_budget(candidates[count:])
        if not count:
            self._say_too_small(cost, needed + sum(preflights[:2]))
        return list(candidates[:count])

    def _preflights(self, arms: Sequence[Candidate]) -> list[float]:
        """Seconds: of the preflight of the baseline, and of each arm."""
        return costs.of_preflights(arms, self.seen, self.bench.options.budget_seconds)

    def preflight(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The arms that run, act, and make what the baseline makes; the rest gets its verdict."""
        alive = []
        for candidate in candidates:
            failure, proof = witness(self.bench.executor, candidate, self.seen.facts)
            if failure is None:
                alive.append(candidate)
                self.proofs[candidate.name] = proof
            else:
                left = verdict_of(candidate, failure, "preflight", proof, self.seen.diagnosis)
                self.early.append(left)
        return alive

    def pilot(self) -> None:
        """What a run costs, what this machine resolves, and what proofs will be judged by."""
        options, length = self.bench.options, self.seen.length
        margin = parse_margin(options.margin)
        self.pilots, self.resolution = pilot(self.bench.executor, length)
        self.bench.executor.learn_limits(self.pilots)
        self.terms = settle_terms(self.pilots, margin, options.metric, length)
        if not length.full and (options.metric or margin.unit == "pp"):
            self.notes.append(
                "whole runs do not fit the budget: what rounds is judged by the training loss of "
                "windows, and --metric and a margin in points have no effect; --trial-args or a "
                "larger --budget makes whole runs"
            )
        self.bench.narrator.note(
            f"this machine resolves speed-ups from {self.resolution.smallest_gain:.1%} with 6 "
            f"blocks (a block's log-ratio spreads {self.resolution.spread:.1%}); "
            f"{self.terms.describe()}"
        )

    def look(self, arms: Sequence[Candidate]) -> None:
        """Each arm once: exploratory, no claims."""
        self.status = "exploratory"
        for name, trial in self._blocks(arms, "quick", 1).items():
            self.screened[name] = exploratory(trial, self.seen.diagnosis)
            if trial.bases:
                self.baseline = summary_of(trial, self.seen.diagnosis)

    def screen(self, arms: Sequence[Candidate]) -> dict[str, Trial]:
        """Three blocks of what the budget has room for, with room to screen two stacks later.

        Where none of these gains, what they left of the budget is for the arms that come next.
        """
        assert self.resolution is not None, "the pilot comes first"
        hopeless = -max(_HOPELESS, 3 * self.resolution.spread)
        trials: dict[str, Trial] = {}
        waiting, rounds = list(arms), 0
        while waiting and not any(speedup > WON for _, speedup in fastest_first(trials)):
            names = {arm.name for arm in waiting}
            self.refused = [refusal for refusal in self.refused if refusal.technique not in names]
            expected = [expected_speedup(arm, self.seen.diagnosis) for arm in waiting]
            for_stacks = _RUNS_FOR_STACKS if len(arms) > 2 and not trials else 0
            kept = self._within_budget(waiting, expected, for_stacks)
            if not kept:
                break
            rounds += 1
            stage = "screen" if rounds == 1 else f"screen {rounds}"
            trials |= self._screen(kept, stage, hopeless)
            waiting = [arm for arm in waiting if arm not in kept]
        return trials

    def without_a_screen(self, arms: Sequence[Candidate]) -> list[Candidate]:
        """The most promising arm, where the budget confirms one arm but cannot screen any."""
        assert self.resolution is not None, "the pilot comes first"
        chosen = sorted(arms, key=lambda arm: -expected_speedup(arm, self.seen.diagnosis))[:1]
        if not chosen:
            return []
        needed = costs.of_confirming(chosen[0], self.seen, self.resolution.run_seconds)
        if needed > self.bench.left_seconds:
            return []
        name = chosen[0].name
        self.refused = [refusal for refusal in self.refused if refusal.technique != name]
        self.notes.append(
            f"the budget had no room to screen: {name}, the most promising, was confirmed alone"
        )
        return chosen

    def screen_again(
        self, trials: dict[str, Trial], pool: Sequence[Candidate]
    ) -> tuple[list[Candidate], dict[str, Trial]]:
        """Stacks on the winner of the first screen: the arms to confirm, and every trial so far."""
        ranked = fastest_first(trials)
        if not ranked or ranked[0][1] <= 1.0:
            return [], trials
        winner, speedup = ranked[0][0].candidate, ranked[0][1]
        small = [r.technique for r in self.refused if NOT_AT_FIRST in r.reason]
        stacks = all_that_won(trials) + hopeful_beside(winner, trials, pool)
        stacks += worth_it_beside(winner, speedup, self.seen.facts, self.seen.diagnosis, small)
        promises = [promise(arm, trials) for arm in by_name(stacks)]
        stacks = self._within_budget(by_name(stacks), promises, SCREEN_BLOCKS)
        if not stacks:
            return [winner], trials
        again = self._screen([winner, *stacks], "screen again")
        return best_of_stacks(winner, again), {**trials, **again}

    def confirm(self, finalists: Sequence[Candidate], trials: dict[str, Trial]) -> None:
        """Fresh blocks of the baseline, the winner, what is close to it, and its parts; proofs."""
        seen, bench = self.seen, self.bench
        finalists = self._sound(finalists, trials, seen.length)
        base = statistics.fmean(run.wall_seconds for run in self.pilots)
        screened = [trials[c.name] for c in finalists if c.name in trials]
        ratios = [c.log_ratios for t in trials.values() if (c := t.comparison())]
        assert self.resolution is not None, "the pilot comes first"
        spread = pooled_spread(ratios) if ratios else self.resolution.spread
        length, cost, winner_cost = seen.length, base, base
        if seen.rate is not None:
            likely = likely_speedup(finalists[0], seen.diagnosis)
            speedup = max((_steady_speedup(trial) for trial in screened), default=likely)
            length = self._length_of_claim(finalists, seen.rate, speedup)
            finalists = self._sound(finalists, trials, length)
            screened = [trials[c.name] for c in finalists if c.name in trials]
            base = statistics.fmean(run.wall_seconds for run in self.pilots)
            cost = winner_cost = seconds_of(length, seen.rate, base)
            if not length.full:
                started = time_at_length(seen.rate, seen.rate.cut_samples)
                winner_cost = started + (cost - started) / max(speedup, 1.0)
            elif not seen.length.full and screened:
                winner_cost = _seconds_at(screened[0], length)
            bench.executor.learn_limits(self.pilots, cost)
        effects = [math.log(c.speedup) for t in screened if (c := t.comparison())]
        if self._is_plan_in_the_hand(finalists[0], length):
            effects = [math.log(promise(finalists[0], trials))]
        arms, blocks = affordable(
            finalists,
            by_name([*finalists, *leave_one_out(finalists[0])]),
            blocks_to_confirm(spread, max(effects, default=0.0)),
            cost,
            winner_cost,
            bench.left_seconds,
        )
        if not blocks:
            self.notes.append(
                "the budget has no room for four confirm blocks: give a larger --budget"
            )
            return
        confirmed = run_blocks(
            bench.executor, arms, length, self.pilots, bench.order_seed, "confirm", blocks,
            seen.facts,
        )  # fmt: skip
        for name, trial in confirmed.items():
            self.confirmed[name] = conclude(trial, "confirm", None, seen.diagnosis)
            if trial.pairs and self.baseline is None:
                self.baseline = summary_of(trial, seen.diagnosis)
        self._prove(confirmed)
        self.credits = _credits(arms[0], self.confirmed)

    def _sound(
        self, finalists: Sequence[Candidate], trials: dict[str, Trial], length: Length
    ) -> list[Candidate]:
        """The finalists whose witness did not fail; what can be proven first."""
        ordered = list(finalists)
        if not self._has_a_test(length):
            first, *rest = provable_first(finalists, trials)
            leads = first.numerics == "draws" or self._witnessed(first).holds
            ordered = [first, *rest] if leads else ordered
        good = [c for c in ordered if self._witnessed(c).status != "failed"]
        return good or list(finalists[-1:])

    def _is_plan_in_the_hand(self, arm: Candidate, length: Length) -> bool:
        """Whether an arm leads because it can be proven, and not because it is the fastest."""
        return not self._has_a_test(length) and arm.numerics in NEED_NO_TEST

    def _has_a_test(self, length: Length) -> bool:
        assert self.terms is not None, "terms are settled by the pilot, before any block"
        return has_a_test(self.terms, self.pilots, length)

    def _length_of_claim(
        self, finalists: Sequence[Candidate], rate: Rate, speedup: float
    ) -> Length:
        """Windows to claim by; whole runs, where the training turns out to be over within one."""
        planned = self.seen.length
        exact = all(arm.numerics == "exact" for arm in finalists)
        pairs = FEWEST_BLOCKS + (0 if exact else FEWEST_SEEDS)
        fills = any(map(has_store, finalists))

        def sized() -> Length:
            left = self.bench.left_seconds
            return confirming_length(planned, rate, speedup, left, pairs, fills)

        length = sized()
        if not self._can_ask(length, finalists[0]):
            return length
        asked = self._to_its_end(length)
        return asked if asked.full else sized()

    def _to_its_end_rather_than_none(self, arm: Candidate) -> None:
        """Ask for the training's end where the budget has no room for windows of it.

        A training that is over soon after the look needs none.
        """
        seen, left = self.seen, self.bench.left_seconds
        if seen.rate is None or seen.length.full or costs.of_an_answer(arm, seen) <= left:
            return
        speedup = likely_speedup(arm, seen.diagnosis)
        length = shortest_length(seen.length, seen.rate, speedup)
        # Whole runs need a pilot and four blocks: of a longer training there is no room for them.
        most = int(left / _RUNS_TO_CONFIRM / seen.rate.seconds_per_sample)
        longest = replace(length, window_samples=min(length.window_samples or most, most))
        self._to_its_end(longest, _RATHER_THAN_NONE)

    def _can_ask(self, length: Length, arm: Candidate) -> bool:
        """Whether a run of that length leaves room for the blocks of a claim."""
        seen = self.seen
        cost = seconds_of(length, seen.rate, seen.trial_seconds)
        return self.bench.left_seconds - cost >= costs.of_confirming(arm, seen, seen.trial_seconds)

    def _to_its_end(self, length: Length, factor: float = _WORTH_ASKING) -> Length:
        """Whole runs, where the training turns out to be over within a window.

        Asked by one run, where its length is not known and windows go beyond what was seen by this
        factor.
        """
        seen = self.seen
        window = length.window_samples or 0
        beyond = factor * (seen.run.samples or seen.run.steps)
        if length.full or window <= beyond or window < (length.user_samples or 0):
            return length
        known = self.pilots or [seen.run]
        self.bench.executor.learn_limits(known, seconds_of(length, seen.rate, 0.0))
        run = self.bench.executor.run(
            Task(stage="to its end", candidate=BASELINE, seed=0, stop_after=length.stop_after)
        )
        if run.outcome != "completed":
            return length
        options = self.bench.options
        amount = run.samples or run.steps
        whole = replace(length, full=True, window_samples=None, user_samples=float(amount))
        self.seen, self.pilots = replace(seen, run=run, length=whole), [run]
        self.terms = settle_terms([run], parse_margin(options.margin), options.metric, whole)
        self.notes.append(
            f"the training is over after {amount:,} samples, which no look had shown: it was "
            "confirmed by whole runs"
        )
        return whole

    def rescue(self) -> None:
        """What lets a script run that does not fit in memory: the first that does, no speed-up."""
        for candidate in that_save_memory(self.seen.facts, self.seen.diagnosis):
            task = Task(
                stage="rescue", candidate=candidate, seed=0, stop_after={"steps": _RESCUED_STEPS}
            )
            run = self.bench.executor.run(task)
            failure = failure_of(candidate, run)
            said: tuple[VerdictWord, str] = failure or ("fits", "")
            verdict = verdict_of(candidate, said, "preflight", _UNCOMPARED, self.seen.diagnosis)
            self.early.append(replace(verdict, peak_bytes=run.memory_bytes))
            if failure is None:
                break
        self.status = "complete"

    def compare(self, arms: Sequence[Candidate]) -> None:
        """Every arm beside the baseline, and the baseline beside itself; a proof for each arm."""
        assert self.resolution is not None, "the pilot comes first"
        bench, seen = self.bench, self.seen
        length, cost = seen.length, self.resolution.run_seconds
        if seen.rate is not None and not length.full:
            likely = max((likely_speedup(arm, seen.diagnosis) for arm in arms), default=1.5)
            # A block holds the baseline twice beside the arms.
            length = comparing_length(
                length, seen.rate, max(likely, 1.5), bench.left_seconds, len(arms) + 2
            )
            cost = seconds_of(length, seen.rate, cost)
            bench.executor.learn_limits(self.pilots, cost)
        whole = [Candidate(again=True), *arms]
        wanted = blocks_to_confirm(self.resolution.spread, 0.0)
        if not self._has_room_for_blocks(cost, len(whole) + 1):
            return
        room = int(bench.left_seconds / (cost * (len(whole) + 1)))
        trials = run_blocks(
            bench.executor, whole, length, self.pilots, bench.order_seed, "compare",
            min(wanted, room), seen.facts,
        )  # fmt: skip
        for trial in trials.values():
            self._conclude_beside(trial)

    def can_compare(self, arms: Sequence[Candidate]) -> bool:
        """Whether the budget has room for these arms, before a preflight is spent on them."""
        cost = self.seen.trial_seconds
        before = PILOT_RUNS * cost + sum(self._preflights(arms))
        return self._has_room_for_blocks(cost, len(arms) + 2, before)

    def _has_room_for_blocks(self, cost: float, arms: int, before: float = 0.0) -> bool:
        """Says which budget would do where it has none. Seconds: of a run; of what comes before."""
        needed = before + FEWEST_BLOCKS * cost * arms
        if needed <= self.bench.left_seconds:
            return True
        enough = self.bench.study.spent + 1.12 * needed
        self.notes.append(
            f"the budget has no room for {FEWEST_BLOCKS} blocks of {arms} arms: give --budget "
            f"{enough / 60 + 1:.0f}m, or look at each arm once with --quick"
        )
        return False

    def for_one_look(self, arms: Sequence[Candidate]) -> list[Candidate]:
        """The arms that a preflight and one run each leave within the budget."""
        cost, preflights = self.seen.trial_seconds, self._preflights(arms)
        needed = [sum(preflights[: n + 1]) + (n + 1) * cost for n in range(1, len(arms) + 1)]
        count = sum(seconds <= self.bench.left_seconds for seconds in needed)
        self._refuse_for_want_of_budget(arms[count:])
        if arms and not count:
            enough = self.bench.study.spent + 1.1 * needed[-1]
            self.notes.append(
                f"the budget is too small for a look at one arm: give --budget "
                f"{enough / 60 + 1:.0f}m"
            )
        return list(arms[:count])

    def _conclude_beside(self, trial: Trial) -> None:
        """What the blocks of a comparison say of an arm, with its quality and its proof."""
        assert self.terms is not None, "terms are settled by the pilot, before any block"
        candidate, proof = trial.candidate, None
        if not candidate.again and trial.failure is None:
            first = self._witnessed(candidate)
            proof = prove(self.bench.executor, trial, first, self.terms)
        verdict = conclude(trial, "confirm", proof, self.seen.diagnosis)
        quality = mean_quality(self.terms, trial.arms, trial.length)
        self.confirmed[candidate.name] = replace(
            verdict, quality=quality, one_off_seconds=self._one_off(trial)
        )
        if trial.pairs and self.baseline is None:
            self.baseline = replace(
                summary_of(trial, self.seen.diagnosis),
                quality=mean_quality(self.terms, trial.bases, trial.length),
            )

    def _prove(self, confirmed: dict[str, Trial]) -> None:
        """Prove the fastest first, until one proof holds."""
        assert self.terms is not None, "terms are settled by the pilot, before any block"
        for verdict in ranked(self.confirmed.values()):
            name = verdict.candidate.name
            trial = confirmed[name]
            first = self._witnessed(trial.candidate)
            proof = prove(self.bench.executor, trial, first, self.terms)
            concluded = conclude(trial, "confirm", proof, self.seen.diagnosis)
            self.confirmed[name] = replace(concluded, one_off_seconds=self._one_off(trial))
            if proof.holds:
                return

    def _one_off(self, trial: Trial) -> float:
        """What the first compilation of the study took beyond those that found it on disk.

        Source: measurement.md §3, F; the runs of a study share what was compiled.
        """
        at_first = 0.0
        for switch in trial.candidate.switches:
            later: list[Any] = [run.effects[switch.technique].get("seconds") for run in trial.arms]
            if later and None not in later:
                under = self.bench.study.runs_under(switch.label())
                effects = [run.effects.get(switch.technique, {}) for run in under]
                first = next(effect["seconds"] for effect in effects if "seconds" in effect)
                at_first += max(first - statistics.median(later), 0.0)
        return at_first

    def _witnessed(self, candidate: Candidate) -> Proof:
        """What the witness shows of a candidate; a stack gets a witness run of its own."""
        if candidate.name not in self.proofs:
            _, proof = witness(self.bench.executor, candidate, self.seen.facts)
            self.proofs[candidate.name] = proof
        return self.proofs[candidate.name]

    def _screen(
        self, arms: Sequence[Candidate], stage: str, hopeless: float = -math.inf
    ) -> dict[str, Trial]:
        trials = self._blocks(arms, stage, SCREEN_BLOCKS, hopeless)
        for name, trial in trials.items():
            self.screened[name] = conclude(trial, "screen", None, self.seen.diagnosis)
        return trials

    def _blocks(
        self, arms: Sequence[Candidate], stage: str, blocks: int, hopeless: float = -math.inf
    ) -> dict[str, Trial]:
        if not arms:
            return {}
        return run_blocks(
            self.bench.executor, arms, self.seen.length, self.pilots, self.bench.order_seed, stage,
            blocks, self.seen.facts, hopeless,
        )  # fmt: skip

    def _within_budget(
        self, arms: Sequence[Candidate], promises: Sequence[float], more_runs: int
    ) -> list[Candidate]:
        """The arms that can be screened and confirmed in what is left; the rest is dropped.

        promises: what each may give; the least promising leave first. more_runs: to be left for
        something else.
        """
        seen, left = self.seen, self.bench.left_seconds
        cost = self.resolution.run_seconds if self.resolution else 0.0
        promising = max(arms, key=lambda arm: expected_speedup(arm, seen.diagnosis), default=None)
        confirm = costs.of_confirming(promising, seen, cost) if promising else 0.0
        kept, dropped = arms_within_budget(arms, promises, cost, confirm, left - more_runs * cost)
        if not self.screened and len(kept) < 2:
            # Too short for stacks: two arms at least, or one, are looked at in the first screen.
            kept, dropped = arms_within_budget(arms, promises, cost, confirm, left)
            kept, dropped = kept[:2], [*kept[2:], *dropped]
        self._refuse_for_want_of_budget(dropped)
        if arms and not kept and not self.screened and confirm > left:
            self._say_too_small(cost, confirm)
        return kept

    def _refuse_for_want_of_budget(self, arms: Sequence[Candidate]) -> None:
        reason = "the budget has no room for it: give a larger --budget"
        alone = [arm for arm in arms if len(arm.switches) == 1]
        self.refused += [Refusal(technique=arm.name, reason=reason) for arm in alone]
        if len(arms) > len(alone):
            self.refused.append(Refusal(technique=f"{len(arms) - len(alone)} more stacks",
                                        reason=reason))  # fmt: skip

    def _say_too_small(self, cost: float, needed: float) -> None:
        enough = self.bench.study.spent + 2 * SCREEN_BLOCKS * cost + 1.2 * needed
        self.notes.append(
            f"the budget is too small for an answer: one run takes {cost:.0f} s, and one arm needs "
            f"{PILOT_RUNS} pilot runs, {SCREEN_BLOCKS} screen blocks and {FEWEST_BLOCKS} confirm "
            f"blocks; give at least --budget {enough / 60 + 1:.0f}m"
        )


def _seconds_at(trial: Trial, length: Length) -> float:
    """What a whole run of an arm is expected to take, by its bounded trials."""
    known = replace(trial.length, user_samples=length.user_samples)
    return statistics.fmean(arm for _, arm in replace(trial, length=known).times())


def _steady_speedup(trial: Trial) -> float:
    """How much less a sample costs in the arm, the filling of a store left aside."""
    comparison = replace(trial, length=replace(trial.length, user_samples=None)).comparison()
    return comparison.speedup if comparison is not None else 1.0


def _credits(stack: Candidate, confirmed: dict[str, Verdict]) -> list[Credit]:
    """What each technique gave: the stack's speed-up over that of the stack without it."""
    whole = confirmed[stack.name].comparison
    found = []
    for switch in stack.switches:
        rest = Candidate(switches=tuple(s for s in stack.switches if s is not switch))
        part = confirmed.get(rest.name)
        if whole is not None and part is not None and part.comparison is not None:
            factor = whole.speedup / part.comparison.speedup
            found.append(Credit(technique=switch.label(), factor=factor))
    return found
