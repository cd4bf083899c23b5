"""What a budget can prove, by the rules that tune follows: the table of docs/budgets.md.

python benchmarks/budgets.py
"""

from __future__ import annotations

from halftime.records import Candidate, Switch
from halftime.trials.schedule import SCREEN_BLOCKS, arms_within_budget
from halftime.trials.speedup import FEWEST_BLOCKS, MOST_BLOCKS, resolvable_effect

BUDGETS = (("3 min", 180), ("10 min", 600), ("1 h", 3600), ("8 h", 28800))
FULL_RUNS = (("5 s", 5), ("30 s", 30), ("3 min", 180), ("1 h", 3600))
SHARE = 20
PILOT, OBSERVE = 3, 2
SCREEN_RUN, CONFIRM_RUN = 15.0, 25.0
"""Seconds of a bounded run of a script that starts in 8 s and whose winner is 1.5 times faster."""
SPREAD = 0.03


def main() -> None:
    arms = [
        Candidate(switches=(Switch(technique=f"t{n}", settings={}, numerics="exact"),))
        for n in range(8)
    ]
    print("| a full run takes | budget | trials are | arms screened | confirm blocks | resolves |")
    print("|---|---|---|---|---|---|")
    for name, seconds in FULL_RUNS:
        for budget_name, budget in BUDGETS:
            full = seconds <= budget / SHARE
            cost = float(seconds if full else min(seconds, SCREEN_RUN))
            confirm = float(seconds if full else min(seconds, CONFIRM_RUN))
            left = budget - cost * (PILOT + OBSERVE)
            kept, _ = arms_within_budget(
                arms, [1.0] * len(arms), cost, FEWEST_BLOCKS * 2 * confirm, left
            )
            left -= SCREEN_BLOCKS * (len(kept) + 1) * cost
            blocks = min(int(left / (2 * confirm)), MOST_BLOCKS) if kept else 0
            blocks = blocks if blocks >= FEWEST_BLOCKS else 0
            found = f"{resolvable_effect(SPREAD, blocks):.1%}" if blocks else "nothing: too small"
            kind = "full runs" if full else "bounded windows"
            row = [name, budget_name, kind, f"{len(kept)} of 8", str(blocks or "–"), found]
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
