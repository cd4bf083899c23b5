"""Matrix products in less than float32 on a GPU.

Changes: the precision of products of float32, where none is named. Helps: where they bound the step
on a GPU. May change: rounding, to 8 bits of mantissa: TF32, with 11, is what JAX uses there by
itself. Needs: a GPU with bfloat16 units. Source: JAX documentation of jax.lax.dot_general and
jax.lax.DotAlgorithmPreset.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...agent.recorder import Recorder
from ...ideas import MATMUL_PRECISION as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """bfloat16 where a GPU has units for it, or why not."""
    from ...records import Proposal, Switch

    refusal = ""
    if facts.device != "cuda":
        refusal = "there is no GPU to compute on"
    elif not facts.bfloat16_units:
        refusal = f"{facts.device_name} has no bfloat16 units"
    elif IDEA.name in facts.already_on:
        refusal = "already on: the script sets the precision itself"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={"precision": "BF16_BF16_F32"},
                    numerics="rounding")  # fmt: skip
    return [Proposal(switch=switch, reason=f"{facts.device_name} has units for bfloat16")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Give products of float32 the precision that neither their call nor the script names.

    A default for all would round integers and float64 as well.
    """
    jax, wanted = framework, settings["precision"]

    def product(original: Any) -> Any:
        names = inspect.signature(original).parameters

        @functools.wraps(original)
        def dot_general(lhs: Any, rhs: Any, *args: Any, **named: Any) -> Any:
            given = dict(zip(list(names)[2:], args), **named)
            single = all(str(getattr(x, "dtype", "")) == "float32" for x in (lhs, rhs))
            left_open = given.get("precision") is None and given.get("preferred_element_type") in (
                None,
                "float32",
                jax.numpy.float32,
            )
            if single and left_open and jax.config.jax_default_matmul_precision is None:
                patches.took_effect(IDEA.name, precision=wanted)
                given["precision"] = wanted
            return original(lhs, rhs, **given)

        return dot_general

    lax = importlib.import_module("jax._src.lax.lax")
    made = patches.replace(lax, "dot_general", product)
    for module in list(sys.modules.values()):  # by name, as jax.numpy has it
        known = getattr(module, "__dict__", {})
        if known.get("dot_general") is made:
            known["dot_general"] = lax.dot_general
    defaults = getattr(jax.numpy.einsum, "__kwdefaults__", None) or {}
    if defaults.get("_dot_general") is made:
        defaults["_dot_general"] = lax.dot_general


def note(jax: Any, recorder: Recorder) -> None:
    """Say where the script sets it itself."""
    if jax.config.jax_default_matmul_precision is not None:
        recorder.emit("already_on", idea=IDEA.name)
