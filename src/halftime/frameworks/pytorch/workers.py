"""Loader workers.

Changes: the number of worker processes of the loader that feeds the training, kept alive between
epochs. Helps: where decoding waits on one core; fewer, where batches are cheap. May change:
nothing where samples are deterministic, else which random numbers a sample gets (class `draws`).
Needs: free cores; a dataset that worker processes can share.
Source: Lightning#17410; pytorch#30599 (an IterableDataset that does not shard repeats its data).
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any, Dict, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import WORKERS as IDEA
from .loading import change_arguments, set_workers

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, LoaderFacts, Numerics, Proposal

_MOST_TRIALS = 3


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The counts that could keep up with the model, and fewer than now."""
    from ...records import Proposal, Switch

    loader = facts.fed_by_torch()
    if loader is None:
        return [Proposal(switch=None, reason="no DataLoader feeds the training")]
    if facts.backend == "tensorflow":
        reason = "Keras forks workers from a thread of TensorFlow's, where some of them crash"
        return [Proposal(switch=None, reason=reason)]
    if facts.framework == "keras" and (loader.shuffles or not loader.torch_sampler):
        reason = "Keras begins passes that it leaves: workers draw ahead in them, and shuffle anew"
        return [Proposal(switch=None, reason=reason)]
    if loader.iterable:
        reason = "an IterableDataset may not shard itself: every sample would come once a worker"
        return [Proposal(switch=None, reason=reason)]
    if loader.handle and not loader.workers:
        reason = f"the dataset holds {loader.handle}, which worker processes would share"
        return [Proposal(switch=None, reason=reason)]
    numerics: Numerics = "exact" if loader.deterministic else "draws"
    proposals = [
        Proposal(
            switch=Switch(
                technique=IDEA.name,
                settings={"count": count, "made_as": loader.made_as},
                numerics=numerics,
            ),
            reason=f"{loader.workers} now, {facts.cores} cores",
        )
        for count in _counts(loader, facts.cores, diagnosis)
    ]
    return proposals or [Proposal(switch=None, reason="one core: nothing to share")]


def _counts(loader: LoaderFacts, cores: int, diagnosis: Diagnosis) -> Sequence[int]:
    counts = set()
    if loader.item_seconds is not None and diagnosis.step_seconds:
        a_batch = (loader.item_seconds + (loader.collate_seconds or 0)) * (loader.batch_size or 1)
        computing = diagnosis.step_seconds * (1 - (diagnosis.wait_share or 0))
        counts.add(min(cores, max(1, math.ceil(a_batch / max(computing, 1e-6)))))
    counts.add(cores)
    if cores > 2:
        counts.add(cores // 2)
    if loader.workers:
        counts.update({0, loader.workers // 2})
    counts.discard(loader.workers)
    return sorted(counts)[:_MOST_TRIALS]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Build the loader with that many workers, and see that they are there."""
    module = importlib.import_module("torch.utils.data.dataloader")
    count, wanted = settings["count"], patches.training_loader

    def change(ordinal: int, arguments: Dict[str, Any]) -> None:
        if ordinal == settings.get("made_as", wanted):
            set_workers(arguments, count)

    def seen(original: Any) -> Any:
        def __init__(self: Any, loader: Any) -> None:
            original(self, loader)
            if self.__dict__.get("_halftime_ordinal") == wanted:
                alive = sum(1 for worker in getattr(self, "_workers", ()) if worker.is_alive())
                if alive == count:
                    patches.took_effect(IDEA.name, workers_alive=alive)

        return __init__

    change_arguments(module, patches, change)
    patches.replace(module._SingleProcessDataLoaderIter, "__init__", seen)
    patches.replace(module._MultiProcessingDataLoaderIter, "__init__", seen)
