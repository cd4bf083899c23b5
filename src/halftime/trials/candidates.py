"""Facts + diagnosis + techniques → candidates, most promising first, conflicts known."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from ..errors import UserError
from ..frameworks import technique_modules
from ..frameworks.contract import Technique
from ..ideas import Idea, find_idea
from ..records import Candidate, Diagnosis, Facts, Switch
from .speedup import TOO_SMALL

NamedArms = tuple[list[Candidate], list["Refusal"]]
NOT_AT_FIRST = "not worth a trial before the bottleneck has moved"
_LIKELY_IN_DATA, _LIKELY_ELSEWHERE = 4.0, 1.5
# Nothing bounds these but a trial; data once a replay has shown what it costs, as does host work.
_UNBOUNDED = ("brakes", "executions", "epochs", "transfer", "data")
_SAVED_OF_UNBOUNDED = 0.3


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A technique that is not tried, and why."""

    technique: str
    reason: str


def techniques(facts: Facts) -> dict[str, Technique]:
    """The techniques for a script by name, in the order of the listings."""
    return {
        name: cast(Technique, importlib.import_module(module))
        for name, module in technique_modules(
            facts.framework, facts.kind_of_feed, facts.backend
        ).items()
    }


def propose(
    facts: Facts, diagnosis: Diagnosis, only: Collection[str], without: Collection[str]
) -> tuple[list[Candidate], list[Refusal]]:
    """Single techniques worth a trial, the most promising first, and what is refused.

    only, without: names of ideas, long or short.
    """
    wanted = {_long(name) for name in only}
    unwanted = {_long(name) for name in without}
    candidates: list[Candidate] = []
    refusals: list[Refusal] = []
    for name, technique in techniques(facts).items():
        if (wanted and name not in wanted) or name in unwanted:
            refusals.append(Refusal(technique=name, reason="left out by --only or --without"))
            continue
        ceiling = ceiling_of_technique(name, diagnosis)
        for proposal in technique.settings_to_try(facts, diagnosis):
            if proposal.switch is None or not proposal.worth_a_trial:
                refusals.append(Refusal(technique=name, reason=proposal.reason))
                break
            elif ceiling <= 1 + TOO_SMALL:
                reason = (
                    f"at most {ceiling:.2f}× could be won ({_idea(name).family}): {NOT_AT_FIRST}"
                )
                refusals.append(Refusal(technique=name, reason=reason))
                break
            else:
                candidates.append(Candidate(switches=(proposal.switch,)))
    candidates.sort(key=lambda candidate: -expected_speedup(candidate, diagnosis))
    return candidates, refusals


def named(arms: Sequence[Sequence[str]], facts: Facts, diagnosis: Diagnosis) -> NamedArms:
    """The arms that the user names, each a stack of ideas by their long or short names.

    What a search would not try is tried here, unless it cannot act at all. Raises UserError for a
    name that no technique of this framework has.
    """
    known = techniques(facts)
    found: list[Candidate] = []
    refusals: list[Refusal] = []
    for arm in arms:
        switches = []
        for name in map(_long, arm):
            if name not in known:
                raise UserError(
                    f"--with {'+'.join(arm)}: {name} is no technique for {facts.framework}; there "
                    f"are {', '.join(known)}."
                )
            proposals = known[name].settings_to_try(facts, diagnosis)
            switch = next((p.switch for p in proposals if p.switch is not None), None)
            if switch is None:
                refusals.append(Refusal(technique="+".join(arm), reason=proposals[0].reason))
                break
            switches.append(switch)
        else:
            found.append(Candidate(switches=tuple(switches)))
    return found, refusals


def that_save_memory(facts: Facts, diagnosis: Diagnosis) -> list[Candidate]:
    """What may let a script run that does not fit in memory, in the order of trying.

    The batch in ever more pieces, mixed precision, checkpointing; then all of them.
    """
    known = techniques(facts)

    def switches(name: str) -> list[Switch]:
        proposals = known[name].settings_to_try(facts, diagnosis) if name in known else ()
        return [p.switch for p in proposals if p.switch is not None]

    pieces = switches("micro_batches")
    others = switches("mixed_precision")[:1] + switches("activation_checkpointing")[:1]
    found = [Candidate(switches=(switch,)) for switch in pieces + others]
    whole = Candidate(switches=(*pieces[-1:], *others))
    return [*found, whole] if len(whole.switches) > 1 else found


def ceiling_of(candidate: Candidate, diagnosis: Diagnosis) -> float:
    """The most that a candidate could win by its families, as a factor; some are unbounded."""
    names = [switch.technique for switch in candidate.switches]
    return _ceiling(set().union(*map(_families, names)), diagnosis)


def ceiling_of_technique(name: str, diagnosis: Diagnosis) -> float:
    """The most that a technique alone could win, as a factor."""
    return _ceiling(_families(name), diagnosis)


def expected_speedup(candidate: Candidate, diagnosis: Diagnosis) -> float:
    """What is tried first where the budget has no room for all: ceilings, and the usual share.

    A ceiling alone says little: free arithmetic would win more than free data in most scripts, but
    no technique makes arithmetic free.
    """
    saved = sum(
        _idea(switch.technique).usual_share * _saving(family, diagnosis)
        for switch in candidate.switches
        for family in _families(switch.technique)
    )
    return 1 / max(1 - saved, 0.01)


def likely_speedup(candidate: Candidate, diagnosis: Diagnosis) -> float:
    """What windows are sized by before an arm was timed, so that a fast one keeps enough.

    A store often reaches the ceiling of data; arithmetic's says little of kernels.
    """
    ideas = [_idea(switch.technique) for switch in candidate.switches]
    feeds = any(idea.family == "data" or idea.keeps_samples for idea in ideas)
    most = _LIKELY_IN_DATA if feeds else _LIKELY_ELSEWHERE
    return min(ceiling_of(candidate, diagnosis), most)


def _ceiling(families: Collection[str], diagnosis: Diagnosis) -> float:
    known = {ceiling.family for ceiling in diagnosis.ceilings}
    if set(families) & {*_UNBOUNDED, "host"} - known:
        return float("inf")
    # Threads act on host work too, and evaluation is not part of a step: families add up.
    return 1 / max(1 - sum(_saving(family, diagnosis) for family in families), 0.01)


def _saving(family: str, diagnosis: Diagnosis) -> float:
    """The share of the time that a family could save at most; a guess where nothing bounds it."""
    factors = {ceiling.family: ceiling.factor for ceiling in diagnosis.ceilings}
    if family in _UNBOUNDED and family not in factors:
        return _SAVED_OF_UNBOUNDED
    return 1 - 1 / factors.get(family, 1.0)


def _families(name: str) -> set[str]:
    """Whose ceilings add up to that of a technique."""
    idea = _idea(name)
    return {idea.family, idea.also_in} - {""}


def _idea(name: str) -> Idea:
    idea = find_idea(name)
    assert idea is not None, f"{name} is a technique of no idea"
    return idea


def _long(name: str) -> str:
    idea = find_idea(name)
    return idea.name if idea else name
