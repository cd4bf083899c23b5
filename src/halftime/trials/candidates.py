"""Facts + diagnosis + techniques → candidates, most promising first, conflicts known."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from ..frameworks import pytorch
from ..frameworks.contract import Technique
from ..ideas import find_idea
from ..records import Candidate, Diagnosis, Facts, Switch
from .speedup import TOO_SMALL

_FAMILY = {
    "store": "data",
    "workers": "data",
    "prefetch": "data",
    "mixed_precision": "arithmetic",
    "channels_last": "arithmetic",
    "threads": "arithmetic",
    "brakes": "brakes",
}
NOT_AT_FIRST = "not worth a trial before the bottleneck has moved"
_FRAMEWORKS = {"torch": pytorch}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A technique that is not tried, and why."""

    technique: str
    reason: str


def techniques(framework: str) -> dict[str, Technique]:
    """The techniques of a framework by name, in the order of the listings."""
    package = _FRAMEWORKS.get(framework)
    if package is None:
        return {}
    return {
        name: cast(Technique, importlib.import_module(f"{package.__name__}.{name}"))
        for name in package.TECHNIQUES
    }


def propose(
    facts: Facts, diagnosis: Diagnosis, only: Collection[str], without: Collection[str]
) -> tuple[list[Candidate], list[Refusal]]:
    """Single techniques worth a trial, the highest ceiling first, and what is refused.

    only, without: names of ideas, long or short.
    """
    wanted = {_long(name) for name in only}
    unwanted = {_long(name) for name in without}
    candidates: list[Candidate] = []
    refusals: list[Refusal] = []
    for name, technique in techniques(facts.framework).items():
        if (wanted and name not in wanted) or name in unwanted:
            refusals.append(Refusal(technique=name, reason="left out by --only or --without"))
            continue
        ceiling = ceiling_of(Candidate(switches=(_bare(name),)), diagnosis)
        for proposal in technique.settings_to_try(facts, diagnosis):
            if proposal.switch is None:
                refusals.append(Refusal(technique=name, reason=proposal.reason))
            elif ceiling <= 1 + TOO_SMALL:
                reason = f"at most {ceiling:.2f}× could be won ({_FAMILY[name]}): {NOT_AT_FIRST}"
                refusals.append(Refusal(technique=name, reason=reason))
                break
            else:
                candidates.append(Candidate(switches=(proposal.switch,)))
    candidates.sort(key=lambda candidate: -ceiling_of(candidate, diagnosis))
    return candidates, refusals


def worth_it_beside(
    winner: Candidate,
    speedup: float,
    facts: Facts,
    diagnosis: Diagnosis,
    techniques_left: Collection[str],
) -> list[Candidate]:
    """Candidates too small to try at first that are worth it once the bottleneck has moved.

    What a family could save stays the same in seconds, and weighs `speedup` times as much in what
    is left. techniques_left: names that were refused for their ceiling alone.
    """
    found = []
    for name, technique in techniques(facts.framework).items():
        ceiling = ceiling_of(Candidate(switches=(_bare(name),)), diagnosis)
        if name not in techniques_left or (1 - 1 / ceiling) * speedup <= TOO_SMALL:
            continue
        for proposal in technique.settings_to_try(facts, diagnosis):
            if proposal.switch is not None:
                found.append(Candidate(switches=(proposal.switch,)))
    return stacks_on(winner, found)


def ceiling_of(candidate: Candidate, diagnosis: Diagnosis) -> float:
    """The most that a candidate could win by its families, as a factor; brakes are unbounded."""
    factors = {ceiling.family: ceiling.factor for ceiling in diagnosis.ceilings}
    saved = 0.0
    for family in {_FAMILY[switch.technique] for switch in candidate.switches}:
        if family == "brakes":
            return float("inf")
        saved += 1 - 1 / factors.get(family, 1.0)
    # Threads act on host work too, and evaluation is not part of a step: families add up.
    return 1 / max(1 - saved, 0.01)


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


def _conflict(one: Switch, other: Switch) -> bool:
    if one.technique == other.technique:
        return True
    first, second = find_idea(one.technique), find_idea(other.technique)
    return bool(
        first and second and (second.name in first.conflicts or first.name in second.conflicts)
    )


def _long(name: str) -> str:
    idea = find_idea(name)
    return idea.name if idea else name


def _bare(name: str) -> Switch:
    return Switch(technique=name, settings={}, numerics="exact")
