"""Mixed precision by Keras' own dtype policy.

Changes: a global policy before the first layer exists: layers compute in bfloat16 or float16, their
weights stay in float32; the last layer stays in float32, so that softmax and loss do. Helps: where
arithmetic bounds the step. May change: rounding. Needs: a processor with bfloat16 units, or a GPU;
float16 where a GPU only emulates bfloat16. Source: Keras mixed precision guide; arXiv:1710.03740.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import MIXED_PRECISION as IDEA
from .trainer import has_own_step

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_LAYERS_WITH_ARITHMETIC = ("Conv", "Dense", "EinsumDense", "MultiHeadAttention", "LSTM", "GRU")


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The policy that this machine has units for, or why none."""
    from ...records import Proposal, Switch

    if IDEA.name in facts.already_on:
        return [Proposal(switch=None, reason="already on: the script sets a mixed policy itself")]
    if facts.own_loop == "GradientTape":
        reason = "it is set where a model is compiled, and the script has a loop of its own"
        return [Proposal(switch=None, reason=reason)]
    if facts.bfloat16_units:
        policy = "mixed_bfloat16"
    elif facts.device == "cuda":
        policy = "mixed_float16"  # also where bfloat16 is only emulated, as on a T4
    else:
        reason = f"{facts.device_name} has no bfloat16 units: it would compute them slowly"
        return [Proposal(switch=None, reason=reason)]
    switch = Switch(technique=IDEA.name, settings={"policy": policy}, numerics="rounding")
    return [Proposal(switch=switch, reason=f"{facts.device_name} has units for {policy}")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Set the policy now; keep output layers in float32 when a model is compiled."""
    keras = framework
    policy = settings["policy"]
    keras.config.set_dtype_policy(policy)
    wanted = keras.config.dtype_policy().compute_dtype

    def compiled(original: Any) -> Any:
        def compile(self: Any, *args: Any, **named: Any) -> Any:
            outputs = _output_layers(self)
            reason = ""
            if wanted == "float16" and has_own_step(keras, self):
                reason = "the script's own train_step does not scale its loss, as float16 needs"
            elif not outputs:
                reason = "no layer is known to give its output, which has to stay in float32"
            if reason:
                patches.refuse(IDEA.name, reason)
                outputs = list(self._flatten_layers())
            for layer in outputs:
                layer.dtype_policy = "float32"
            result = original(self, *args, **named)
            if not reason:
                _look(keras, self, wanted, patches)
            return result

        return compile

    trainer = importlib.import_module("keras.src.trainers.trainer").Trainer
    patches.replace(trainer, "compile", compiled)


def _output_layers(model: Any) -> List[Any]:
    """The layers whose results are what the model gives, within models of models too.

    Empty where an output is of no layer.
    """
    operations = [getattr(t, "_keras_history", None) for t in _flat(getattr(model, "outputs", []))]
    found = [history.operation for history in operations if history is not None]
    if not found and type(model).__name__ == "Sequential" and model.layers:
        found = [model.layers[-1]]  # it is not built yet
    if not all(hasattr(layer, "dtype_policy") for layer in found):
        return []
    return [
        inner
        for layer in found
        for inner in (_output_layers(layer) if getattr(layer, "layers", None) else [layer])
    ]


def _flat(outputs: Any) -> List[Any]:
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs or [])


def _look(keras: Any, model: Any, wanted: str, patches: Patches) -> None:
    """Watch what the first layer with arithmetic gives when the step is traced."""
    layer = next(
        (
            layer
            for layer in model._flatten_layers(include_self=False)
            if type(layer).__name__.startswith(_LAYERS_WITH_ARITHMETIC)
            and layer.compute_dtype == wanted
        ),
        None,
    )
    if layer is None:
        patches.refuse(IDEA.name, f"no layer computes in {wanted}: the script sets dtypes itself")
        return
    call = layer.call

    def watched(*args: Any, **named: Any) -> Any:
        output = call(*args, **named)
        given = getattr(output, "dtype", None)
        if given is not None and keras.backend.standardize_dtype(given) == wanted:
            patches.took_effect(IDEA.name, layer=type(layer).__name__, dtype=wanted)
        return output

    # Past the layer's own __setattr__, which would track it.
    object.__setattr__(layer, "call", watched)
