"""TF32 in matrix products on a GPU.

Changes: float32 matrix products run on tensor cores with 10 bits of mantissa; convolutions do that
by default already. Helps: where arithmetic in float32 bounds the step. May change: rounding. Needs:
compute capability 8.0. Source: torch.set_float32_matmul_precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import MATMUL_PRECISION as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """High precision instead of highest, or why not."""
    from ...records import Proposal, Switch

    refusal = ""
    if facts.device != "cuda":
        refusal = "there is no GPU to compute on"
    elif IDEA.name in facts.already_on:
        refusal = "already on: the script allows TF32 itself"
    elif not facts.bfloat16_units:
        refusal = f"{facts.device_name} has no TF32"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={"precision": "high"}, numerics="rounding")
    return [Proposal(switch=switch, reason=f"{facts.device_name} has TF32")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Set the precision now; at the end look whether the script left it so."""
    torch, wanted = framework, settings["precision"]
    torch.set_float32_matmul_precision(wanted)

    def look() -> None:
        try:
            found = torch.get_float32_matmul_precision()
        except RuntimeError:  # not to be asked once the new flags were set
            patches.refuse(IDEA.name, "the script sets the precision by other flags itself")
            return
        if found != wanted:
            patches.refuse(IDEA.name, f"the script sets {found!r} itself")
        elif torch.cuda.is_initialized():
            patches.took_effect(IDEA.name, precision=found)

    patches.at_exit(look)
