"""The dataset in the memory of the GPU: batches are gathered where they are needed.

Changes: what the store does, with the samples on the GPU; the script is handed tensors that are
there already, so that its copy does nothing. Helps: where gathering and copying a batch take a
share of the step. May change: nothing. Needs: a script that copies each tensor of a batch to the
GPU; GPU memory for the dataset. Refused: where the store is.
Source: the data of small image sets held on the GPU, as in arXiv:2404.00498 (airbench).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import DEVICE_DATA as IDEA
from . import store
from .batches import tensors_in
from .device_fields import DeviceFields
from .loading import change_arguments

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_STREAM = "_halftime_stream"
"""On a tensor of a batch: in which stream it was gathered; None: it lies on the host."""


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The store, with its samples on the GPU, or why not."""
    from ...records import Proposal, Switch

    loader, kept = facts.fed_by_torch(), store.settings_to_try(facts, diagnosis)[0]
    refusal = ""
    if facts.device != "cuda":
        refusal = "there is no GPU to keep samples on"
    elif kept.switch is None or loader is None:
        refusal = kept.reason
    elif loader.split or not loader.default_collate:
        refusal = "batches are made by the script's own steps, on the host"
    elif not loader.goes_to_gpu:
        refusal = "the script does not copy every tensor of a batch to the GPU"
    if refusal or kept.switch is None:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings=kept.switch.settings, numerics="exact")
    return [Proposal(switch=switch, reason=f"{kept.reason}, and on the GPU")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Keep samples as the store does; hand out batches of the training loader from the GPU."""
    module = importlib.import_module("torch.utils.data.dataloader")

    def unpinned(ordinal: int, arguments: Dict[str, Any]) -> None:
        if ordinal == patches.training_loader:
            arguments["pin_memory"] = False  # what is on the GPU cannot be pinned

    current_stream = framework.cuda.current_stream

    def marked(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            batch = original(self)
            if self.__dict__.get("_halftime_ordinal") == patches.training_loader:
                for tensor in tensors_in(batch):
                    there = tensor.is_cuda
                    tensor.__dict__[_STREAM] = current_stream(tensor.device) if there else None
            return batch

        return __next__

    def copied(original: Any) -> Any:
        def copy(self: Any, *args: Any, **named: Any) -> Any:
            if _STREAM not in self.__dict__:
                return original(self, *args, **named)
            gathered_in = self.__dict__[_STREAM]
            if gathered_in is None:
                made = original(self, *args, **named)
                if made.is_cuda:
                    DeviceFields.device = made.device
                return made
            # A prefetcher of the script's own may copy in a stream of its own.
            here = current_stream(self.device)
            if here != gathered_in:
                here.wait_stream(gathered_in)
                self.record_stream(here)
            return original(self, *args, **named)

        return copy

    def on_the_host(original: Any) -> Any:
        def numpy(self: Any, *args: Any, **named: Any) -> Any:
            # The script may look at the batch, or a part of it, that it thinks is on the host.
            return original(self.cpu() if self.is_cuda else self, *args, **named)

        return numpy

    store.install(framework, settings, patches, IDEA.name, DeviceFields)
    change_arguments(module, patches, unpinned)
    patches.replace(module._BaseDataLoaderIter, "__next__", marked)
    for name in ("to", "cuda"):
        patches.replace(framework.Tensor, name, copied)
    patches.replace(framework.Tensor, "numpy", on_the_host)
