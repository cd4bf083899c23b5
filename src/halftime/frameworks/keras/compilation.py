"""XLA: the training step as one compiled program.

Changes: `jit_compile` of `Model.compile`, where the script leaves it to Keras, which has it on for
GPUs and off for CPUs: the other one is tried. Helps: many small operations that XLA fuses. May
change: rounding; which random numbers dropout gets. Costs: seconds of compiling for each shape of a
batch. Source: Keras, trainers/trainer.py, Trainer.compile; tensorflow.org/xla.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import COMPILATION as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """XLA on where Keras has it off, and off where it has it on."""
    from ...records import Proposal, Switch

    if facts.backend != "tensorflow":
        reason = f"Keras' {facts.backend} backend compiles in its own way"
        return [Proposal(switch=None, reason=reason)]
    if facts.own_loop == "GradientTape":
        reason = "the step is a function of the script's own: tf.function(jit_compile=True) is XLA"
        return [Proposal(switch=None, reason=reason)]
    on = "xla" not in facts.already_on
    switch = Switch(technique=IDEA.name, settings={"jit_compile": on}, numerics="rounding")
    return [Proposal(switch=switch, reason=f"Keras has XLA {'off' if on else 'on'} here")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Decide where the script leaves it to Keras."""
    wanted = settings["jit_compile"]

    def compiled(original: Any) -> Any:
        def compile(self: Any, *args: Any, **named: Any) -> Any:
            if named.get("jit_compile", "auto") != "auto":
                patches.refuse(IDEA.name, "the script sets jit_compile itself")
                return original(self, *args, **named)
            result = original(self, *args, **{**named, "jit_compile": wanted})
            if self.jit_compile == wanted:
                patches.took_effect(IDEA.name, jit_compile=wanted)
            else:
                patches.refuse(IDEA.name, "a layer of the model does not support XLA")
            return result

        return compile

    trainer = importlib.import_module("keras.src.trainers.trainer").Trainer
    patches.replace(trainer, "compile", compiled)
