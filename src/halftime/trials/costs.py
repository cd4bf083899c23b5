"""What the next stages of a search are expected to take, before they are begun. Seconds."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Candidate
from .blocks import PILOT_RUNS, has_store
from .candidates import likely_speedup
from .observing import Seen
from .preflight import witness_seconds
from .speedup import FEWEST_BLOCKS
from .timing import seconds_of, shortest_length


def of_preflights(arms: Sequence[Candidate], seen: Seen, budget_seconds: float) -> list[float]:
    """What the preflight of the baseline takes, and that of each arm."""
    step = seen.rate.mean_step_seconds if seen.rate else seen.run.wall_seconds / seen.run.steps
    start = seen.run.training_start or 0.0
    looks = witness_seconds(arms, seen.facts, step, budget_seconds)
    return [start + seconds for seconds in looks]


def of_confirming(arm: Candidate, seen: Seen, run_seconds: float) -> float:
    """What four confirm blocks of an arm take, with windows that suffice for a claim.

    run_seconds: of a baseline run. A full run of an arm is not assumed to be shorter.
    """
    if seen.rate is None or seen.length.full:
        return FEWEST_BLOCKS * 2 * run_seconds
    speedup = likely_speedup(arm, seen.diagnosis)
    enough = shortest_length(seen.length, seen.rate, speedup)
    base = seconds_of(enough, seen.rate, run_seconds)
    fill = base if has_store(arm) else 0.0
    return fill + FEWEST_BLOCKS * (base + base / speedup)


def of_an_answer(arm: Candidate, seen: Seen) -> float:
    """What a pilot and four confirm blocks of an arm take."""
    cost = seen.trial_seconds
    return PILOT_RUNS * cost + of_confirming(arm, seen, cost)
