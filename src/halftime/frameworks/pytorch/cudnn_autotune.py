"""cuDNN tries its convolution kernels and keeps the fastest.

Changes: `torch.backends.cudnn.benchmark`. Helps: where convolutions on a GPU bound the step and
shapes stay the same. May change: rounding, since another kernel may sum in another order. Needs: a
GPU, convolutions. Source: PyTorch performance tuning guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import CUDNN_AUTOTUNE as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """On, for models with convolutions on a GPU, or why not."""
    from ...records import Proposal, Switch

    refusal = ""
    if facts.device != "cuda":
        refusal = "there is no GPU to compute on"
    elif IDEA.name in facts.already_on:
        refusal = "already on: the script switches it on itself"
    elif not any(root.convolutions for root in facts.roots):
        refusal = "the model has no 2-D convolutions"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="rounding")
    return [Proposal(switch=switch, reason="convolutions on a GPU")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Switch it on now; at the end look whether the script left it so."""
    cudnn = framework.backends.cudnn
    cudnn.benchmark = True

    def look() -> None:
        if not cudnn.benchmark or cudnn.deterministic:
            patches.refuse(IDEA.name, "the script switches it off, or asks for determinism")
        elif framework.cuda.is_initialized():
            patches.took_effect(IDEA.name, benchmark=True)

    patches.at_exit(look)
