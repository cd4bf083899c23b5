"""What is left to win by asking a Hugging Face dataset for a whole batch in its format.

Rows of 128 token ids, a mask and a label, made here; batches of 32, shuffled. As a script had it
before PyTorch asked for several rows at once, as a DataLoader of today asks, and one formatted
batch, which has the same bytes; then the second pass of the store. Needs the package `datasets`.

python benchmarks/formatted_batches.py
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import default_collate

from halftime.frameworks.pytorch.fields import Fields
from side_by_side import heading, paired_ratio, side_by_side

ROWS, WIDTH, BATCH, ROUNDS = 4000, 128, 32, 7
Order = list[list[int]]


class Fetcher:
    auto_collation, collate_fn = True, staticmethod(default_collate)


def main() -> None:
    heading("batches of a Hugging Face dataset")
    numbers = np.random.default_rng(0)
    rows = Dataset.from_dict(
        {
            "input_ids": numbers.integers(0, 30_000, (ROWS, WIDTH)).tolist(),
            "attention_mask": np.ones((ROWS, WIDTH), int).tolist(),
            "labels": numbers.integers(0, 2, ROWS).tolist(),
        }
    ).with_format("torch")
    shuffled = numbers.permutation(ROWS).tolist()
    order = [shuffled[start : start + BATCH] for start in range(0, ROWS, BATCH)]
    store = Fields(torch, rows, lambda size: True, None, print, 0)

    def plain(fetcher: Any, index: list[int]) -> Any:
        return default_collate(rows.__getitems__(index))

    ways = {
        "row by row": lambda index: default_collate([rows[row] for row in index]),
        "a DataLoader": lambda index: plain(None, index),
        "one formatted batch": lambda index: rows[index],
        "the store": lambda index: store.batch(index, Fetcher, plain),
    }
    for index in order:
        expected = ways["a DataLoader"](index)
        for name, way in ways.items():
            batch = way(index)
            assert all(torch.equal(batch[key], expected[key]) for key in expected), name
    seen = side_by_side({n: partial(a_row, way, order) for n, way in ways.items()}, ROUNDS)
    for name in ways:
        ratio, low, high = paired_ratio(seen["a DataLoader"], seen[name])
        print(
            f"{name}: {seen[name].median * 1e6:.1f} µs a row, {ratio:.2f} times as fast as a "
            f"DataLoader (quartiles {low:.2f} to {high:.2f})"
        )


def a_row(way: Any, order: Order) -> float:
    start = time.perf_counter()
    for index in order:
        way(index)
    return (time.perf_counter() - start) / ROWS


if __name__ == "__main__":
    main()
