"""Prefetch on a thread.

Changes: the next batches are made on a background thread while the model computes; the sampler is
still advanced on the script's own thread. Helps: where loading leaves Python (decoding, reading).
May change: nothing; refused where samples or sampler draw global random numbers. Needs: a loader
without workers.
"""

from __future__ import annotations

import importlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import PREFETCH as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_BATCHES_AHEAD = 2


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """A thread for the loader that feeds the training, or why not."""
    from ...records import Proposal, Switch

    loader = facts.fed_by_torch()
    refusal = ""
    if loader is None:
        refusal = "no DataLoader feeds the training"
    elif loader.workers:
        refusal = f"already on: {loader.workers} workers prefetch"
    elif loader.iterable:
        refusal = "an IterableDataset keeps its state on the script's thread"
    elif not loader.deterministic:
        refusal = f"not on a thread: {loader.randomness or 'samples may draw random numbers'}"
    elif not loader.torch_sampler:
        refusal = "the sampler is not one of torch's own"
    if refusal or loader is None:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="exact")
    return [Proposal(switch=switch, reason="loading and computing take turns")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Fetch ahead on one thread, with the caller's modes carried over."""
    module = importlib.import_module("torch.utils.data.dataloader")
    pin_memory = importlib.import_module("torch.utils.data._utils.pin_memory").pin_memory
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    served = [0, 0]

    def ahead(original: Any) -> Any:
        def _next_data(self: Any) -> Any:
            if self.__dict__.get("_halftime_ordinal") != patches.training_loader:
                return original(self)
            waiting = self.__dict__.setdefault("_halftime_ahead", deque())
            while len(waiting) <= _BATCHES_AHEAD and not self.__dict__.get("_halftime_ended"):
                try:
                    index = self._next_index()
                except StopIteration:
                    self._halftime_ended = True
                    break
                waiting.append(
                    executor.submit(_with_modes(framework, self._dataset_fetcher.fetch), index)
                )
            if not waiting:
                raise StopIteration
            future = waiting.popleft()
            served[0] += 1
            served[1] += future.done()
            data = future.result()
            return pin_memory(data, self._pin_memory_device) if self._pin_memory else data

        return _next_data

    def report() -> None:
        if served[0]:
            patches.took_effect(IDEA.name, batches=served[0], ready_when_asked=served[1])

    patches.replace(module._SingleProcessDataLoaderIter, "_next_data", ahead)
    patches.at_exit(report)


def _with_modes(torch: Any, fetch: Any) -> Any:
    """`fetch` under the caller's grad mode, default device and CUDA device."""
    gradients = torch.is_grad_enabled()
    device = torch.get_default_device() if hasattr(torch, "get_default_device") else None
    cuda = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def fetch_with_modes(index: Any) -> Any:
        if cuda is not None:
            torch.cuda.set_device(cuda)
        with torch.set_grad_enabled(gradients):
            if device is None or device.type == "cpu":
                return fetch(index)
            with device:
                return fetch(index)

    return fetch_with_modes
