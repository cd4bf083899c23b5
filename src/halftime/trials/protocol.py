"""The article's own protocol: all arms once, in order, in one process, as often as asked."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..measure.command import WORKLOADS
from ..records import ProtocolRun
from .bench import Bench
from .execute import BASELINE, Task, check_baseline

ORDERS = ("forward", "reverse", "forward", "reverse")
_LINE = re.compile(r"^arm (?P<arm>[^:]+): (?P<seconds>[\d.]+) s", re.MULTILINE)


def repeat_protocol(bench: Bench) -> list[ProtocolRun]:
    """Run the article's script in both orders, and read what it says of each arm.

    As often as the budget has room for, at least once forward. Raises UserError where it fails.
    """
    script = str(WORKLOADS / "article.py")
    python, _, *arguments = bench.executor.command.argv
    found = []
    seconds_of_one = 0.0
    for number, order in enumerate(ORDERS):
        if number and bench.left_seconds < seconds_of_one:
            bench.narrator.note(f"the budget has room for {number} of {len(ORDERS)} repeats")
            break
        command = replace(
            bench.command,
            argv=(python, script, "--order", order, *arguments),
            script="article.py",
            script_path=script,
        )
        executor = replace(bench.executor, command=command)
        run = executor.run(
            Task(stage=f"protocol, {order}", candidate=BASELINE, seed=0, block=number)
        )
        check_baseline(run, "article.py")
        seconds_of_one = run.wall_seconds
        said = Path(run.folder, "stdout.txt").read_text("utf-8", "replace")
        seconds = tuple((m["arm"], float(m["seconds"])) for m in _LINE.finditer(said))
        found.append(ProtocolRun(order=order, seconds=seconds))
    return found
