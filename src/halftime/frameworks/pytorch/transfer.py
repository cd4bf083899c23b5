"""Which GPUs the script uses, and whether what its loaders give goes to one and nowhere else."""

from __future__ import annotations

import importlib
import os
from typing import Any, Dict, Optional, Set

from ...agent.patches import Patches
from .batches import tensors_in

_OTHER_USES = ("__getitem__", "__eq__", "__ne__", "numpy", "pin_memory", "tolist")
_OF_LOADER = "_halftime_of_loader"


def observe(torch: Any, patches: Patches, visible: Optional[str]) -> None:
    """Count, of each loader's batches, the tensors handed out and those copied to a GPU.

    A tensor that is also used where it lies, on the host, speaks against all of its loader.
    visible: what CUDA_VISIBLE_DEVICES was before the script could set it.
    """
    if not torch.cuda.device_count():
        return
    module = importlib.import_module("torch.utils.data.dataloader")
    batches: Dict[int, int] = {}
    handed: Dict[int, int] = {}
    copied: Dict[int, int] = {}
    used_here: Set[int] = set()

    def counted(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            batch = original(self)
            ordinal = self.__dict__.get("_halftime_ordinal", -2)
            batches[ordinal] = batches.get(ordinal, 0) + 1
            for tensor in tensors_in(batch):
                handed[ordinal] = handed.get(ordinal, 0) + 1
                tensor.__dict__[_OF_LOADER] = ordinal
            return batch

        return __next__

    def noted(original: Any) -> Any:
        def copy(self: Any, *args: Any, **named: Any) -> Any:
            made = original(self, *args, **named)
            ordinal = self.__dict__.get(_OF_LOADER)
            if ordinal is not None and made.is_cuda:
                copied[ordinal] = copied.get(ordinal, 0) + 1
            return made

        return copy

    def used(original: Any) -> Any:
        def use(self: Any, *args: Any, **named: Any) -> Any:
            for tensor in (self, *args):
                ordinal = getattr(tensor, "__dict__", {}).get(_OF_LOADER)
                if ordinal is not None and not tensor.is_cuda:
                    used_here.add(ordinal)
            return original(self, *args, **named)

        return use

    def report() -> None:
        for ordinal, tensors in handed.items():
            # The last batch may have been taken without its step.
            a_batch = tensors / batches[ordinal]
            goes = copied.get(ordinal, 0) >= tensors - a_batch > 0 and ordinal not in used_here
            patches.recorder.emit("loader_facts", ordinal=ordinal, goes_to_gpu=goes)
        gpus = range(torch.cuda.device_count())
        used = [number for number in gpus if torch.cuda.max_memory_allocated(number)]
        told = os.environ.get("CUDA_VISIBLE_DEVICES") == visible
        patches.recorder.emit("gpus", used=used, as_told=told)

    patches.replace(module._BaseDataLoaderIter, "__next__", counted)
    for name in ("to", "cuda"):
        patches.replace(torch.Tensor, name, noted)
    for name in _OTHER_USES:
        patches.replace(torch.Tensor, name, used)
    patches.at_exit(report)
