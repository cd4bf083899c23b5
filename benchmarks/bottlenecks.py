"""Is a bottleneck that was put into a Keras script named, and does the plan answer it best?

Each training of one_bottleneck.py is tuned, and every stack of the techniques that could answer its
bottleneck is set beside the plan (see exhaustive.py). Studies are kept in the folder that is named.

python benchmarks/bottlenecks.py [FOLDER [BUDGET OF A SEARCH [KIND …]]]
"""

from __future__ import annotations

import sys
from pathlib import Path

from exhaustive import exhaust
from side_by_side import heading

SCRIPT = Path(__file__).with_name("one_bottleneck.py")
# What each is expected to be called, and what is tried.
KINDS = {
    "decode": ("data-bound", "store,parallel_map,autotune"),
    "map": ("data-bound", "store,batched_map,steps_per_execution"),
    "python": ("host-bound", "steps_per_execution,fused_optimizer,threads"),
    "optimizer": ("compute-bound", "fused_optimizer,steps_per_execution,threads"),
    "model": ("compute-bound", "mixed_precision,fused_optimizer,compilation"),
    "padding": ("compute-bound", "length_bucketing,mixed_precision,fused_optimizer"),
}


def main() -> None:
    folder, budget, *kinds = (*sys.argv[1:], *["benchmarks-study", "9m"][len(sys.argv) - 1 :])
    heading("bottlenecks")
    for kind in kinds or KINDS:
        bottleneck, techniques = KINDS[kind]
        command = [str(SCRIPT), kind]
        print(f"{kind}, {bottleneck} by construction:")
        print(exhaust(f"bottleneck-{kind}", command, Path(folder), budget, techniques))


if __name__ == "__main__":
    main()
