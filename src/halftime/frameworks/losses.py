"""Which of the numbers that a step gives is its loss."""

from __future__ import annotations

from typing import Iterable, Optional, Tuple, TypeVar

Number = TypeVar("Number")

_OTHERS = (
    "acc",
    "lr",
    "rate",
    "norm",
    "step",
    "epoch",
    "count",
    "precision",
    "recall",
    "f1",
    "auc",
)


def likely_loss(named: Iterable[Tuple[str, Number]]) -> Optional[Number]:
    """The loss among numbers by their paths, such as ['metrics']['loss'] or [1]; None without one.

    A number that is called so, else one whose name tells of a loss, else the first whose name tells
    of nothing else: structures come in the order of their names, accuracy before loss.
    """
    best: Optional[Number] = None
    best_rank = 3
    for path, number in named:
        word = path.lower()
        last = word.replace("'", "").replace("]", "").replace(".", "[").replace("/", "[")
        last = last.rpartition("[")[2]
        rank = 0 if last == "loss" else 1 if "loss" in last else 2
        if rank == 2 and any(other in last for other in _OTHERS):
            continue
        if rank < best_rank:
            best, best_rank = number, rank
    return best
