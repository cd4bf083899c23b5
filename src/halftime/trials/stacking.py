"""Which techniques go together, and which stacks are worth a trial."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from ..ideas import find_idea
from ..records import Candidate, Diagnosis, Facts, Switch
from .blocks import Trial
from .candidates import ceiling_of_technique, techniques
from .parity import NEED_NO_TEST
from .speedup import TOO_SMALL

_HOPEFUL = 0.9
_BETTER = 1.01
WON = 1.03


def stack(first: Candidate, second: Candidate) -> Candidate | None:
    """Both candidates at once; None where their ideas exclude each other."""
    switches = list(first.switches)
    for switch in second.switches:
        if any(_conflict(switch, other) for other in switches):
            return None
        switches.append(switch)
    return Candidate(switches=tuple(switches))


def stacks_on(winner: Candidate, others: Sequence[Candidate]) -> list[Candidate]:
    """The winner with each of the others that goes with it."""
    found = [stack(winner, other) for other in others if other != winner]
    return [candidate for candidate in found if candidate is not None]


def fastest_first(trials: Mapping[str, Trial]) -> list[tuple[Trial, float]]:
    """The trials that have a speed-up, with it, the fastest first."""
    judged = [(trial, trial.comparison()) for trial in trials.values()]
    known = [(trial, c.speedup) for trial, c in judged if c is not None]
    return sorted(known, key=lambda pair: -pair[1])


def hopeful_beside(
    winner: Candidate, trials: Mapping[str, Trial], pool: Sequence[Candidate]
) -> list[Candidate]:
    """Stacks on the winner of a screen with arms of the pool that did not lose much alone.

    The bottleneck has moved: what lost slightly beside the winner may win on top of it.
    """
    gains = _speedups(trials)
    lost = {name for name, trial in trials.items() if trial.failure is not None}
    return stacks_on(
        winner,
        [arm for arm in pool if arm.name not in lost and gains.get(arm.name, 1.0) > _HOPEFUL],
    )


def all_that_won(trials: Mapping[str, Trial]) -> list[Candidate]:
    """Everything at once that was faster alone and goes together; [] where that is one arm.

    Most gains multiply: one trial of the whole costs less than one of each pair.
    """
    ranked = [trial.candidate for trial, speedup in fastest_first(trials) if speedup > WON]
    whole = Candidate()
    for candidate in ranked:
        whole = stack(whole, candidate) or whole
    return [whole] if len(whole.switches) > 1 else []


def promise(candidate: Candidate, trials: Mapping[str, Trial]) -> float:
    """The product of what the techniques of a stack gave alone; 1 for what was not tried."""
    gains = _speedups(trials)
    alone = [Candidate(switches=(switch,)).name for switch in candidate.switches]
    return math.prod(gains.get(name, 1.0) for name in alone)


def worth_it_beside(
    winner: Candidate,
    speedup: float,
    facts: Facts,
    diagnosis: Diagnosis,
    techniques_left: Collection[str],
) -> list[Candidate]:
    """Stacks with what was too small to try at first and is worth it now that time is short.

    What a family could save stays the same in seconds, and weighs `speedup` times as much in what
    is left. techniques_left: names that were refused for their ceiling alone.
    """
    found = []
    for name, technique in techniques(facts).items():
        ceiling = ceiling_of_technique(name, diagnosis)
        if name not in techniques_left or (1 - 1 / ceiling) * speedup <= TOO_SMALL:
            continue
        for proposal in technique.settings_to_try(facts, diagnosis):
            if proposal.switch is not None and proposal.worth_a_trial:
                found.append(Candidate(switches=(proposal.switch,)))
    return stacks_on(winner, found)


def best_of_stacks(winner: Candidate, again: Mapping[str, Trial]) -> list[Candidate]:
    """Arms to confirm, the most promising first: the greedy stack, then what is close to it."""
    ranked = fastest_first(again)
    alone = next((s for trial, s in ranked if trial.candidate == winner), 1.0)
    better = [t.candidate for t, s in ranked if t.candidate != winner and s > alone * _BETTER]
    if not better:
        return [winner]
    greedy = better[0]
    for candidate in better[1:]:
        extra = tuple(s for s in candidate.switches if s not in greedy.switches)
        greedy = stack(greedy, Candidate(switches=extra)) or greedy
    return by_name([greedy, better[0], winner])


def provable_first(finalists: Sequence[Candidate], trials: Mapping[str, Trial]) -> list[Candidate]:
    """The finalists of a script on which no arm that rounds can be proven.

    Before them, where it gained, what changes no number: of these, or alone. A plan in the hand.
    """
    screened = [trial.candidate for trial, _ in fastest_first(trials)]
    parts = [
        Candidate(switches=tuple(s for s in arm.switches if s.numerics in NEED_NO_TEST))
        for arm in (*finalists, *screened)
    ]
    gained = [part for part in parts if part.switches and promise(part, trials) > WON]
    gained.sort(key=lambda part: -promise(part, trials))
    return by_name([*gained[:1], *finalists])


def leave_one_out(candidate: Candidate) -> list[Candidate]:
    """The stack without each of its techniques, for what each of them gave."""
    if len(candidate.switches) < 2:
        return []
    return [
        Candidate(switches=tuple(s for s in candidate.switches if s is not without))
        for without in candidate.switches
    ]


def _speedups(trials: Mapping[str, Trial]) -> dict[str, float]:
    return {trial.candidate.name: speedup for trial, speedup in fastest_first(trials)}


def by_name(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Each candidate once, in their order."""
    return list({candidate.name: candidate for candidate in candidates}.values())


def _conflict(one: Switch, other: Switch) -> bool:
    if one.technique == other.technique:
        return True
    first, second = find_idea(one.technique), find_idea(other.technique)
    return bool(
        first and second and (second.name in first.conflicts or first.name in second.conflicts)
    )
