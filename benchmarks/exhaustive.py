"""How near the plan of a search comes to the best stack there is, and for how many of its runs.

Tunes a command, then sets every stack of the techniques that the search tried side by side
(halftime compare, at least four random blocks), and looks up the plan among them. Both studies are
kept in the folder that is named; one that is complete is not measured again.

python benchmarks/exhaustive.py [COMMAND [FOLDER [BUDGET OF THE SEARCH [TECHNIQUES]]]]

COMMAND is a bundled workload, or a script, with its arguments: "mnist-keras --epochs 2".
TECHNIQUES (store,fused,…) are the only ones that are tried, by the search and side by side.
"""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from halftime.ideas import find_idea
from side_by_side import heading

BLOCKS, SECONDS_TO_START = 4, 120


def main() -> None:
    asked, folder, budget, only = (*sys.argv[1:], *[""] * 4)[:4]
    command = shlex.split(asked or "mlp-pytorch")
    name = "-".join(word.strip("-") for word in command)
    heading(f"exhaustive, {shlex.join(command)}")
    print(exhaust(name, command, Path(folder or "benchmarks-study"), budget or "10m", only))


def exhaust(name: str, command: list[str], folder: Path, budget: str, only: str) -> str:
    """Search, set every stack side by side, and say how near the one comes to the other."""
    searched, every = (folder.absolute() / f"{kind}-{name}" for kind in ("search", "every"))
    techniques = ["--only", only] if only else []
    search = study(searched, ["tune", "--budget", budget, *techniques, *command])
    best = search["winner"] or search["unproven"]
    tried = {name for arm in search["verdicts"] for name in stack_of(arm)}
    names = sorted({idea.name for n in only.split(",") if (idea := find_idea(n))} or tried)
    stacks = ["+".join(stack) for stack in possible(names)]
    seconds = search["baseline_seconds"]
    if search["status"] != "complete" or seconds is None:
        sys.exit(f"{searched}: stopped, or of a length that is not known; delete it to try again")
    # Of each stack a preflight, and the blocks; the baseline stands in them twice.
    runs = len(stacks) + BLOCKS * (len(stacks) + 2)
    minutes = (SECONDS_TO_START + 1.2 * seconds * runs) / 60
    whole = study(
        every, ["compare", "--budget", f"{minutes:.0f}m", "--with", ",".join(stacks), *command]
    )
    known = {
        stack_of(arm): arm["comparison"]["speedup"]
        for arm in whole["verdicts"]
        if arm["comparison"] and stack_of(arm)
    }
    if not known:
        sys.exit(f"nothing was compared: {'; '.join(whole['notes'])}; delete {every} to try again")
    top = max(known, key=lambda stack: known[stack])
    plan = stack_of(best) if best else ()
    if best and plan not in known:
        sys.exit(f"the plan, {' + '.join(plan)}, failed in {every}; delete it to try again")
    speed = known.get(plan, 1.0)
    few, many = runs_of(searched), runs_of(every)
    return (
        f"named {', '.join(finding['bottleneck'] for finding in search['diagnosis']['findings'])}; "
        f"{len(known)} stacks of {', '.join(names)}; the best: {' + '.join(top)}, "
        f"{known[top]:.2f} times\n"
        f"the plan, {' + '.join(plan) or 'none'}: {speed:.2f} times there, "
        f"{speed / max(known[top], 1.0):.1%} of the best (target 95 %)\n"
        f"{few} runs against {many}: {few / many:.2f} (target 0.20)"
    )


def possible(names: list[str]) -> list[tuple[str, ...]]:
    """Every set of techniques that no conflict forbids."""
    return [
        stack
        for size in range(1, len(names) + 1)
        for stack in itertools.combinations(names, size)
        if not any(set(idea.conflicts) & set(stack) for n in stack if (idea := find_idea(n)))
    ]


def study(folder: Path, words: list[str]) -> dict[str, Any]:
    """The report of a study that is complete, measured where it is not there yet."""
    report = folder / "report.json"
    if not report.exists():
        command = [sys.executable, "-m", "halftime", words[0], "--study", str(folder), *words[1:]]
        subprocess.run(command, check=False)
    found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return found


def stack_of(arm: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(switch["technique"] for switch in arm["candidate"]["switches"]))


def runs_of(folder: Path) -> int:
    return sum(1 for _ in (folder / "runs").iterdir())


if __name__ == "__main__":
    main()
