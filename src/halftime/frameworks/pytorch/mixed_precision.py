"""Mixed precision in bfloat16, or in float16 on a GPU that only emulates bfloat16.

Changes: autocast around each call of a root; its outputs come back as float32; the criterion and
the weights stay in float32; for float16 the loss is scaled (loss_scaling). Helps: where arithmetic
bounds the step. May change: rounding of activations and gradients. Needs: AVX512_BF16 or AMX on a
CPU; on a GPU bfloat16 from compute capability 8.0 on, else a loop that float16 can be scaled in.
Source: arXiv:1710.03740, arXiv:1905.12322; torch.amp documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence, Tuple

from ...agent.patches import Patches
from ...ideas import MIXED_PRECISION as IDEA
from . import loss_scaling, roots

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_MOST_CALLS_AN_UPDATE = 8
# A sigmoid of 6.5 becomes 1.0 in bfloat16: outputs that end in these are left alone.
_SATURATING = ("Sigmoid", "Exp", "Tanh")
# What CUDA's autocast computes in float32 and the CPU's does not.
_FLOAT32_ON_CPU = ("softmax.int", "log_softmax.int")


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """bfloat16 around the roots, or why not."""
    from ...records import Proposal, Switch

    refusal = ""
    if IDEA.name in facts.already_on:
        refusal = "already on: the script computes in low precision itself"
    elif not facts.bfloat16_units and facts.device != "cuda":
        refusal = f"{facts.device_name} has no bfloat16 units"
    elif not facts.bfloat16_units and facts.trainer:
        refusal = f"{facts.device_name} has no bfloat16 units, and {facts.trainer} scales float16"
    elif not facts.roots and diagnosis.steps:
        refusal = "no module was seen that the script calls to compute what it trains"
    for root in facts.roots:
        saturating = [name for name in root.last_operations if name.startswith(_SATURATING)]
        if saturating:
            refusal = f"{root.class_name} ends in {saturating[0]}, which bfloat16 saturates"
        if root.calls_per_update > _MOST_CALLS_AN_UPDATE:
            refusal = f"{root.class_name} is called {root.calls_per_update:.0f} times an update"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    dtype = "bfloat16" if facts.bfloat16_units else "float16"
    switch = Switch(technique=IDEA.name, settings={"dtype": dtype}, numerics="rounding")
    return [Proposal(switch=switch, reason=f"{facts.device_name} has units for {dtype}")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Run each root under autocast, and look at the dtype inside a layer once."""
    torch = framework
    watch = roots.watch(torch, patches.recorder, patches, settings["roots"])
    dtype = getattr(torch, settings["dtype"])
    seen: dict[str, bool] = {}
    _keep_softmax_in_float32(torch)
    scaling = None
    if dtype == torch.float16:
        scaling = loss_scaling.install(torch, IDEA.name, patches)

    def lowered(call: Any) -> Any:
        def under_autocast(module: Any, *args: Any, **named: Any) -> Any:
            if seen.get("refused") or (scaling is not None and scaling.refused):
                return call(module, *args, **named)
            device = next(module.parameters()).device.type
            if roots.autocast_is_on(torch):
                # A trainer was told the precision, and has it on already.
                if "looked" not in seen and roots.autocast_dtype(torch, device) == dtype:
                    seen["looked"] = True
                    patches.took_effect(IDEA.name, layer="the trainer", dtype=str(dtype))
                return call(module, *args, **named)
            # A weight that is cast under no_grad and kept would get no gradient (pytorch#65766).
            with torch.autocast(device, dtype=dtype, cache_enabled=False):
                if "looked" in seen:
                    output, acted = call(module, *args, **named), ""
                else:
                    seen["looked"] = True
                    output, acted = _look_inside(torch, call, module, args, named, dtype)
            try:
                cast = _in_float32(torch, output, dtype)
            except TypeError as error:
                seen["refused"] = True
                patches.refuse(IDEA.name, str(error))
                return output
            if acted:
                patches.took_effect(IDEA.name, layer=acted, dtype=str(dtype))
            return cast

        return under_autocast

    watch.around(lowered)


def _look_inside(
    torch: Any, call: Any, module: Any, args: Any, named: Any, dtype: Any
) -> Tuple[Any, str]:
    """Call once with hooks on linear and convolution layers: what do they compute in?

    Gives the output, and the type of a layer that computes in `dtype`, else ''. Some layers are
    never called: attention takes the weights of its projections itself.
    """
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    acting: list[str] = []

    def look(layer: Any, inputs: Any, output: Any) -> None:
        if getattr(output, "dtype", None) == dtype:
            acting.append(type(layer).__name__)

    hooks = []
    if not type(module).__name__.startswith("Optimized"):
        layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
        hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        output = call(module, *args, **named)
    finally:
        for hook in hooks:
            hook.remove()
    if getattr(roots.first_tensor(output), "dtype", None) == dtype:
        acting.append(type(module).__name__)
    return output, acting[0] if acting else ""


def _in_float32(torch: Any, output: Any, dtype: Any) -> Any:
    """The output with its low-precision tensors as float32, in the same containers."""
    if torch.is_tensor(output):
        return output.float() if output.dtype == dtype else output
    if output is None or isinstance(output, (int, float, str, bool)):
        return output
    if type(output).__name__.endswith("Cache"):  # keys and values of Transformers' decoders
        return output
    if isinstance(output, dict):
        for key in list(output):
            output[key] = _in_float32(torch, output[key], dtype)
        return output
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_in_float32(torch, value, dtype) for value in output))
    if type(output) in (list, tuple):
        return type(output)(_in_float32(torch, value, dtype) for value in output)
    raise TypeError(f"the model gives a {type(output).__name__}, which cannot be cast from outside")


def _keep_softmax_in_float32(torch: Any) -> None:
    """Teach the CPU's autocast what CUDA's does: softmax in float32.

    Source: torch.amp documentation, "CUDA Ops that autocast to float32".
    """
    library = torch.library.Library("aten", "IMPL", "AutocastCPU")
    low = (torch.bfloat16, torch.float16)
    for operator in _FLOAT32_ON_CPU:
        name, overload = operator.split(".")
        packet = getattr(getattr(torch.ops.aten, name), overload)

        def in_float32(x: Any, dim: int, dtype: Any = None, packet: Any = packet) -> Any:
            with torch.autocast("cpu", enabled=False):
                return packet(x.float() if x.dtype in low else x, dim, dtype)

        library.impl(operator, in_float32)
    _keep_softmax_in_float32.library = library  # type: ignore[attr-defined]  # lives as long as we
