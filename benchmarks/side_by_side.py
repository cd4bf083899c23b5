"""Arms timed side by side in random order, in one run; what every benchmark here prints."""

from __future__ import annotations

import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from halftime.measure.command import digest_of_script
from halftime.measure.environment import describe, this_machine


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of each round of one arm."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def side_by_side(arms: dict[str, Callable[[], float]], rounds: int) -> dict[str, Timing]:
    """Time each arm once a round, in random order; an arm gives its own seconds."""
    seen: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            seen[name].append(arms[name]())
    return {name: Timing(seconds=tuple(values)) for name, values in seen.items()}


def paired_ratio(one: Timing, other: Timing) -> tuple[float, float, float]:
    """Median and quartiles of one / other, round by round."""
    ratios = [a / b for a, b in zip(one.seconds, other.seconds, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def heading(title: str) -> None:
    """What the numbers below were measured on."""
    print(f"\n## {title}")
    day, version = time.strftime("%Y-%m-%d"), platform.python_version()
    print(f"{day}, {describe(this_machine())}, Python {version}")


def show(name: str, one: Timing, other: Timing, target: str) -> None:
    """Print a ratio with its quartiles, beside what it should be."""
    middle, low, high = paired_ratio(one, other)
    print(f"{name}: {middle:.2f} times (quartiles {low:.2f} to {high:.2f}); target {target}")


def store_plan(script: Path, *arguments: str) -> str:
    """A plan that switches the store on for a command whose samples were shown to be the same."""
    command = shlex.join([sys.executable, str(script), *arguments])
    return _STORE_PLAN.replace("DIGEST", digest_of_script(str(script))).replace("COMMAND", command)


_STORE_PLAN = """
halftime_plan = 1
command = "COMMAND"
script_digest = "DIGEST"
framework = "torch"
training_loader = 0
study = ""
roots = []
notes = []
[gain]
speedup = 1.0
low = 1.0
high = 1.0
[proof]
status = "exact"
numerics = "exact"
evidence = []
missing = ""
[machine]
[[technique]]
name = "store"
numerics = "exact"
settings = {memory_bytes = 2000000000, shown = true}
"""
