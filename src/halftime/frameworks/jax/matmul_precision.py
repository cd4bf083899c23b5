"""Matrix products in less than float32 on a GPU or TPU.

Changes: jax_default_matmul_precision. Helps: where float32 products bound the step on an
accelerator. May change: rounding. Needs: an accelerator; on a CPU it does nothing.
Source: JAX documentation of jax.default_matmul_precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import MATMUL_PRECISION as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """TF32 where there is a GPU, or why not."""
    from ...records import Proposal, Switch

    if facts.device != "cuda":
        return [Proposal(switch=None, reason="there is no GPU to compute on")]
    switch = Switch(technique=IDEA.name, settings={"precision": "tensorfloat32"},
                    numerics="rounding")  # fmt: skip
    return [Proposal(switch=switch, reason=f"{facts.device_name} has TF32")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Set the default, where the script has none."""
    jax, wanted = framework, settings["precision"]
    if jax.config.jax_default_matmul_precision is not None:
        patches.refuse(IDEA.name, "the script sets it itself")
        return
    jax.config.update("jax_default_matmul_precision", wanted)
    patches.took_effect(IDEA.name, precision=wanted)
