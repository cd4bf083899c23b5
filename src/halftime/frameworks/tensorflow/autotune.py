"""Pipelines of tf.data without the thread that tunes them.

Changes: an iterator runs without TensorFlow's autotuner; what a script leaves to AUTOTUNE keeps its
default, and the prefetch that TensorFlow adds only where it tunes is added. Helps: where epochs are
short. The tuner sleeps 10 ms, 20 ms, 40 ms and so on up to a minute, and an iterator that ends
waits for it to wake: an epoch of 3.2 s was seen to take 5.1. May change: nothing; the elements and
their order are the same. Needs: TensorFlow, and a script that says nothing of autotuning itself.
Source: tensorflow/core/framework/model.cc, OptimizeLoop,
on which ~RootDataset::Iterator waits (seen by a stack trace of 2.21).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import AUTOTUNE as IDEA
from . import pipeline
from .prefetch import is_added_anyway

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_LONGEST_WAIT = 60.0
_TOO_SMALL = 0.02


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """No tuner, unless an epoch is so long that its end does not matter."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    refusal = ""
    if loader is not None and loader.kind == "a distributed pipeline":
        refusal = "the training is fed by a distributed pipeline, which TensorFlow reads otherwise"
    elif facts.backend != "tensorflow" and (loader is None or loader.kind != "tf.data"):
        refusal = "the training does not read through tf.data"
    elif loader is None:
        refusal = "nothing was seen that feeds the training"
    elif not loader.autotuned:
        refusal = "already on: the script's own options say whether to tune"
    elif loader.batches and diagnosis.step_seconds:
        epoch = loader.batches * diagnosis.step_seconds
        if _LONGEST_WAIT / epoch < _TOO_SMALL:
            refusal = f"an epoch of {epoch:.0f} s waits at most {_LONGEST_WAIT:.0f} s at its end"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="exact")
    return [Proposal(switch=switch, reason="the end of each epoch waits for the tuner")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Give each iterator a dataset whose options say no, where the script's say nothing."""
    tf = framework
    options = tf.data.Options()
    options.autotune.enabled = False
    chosen: list[bool] = []

    def fed(dataset: Any, number: int, trains: bool) -> Any:
        if trains and isinstance(dataset, tf.data.Dataset) and not is_tuned(dataset):
            chosen.append(True)
            patches.refuse(IDEA.name, "the script's own options say whether to tune")
        return dataset

    def untuned(original: Any) -> Any:
        def _create_iterator(self: Any, dataset: Any) -> None:
            if not chosen and is_tuned(dataset):
                # TensorFlow ends in a prefetch by itself only what it tunes.
                prefetches = is_added_anyway(dataset) and not pipeline.ends_in_prefetch(dataset)
                dataset = dataset.with_options(options)
                dataset = dataset.prefetch(tf.data.AUTOTUNE) if prefetches else dataset
                patches.took_effect(IDEA.name, enabled=dataset.options().autotune.enabled)
            original(self, dataset)

        return _create_iterator

    patches.feeders.append(fed)
    module = importlib.import_module("tensorflow.python.data.ops.iterator_ops")
    patches.replace(module.OwnedIterator, "_create_iterator", untuned)


def is_tuned(dataset: Any) -> bool:
    """Whether TensorFlow tunes this dataset without being told to."""
    return dataset.options().autotune.enabled is None
