"""Batches in page-locked memory, from which a GPU copies faster.

Changes: `pin_memory` of the loader that feeds the training. Helps: where copies to the GPU take a
share of the step; with the script's own `non_blocking=True` they also overlap. May change: nothing.
Needs: a GPU. Source: torch.utils.data documentation, "Memory Pinning".
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import PINNED_MEMORY as IDEA
from .batches import tensors_in
from .loading import change_arguments

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The training loader pinned, or why not."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    refusal = ""
    if facts.device != "cuda":
        refusal = "there is no GPU to copy to"
    elif loader is None:
        refusal = "no DataLoader feeds the training"
    elif loader.pinned:
        refusal = "already on: the script pins its batches"
    if refusal or loader is None:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="exact")
    return [Proposal(switch=switch, reason="batches come from pageable memory")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Give the loader pinned memory, and look at its first batch."""
    module = importlib.import_module("torch.utils.data.dataloader")
    looked: list[bool] = []

    def pinned(ordinal: int, arguments: Dict[str, Any]) -> None:
        if ordinal == patches.training_loader:
            arguments["pin_memory"] = True

    def seen(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            batch = original(self)
            if not looked and self.__dict__.get("_halftime_ordinal") == patches.training_loader:
                looked.append(True)
                if all(tensor.is_pinned() for tensor in tensors_in(batch)):
                    patches.took_effect(IDEA.name, pinned=True)
            return batch

        return __next__

    change_arguments(module, patches, pinned)
    patches.replace(module._BaseDataLoaderIter, "__next__", seen)
