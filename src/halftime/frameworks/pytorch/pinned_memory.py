"""Batches in page-locked memory, from which a GPU copies faster.

Changes: `pin_memory` of the loader that feeds the training; the host no longer waits for copies
out of such memory (`non_blocking`). Helps: where copies to the GPU take a share of the step.
May change: nothing, as long as the script does not write into a batch that it has copied.
Needs: a GPU.
Source: torch.utils.data documentation, "Memory Pinning"; PyTorch tutorial on pin_memory and
non_blocking (kernels of the same stream wait for the copy, and the memory is held until then).
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

_OF_THE_LOADER = "_halftime_pinned"


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The training loader pinned, or why not."""
    from ...records import Proposal, Switch

    loader = facts.fed_by_torch()
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
    """Give the loader pinned memory, look at its first batch, and copy without waiting."""
    module = importlib.import_module("torch.utils.data.dataloader")
    looked: list[bool] = []

    def pinned(ordinal: int, arguments: Dict[str, Any]) -> None:
        if ordinal == patches.training_loader:
            arguments["pin_memory"] = True

    def seen(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            batch = original(self)
            if self.__dict__.get("_halftime_ordinal") != patches.training_loader:
                return batch
            tensors = list(tensors_in(batch))
            if not looked:
                looked.append(bool(tensors) and all(t.is_pinned() for t in tensors))
                if looked[0]:
                    patches.took_effect(IDEA.name, pinned=True)
            for tensor in tensors if looked[0] else ():
                tensor.__dict__[_OF_THE_LOADER] = True
            return batch

        return __next__

    def ahead(original: Any) -> Any:
        def copy(self: Any, *args: Any, **named: Any) -> Any:
            # What the script pins itself it may write into again. A second argument by position
            # may be the flag.
            if _OF_THE_LOADER in self.__dict__ and len(args) < 2:
                named.setdefault("non_blocking", True)
            return original(self, *args, **named)

        return copy

    for name in ("to", "cuda"):
        patches.replace(framework.Tensor, name, ahead)
    change_arguments(module, patches, pinned)
    patches.replace(module._BaseDataLoaderIter, "__next__", seen)
