"""A plan in the words of the trainer that the script uses."""

from __future__ import annotations

from ..frameworks.pytorch import trainers
from ..records import Candidate


def in_words_of(trainer: str, candidate: Candidate) -> tuple[str, ...]:
    """What to write into the script in the plan's place, and what only `halftime run` gives.

    trainer: as in Facts; nothing is said for a script with a loop of its own.
    """
    if not trainer:
        return ()
    arguments, unspoken = trainers.spoken(trainer, candidate.switches)
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    one = trainers.trainer(trainer)
    notes = []
    if arguments:
        notes.append(f"in {one.NAME}'s own words: {one.FORM}({said})")
        if one.FILE:
            lines = "; ".join(f"{name}: {value}" for name, value in arguments.items())
            notes.append(f"or as a line of {one.FILE}: {lines}")
    if unspoken:
        notes.append(f"{one.NAME} has no word for: {', '.join(unspoken)}")
    return tuple(notes)
