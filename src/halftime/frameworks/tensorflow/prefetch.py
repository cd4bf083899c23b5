"""Prefetch at the end of a tf.data pipeline.

Changes: the next batches are made while the step computes. Helps: where the step waits for data and
a core is free. May change: nothing. TensorFlow adds one by itself unless the script's options turn
that off, or its tuner, so that it is offered only where they do. Source: tf.data performance guide;
option `experimental_optimization.inject_prefetch`; measured: with `autotune.enabled` off, a loader
and a consumer of 20 ms took turns (2.51 s for 60 elements, 1.29 s with a prefetch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import PREFETCH as IDEA
from . import pipeline

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """A prefetch where TensorFlow leaves it out."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    refusal = ""
    if loader is None or loader.kind != "tf.data":
        refusal = "the training is not fed by a tf.data pipeline"
    elif loader.pipeline and loader.pipeline[-1] == "prefetch":
        refusal = "already on: the script's pipeline ends in a prefetch"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="exact")
    if loader is not None and loader.prefetched_by_itself:
        reason = "already on: TensorFlow ends every pipeline in a prefetch by itself"
        return [Proposal(switch=switch, reason=reason, worth_a_trial=False)]
    return [Proposal(switch=switch, reason="the script's options turn TensorFlow's own off")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """End the pipeline in a prefetch when a trainer is fed from it."""
    tf = framework

    def fed(dataset: Any, number: int, trains: bool) -> Any:
        if not isinstance(dataset, tf.data.Dataset):
            return dataset
        if pipeline.ends_in_prefetch(dataset):
            patches.refuse(IDEA.name, "the script's pipeline ends in a prefetch")
            return dataset
        if trains:
            patches.took_effect(IDEA.name, by_itself=is_added_anyway(dataset))
        return dataset.prefetch(tf.data.AUTOTUNE)

    patches.feeders.append(fed)


def is_added_anyway(dataset: Any) -> bool:
    """Whether TensorFlow would end this pipeline in a prefetch without being told."""
    optimization = dataset.options().experimental_optimization
    asked = getattr(optimization, "inject_prefetch", None)
    defaults = getattr(optimization, "apply_default_optimizations", None)
    tuned = dataset.options().autotune.enabled  # by whom it is added
    return asked is not False and defaults is not False and tuned is not False
