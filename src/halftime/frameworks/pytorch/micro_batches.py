"""The script's batch in pieces, where it does not fit in memory.

Changes: the training loader gives n-ths of a batch; losses are weighted by their samples, and the
optimizer steps once the whole batch has been seen. Helps: where memory bounds the batch. May
change: rounding; batch norm sees the pieces. Costs: smaller kernels; it is never a speed-up.
Refused: as gradient accumulation. Source: arXiv:1811.06965 (micro-batches); PyTorch AMP examples.
"""

from __future__ import annotations

import importlib
from collections import deque
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...agent.places import place_of_caller
from ...ideas import MICRO_BATCHES as IDEA
from .gradient_accumulation import Group, hook_into

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_COUNTS = (2, 4, 8, 16, 32)


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The smallest numbers of pieces first; only where memory bounds the script."""
    from ...records import Proposal, Switch

    loader = facts.fed_by() or next(iter(facts.loaders), None)
    if loader is None or loader.batch_size is None:
        return [Proposal(switch=None, reason="no DataLoader with a batch size was seen")]
    counts = [count for count in _COUNTS if loader.batch_size % count == 0]
    if not counts:
        reason = f"a batch of {loader.batch_size} has no equal pieces"
        return [Proposal(switch=None, reason=reason)]
    reason = "no speed-up: for a batch that does not fit in memory"
    return [
        Proposal(
            switch=Switch(
                technique=IDEA.name,
                settings={"count": count, "place": loader.place, "batch": loader.batch_size},
                numerics="training",  # nobody sees from outside whether a loss is a mean
            ),
            reason=reason,
            worth_a_trial=False,
        )
        for count in counts
    ]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Make the loader's batches smaller, and let every n-th step through."""
    torch = framework
    count, whole = settings["count"], settings["batch"]
    group = Group(IDEA.name, count, patches, pieces=True)
    module = importlib.import_module("torch.utils.data.dataloader")

    def smaller(original: Any) -> Any:
        def __init__(
            self: Any, dataset: Any, batch_size: Any = 1, *args: Any, **named: Any
        ) -> None:
            # A script may make its loader anew in each epoch, at the same place.
            if batch_size == whole and place_of_caller() == settings["place"]:
                batch_size = whole // count
            original(self, dataset, batch_size, *args, **named)

        return __init__

    def counted(original: Any) -> Any:
        def _next_index(self: Any) -> Any:
            index = original(self)
            self.__dict__.setdefault("_halftime_pieces", deque()).append(_size_of(index))
            return index

        return _next_index

    def weighed(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            batch = original(self)
            size = self._halftime_pieces.popleft()
            if torch.is_grad_enabled():
                group.weight = size / whole
            return batch

        return __next__

    patches.replace(module.DataLoader, "__init__", smaller)
    patches.replace(module._BaseDataLoaderIter, "_next_index", counted)
    patches.replace(module._BaseDataLoaderIter, "__next__", weighed)
    hook_into(torch, group, patches)


def _size_of(index: Any) -> int:
    """How many samples a piece holds, whatever its batch looks like."""
    return len(index) if hasattr(index, "__len__") else 1
