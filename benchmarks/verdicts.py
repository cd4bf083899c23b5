"""Error rates of the verdicts in simulated studies: drift, autocorrelation, a slow first run.

python benchmarks/verdicts.py
"""

from __future__ import annotations

import math

import numpy as np

from halftime.trials.parity import non_inferior, seeds_needed
from halftime.trials.speedup import blocks_to_confirm, compare
from side_by_side import heading

STUDIES = 10_000
TESTS = 2_000


def log_ratios(generator: np.random.Generator, blocks: int, truth: float) -> np.ndarray:
    """One study: runs in random blocks on a machine that drifts, wanders, and starts slowly."""
    runs = 2 * blocks
    drift = np.linspace(0, generator.uniform(-0.3, 0.3), runs)
    noise = generator.normal(0, 0.04, runs)
    for place in range(1, runs):
        noise[place] += 0.5 * noise[place - 1]
    times = 3.0 + drift + noise
    times[0] += 0.2
    ratios = np.empty(blocks)
    for block in range(blocks):
        base, arm = generator.permutation([2 * block, 2 * block + 1])
        ratios[block] = times[base] - (times[arm] - truth)
    return ratios


def main() -> None:
    generator = np.random.default_rng(0)
    heading("verdicts, simulated")
    blocks = blocks_to_confirm(0.06, 0.0)
    same = [compare(log_ratios(generator, blocks, 0.0)) for _ in range(STUDIES)]
    faster = sum(one.word == "faster" for one in same) / STUDIES
    print(f"identical arms called faster: {faster:.2%} of {STUDIES:,}; promised at most 3.5 %")
    truth = math.log(1.4)
    planted = [compare(log_ratios(generator, 6, truth)) for _ in range(STUDIES)]
    covered = sum(one.low <= 1.4 <= one.high for one in planted) / STUDIES
    print(f"interval covers a planted 1.4 times: {covered:.2%}; promised 94 to 96 %")
    for loss, words in ((0.005, "loses exactly the margin"), (0.0, "is harmless")):
        passed, spread = 0, 0.003
        seeds = seeds_needed(spread * math.sqrt(2), 0.005)
        for _ in range(TESTS):
            base = generator.normal(0.9, spread, seeds)
            arm = generator.normal(0.9 - loss, spread, seeds)
            passed += non_inferior(arm, base, 0.005, higher_is_better=True).p_value < 0.05
        print(f"an arm that {words} passes: {passed / TESTS:.2%} of {TESTS:,}")


if __name__ == "__main__":
    main()
