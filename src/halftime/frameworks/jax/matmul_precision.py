"""Matrix products in less than float32 on a GPU.

Changes: jax_default_matmul_precision. Helps: where float32 products bound the step on a GPU. May
change: rounding, to 8 bits of mantissa: TF32, with 11, is what JAX uses there by itself. Needs: a
GPU with bfloat16 units; on a CPU it does nothing.
Source: JAX documentation of jax.default_matmul_precision and jax.lax.DotAlgorithmPreset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...agent.recorder import Recorder
from ...ideas import MATMUL_PRECISION as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_NAME = "jax_default_matmul_precision"


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
    """Set the default, where the script has none."""
    config, wanted = framework.config, settings["precision"]
    if config.jax_default_matmul_precision is not None:
        patches.refuse(IDEA.name, "the script sets it itself")
        return
    config.update(_NAME, wanted)

    def look() -> None:
        now = config.jax_default_matmul_precision
        if now == wanted:
            patches.took_effect(IDEA.name, precision=wanted)
        else:
            patches.refuse(IDEA.name, f"the script itself chooses {now}")

    patches.at_exit(look)


def note(jax: Any, recorder: Recorder) -> None:
    """Say where the script sets it itself."""
    if jax.config.jax_default_matmul_precision is not None:
        recorder.emit("already_on", idea=IDEA.name)
