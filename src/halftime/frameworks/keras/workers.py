"""Threads that fetch the batches of a PyDataset.

Changes: `workers` of the `keras.utils.PyDataset` that feeds the training. Helps: where reading and
decoding wait on one core and leave Python's interpreter meanwhile. May change: nothing where
batches are deterministic, since they keep their order; else which random numbers a batch gets
(class `draws`). Needs: free cores. Threads, and no processes: those are forked from one in which
the framework runs threads. Source: Keras documentation of PyDataset.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any, Mapping, Sequence, Set

from ...agent.patches import Patches
from ...ideas import WORKERS as IDEA
from .trainer import trainer_of

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Numerics, Proposal

# It draws a batch before the first epoch, and threads do not begin anew after that.
_MIXED_UP = "Keras' {} backend mixes up the batches of several threads"


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """As many threads as there are cores, and half of them."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    refusal = ""
    if loader is None or loader.kind != "a PyDataset":
        refusal = "the training is not fed by a PyDataset"
    elif facts.backend != "tensorflow":
        refusal = _MIXED_UP.format(facts.backend)
    elif loader.workers:
        refusal = f"already on: the script has {loader.workers} workers"
    elif loader.handle:
        refusal = f"the dataset holds {loader.handle}, which threads would share"
    elif facts.cores < 2:
        refusal = "one core: nothing to share"
    if refusal or loader is None:
        return [Proposal(switch=None, reason=refusal)]
    numerics: Numerics = "exact" if loader.deterministic else "draws"
    return [
        Proposal(
            switch=Switch(technique=IDEA.name, settings={"count": count}, numerics=numerics),
            reason=f"1 now, {facts.cores} cores",
        )
        for count in sorted({max(facts.cores // 2, 2), facts.cores})
    ]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Set them where the script leaves them at one, and see that they are started."""
    ours: Set[int] = set()
    base = framework.utils.PyDataset

    def why_not(model: Any, data: Any, steps: Any) -> str:
        if framework.backend.backend() != "tensorflow":
            return _MIXED_UP.format(framework.backend.backend())
        strategy = getattr(model, "distribute_strategy", None)
        if getattr(strategy, "num_replicas_in_sync", 1) > 1:  # draws a batch beforehand
            return f"the script trains under {type(strategy).__name__}"
        if id(data) not in ours and (data.workers > 1 or data.use_multiprocessing):
            return "the script sets the workers itself"
        if steps is not None and data.num_batches not in (None, steps):
            # With one worker Keras goes on where an epoch ended, with several it begins anew.
            return f"steps_per_epoch={steps} is not the length of the dataset"
        if type(data).on_epoch_begin is not base.on_epoch_begin:
            # Keras calls it once the threads have begun the epoch.
            return "the dataset changes at the beginning of an epoch"
        return ""

    def fitted(original: Any) -> Any:
        bound = inspect.signature(original)

        @functools.wraps(original)
        def fit(self: Any, *args: Any, **named: Any) -> Any:
            given = bound.bind(self, *args, **named).arguments
            data = given.get("x")
            if isinstance(data, base):
                reason = why_not(self, data, given.get("steps_per_epoch"))
                if not reason:
                    ours.add(id(data))
                else:
                    patches.refuse(IDEA.name, reason)
                if id(data) in ours:  # a later fit may be one for which it does not go
                    data.workers = 1 if reason else settings["count"]
            return original(self, *args, **named)

        return fit

    def started(original: Any) -> Any:
        def start(self: Any) -> None:
            original(self)
            if id(self.py_dataset) in ours:
                patches.took_effect(IDEA.name, threads=settings["count"])

        return start

    patches.replace(trainer_of(framework), "fit", fitted)
    adapter = importlib.import_module("keras.src.trainers.data_adapters.py_dataset_adapter")
    patches.replace(adapter.PyDatasetEnqueuer, "start", started)
