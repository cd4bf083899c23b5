"""Gradient accumulation by Keras' own optimizers.

Changes: gradients of n batches are averaged before the weights move: n times fewer updates on the
same samples, which is another training. Helps: where a batch of the wanted size does not fit in
memory. It is no speed-up at equal samples. Source: Keras documentation of
`gradient_accumulation_steps`; arXiv:1706.02677 on large batches.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import GRADIENT_ACCUMULATION as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_COUNT = 4


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """Four batches an update; a search never tries it, since it is another training."""
    from ...records import Proposal, Switch

    if IDEA.name in facts.already_on:
        return [Proposal(switch=None, reason="already on: the script accumulates itself")]
    switch = Switch(technique=IDEA.name, settings={"count": _COUNT}, numerics="training")
    reason = "no speed-up at equal samples: fewer updates are another training"
    return [Proposal(switch=switch, reason=reason, worth_a_trial=False)]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Give each optimizer the count where the script gives none."""
    count = settings["count"]

    def made(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            if named.get("gradient_accumulation_steps") is not None:
                patches.refuse(IDEA.name, "the script accumulates itself")
                original(self, *args, **named)
                return
            original(self, *args, **{**named, "gradient_accumulation_steps": count})
            patches.took_effect(IDEA.name, count=self.gradient_accumulation_steps)

        return __init__

    base = importlib.import_module("keras.src.optimizers.base_optimizer")
    patches.replace(base.BaseOptimizer, "__init__", made)
