"""Does accumulation steady the gradients? By the gradients that a study's witness wrote.

python benchmarks/gradient_noise.py STUDY

Reads the gradients of the baseline's first batches, all taken at the same weights, and compares the
noise of one batch with that of means over groups of four: what an update under accumulation uses.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

GROUP = 4


def main() -> None:
    study = Path(sys.argv[1])
    folder = next(study.glob("runs/*preflight-0-baseline"))
    flat = np.fromfile(folder / "gradients.f32", dtype=np.float32)
    batches = sum(
        json.loads(line)["event"] == "gradients"
        for path in folder.glob("events-*.jsonl")
        for line in path.read_text().splitlines()
    )
    gradients = flat.reshape(batches, -1).astype(float)
    whole = gradients[: batches // GROUP * GROUP]
    groups = whole.reshape(-1, GROUP, whole.shape[1]).mean(axis=1)
    signal = float(np.linalg.norm(gradients.mean(axis=0)))
    one, four = noise(whole), noise(groups)
    print(f"{batches} batches of {study.name}, {gradients.shape[1]:,} coordinates")
    print(f"noise of a batch's gradient over its mean: {one / signal:.2f}")
    print(f"of the mean of {GROUP}: {four / signal:.2f}, {one / four:.2f} times less "
          f"(independent batches: {math.sqrt(GROUP):.2f})")  # fmt: skip


def noise(rows: np.ndarray) -> float:
    """Root of the mean squared distance from the mean, with the degree of freedom it takes."""
    squares = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1)
    return math.sqrt(float(squares.sum()) / (len(rows) - 1))


if __name__ == "__main__":
    main()
