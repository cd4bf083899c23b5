"""A fused optimizer.

Changes: one kernel updates all parameters, instead of several for each. Helps: where the optimizer
takes a share of the step, as with many small layers. May change: rounding. Needs: Adam, AdamW, SGD
or Adagrad of torch, dense floating-point parameters on one device. Source: torch.optim
documentation; PyTorch 2.4 brought the CPU kernels.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import FUSED_OPTIMIZER as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_KNOWN = ("Adam", "AdamW", "SGD", "Adagrad")


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The fused kernel of the optimizer that was seen, or why not."""
    from ...records import Proposal, Switch

    refusal = ""
    if IDEA.name in facts.already_on:
        refusal = "already on: the script asks for the fused kernel itself"
    elif facts.optimizer not in _KNOWN:
        refusal = f"{facts.optimizer or 'no optimizer'} has no fused kernel"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="rounding")
    return [Proposal(switch=switch, reason=f"{facts.optimizer} has a fused kernel")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Ask for the fused kernel where the script asks for no other."""
    for name in _KNOWN:
        patches.replace(getattr(framework.optim, name), "__init__", _fused(name, patches))


def _fused(name: str, patches: Patches) -> Any:
    def make(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            if type(self).__name__ != name:  # AdamW makes itself through Adam
                original(self, *args, **named)
                return
            asked = [word for word in ("fused", "foreach", "differentiable") if word in named]
            if any(named[word] is not None for word in asked):
                patches.refuse(IDEA.name, f"the script sets {', '.join(asked)} itself")
                original(self, *args, **named)
                return
            if args and isinstance(args[0], types.GeneratorType):
                args = (list(args[0]), *args[1:])  # gone through twice where the kernel is refused
            try:
                original(self, *args, **{**named, "fused": True})
            except (RuntimeError, TypeError) as error:
                patches.refuse(IDEA.name, f"{name}: {error}")
                original(self, *args, **named)
                return
            patches.took_effect(IDEA.name, optimizer=type(self).__name__)

        return __init__

    return make
