"""Where the time of a plain run went, in a few lines at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..measure.diagnose import explain, one_line
from ..measure.environment import this_machine
from ..measure.events import by_rank, read_events, read_facts, read_windows


def summary(folder: Path, script: str, planned: bool) -> Iterator[str]:
    """A line for each rank that trained, and for what a plan's techniques refused.

    folder: where the agents of the run wrote. planned: whether a plan was applied.
    """
    events = read_events(folder)
    if not events:
        yield "no Python process greeted: -I, -S or -E make Python ignore us; nothing was observed"
    machine = this_machine()
    for rank, of_one in by_rank(events):
        name = "" if rank is None else f"rank {rank}: "
        for event in of_one:
            if event["event"] == "refused":
                yield f"{name}{event['technique']}: {event['reason']}"
        windows = read_windows(of_one, 0.0)
        facts = read_facts(of_one, machine)
        if windows and planned:
            on = dict.fromkeys(e["technique"] for e in of_one if e["event"] == "effect")
            yield f"{name}took effect: {', '.join(on) or 'nothing'}"
        elif windows:
            yield name + one_line(explain(windows, facts), facts, script)
