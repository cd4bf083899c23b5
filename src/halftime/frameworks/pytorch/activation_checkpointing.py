"""Activations of repeated blocks, computed again in the backward pass.

Changes: what the layers of a block keep for the backward pass is computed again there, under the
same random state; batch norm's running statistics move once. Helps: where memory bounds the batch.
May change: rounding. Costs: the forward pass of the blocks runs twice; it is never a speed-up.
Needs: a model with blocks that repeat. Source: arXiv:1604.06174; torch.utils.checkpoint.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any, Iterator, List, Mapping, Sequence, Tuple

from ...agent.patches import Patches
from ...ideas import ACTIVATION_CHECKPOINTING as IDEA
from . import roots

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_FEWEST_BLOCKS = 2


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """Every repeated block; only where memory bounds the script."""
    from ...records import Proposal, Switch

    if any(root.compiled for root in facts.roots):
        return [Proposal(switch=None, reason="the script compiles its model: it recomputes there")]
    switch = Switch(technique=IDEA.name, settings={}, numerics="rounding")
    reason = "no speed-up: for activations that do not fit in memory"
    return [Proposal(switch=switch, reason=reason, worth_a_trial=False)]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Checkpoint the blocks of each root when it is first called."""
    torch = framework
    checkpoint = importlib.import_module("torch.utils.checkpoint").checkpoint
    watch = roots.watch(torch, patches.recorder, patches, settings["roots"])
    blocks: set[int] = set()
    changed: set[type] = set()
    looked_at: set[int] = set()

    def checkpointed(original: Any) -> Any:
        def forward(self: Any, *args: Any, **named: Any) -> Any:
            if id(self) not in blocks or not torch.is_grad_enabled():
                return original(self, *args, **named)

            def contexts() -> Tuple[Any, Any]:
                return contextlib.nullcontext(), _again(torch, self, patches)

            return checkpoint(
                original, self, *args, use_reentrant=False, context_fn=contexts, **named
            )

        return forward

    def choosing(call: Any) -> Any:
        def called(module: Any, *args: Any, **named: Any) -> Any:
            if id(module) not in looked_at:
                looked_at.add(id(module))
                found = repeated_blocks(torch, module)
                if not found:
                    patches.refuse(IDEA.name, f"{type(module).__name__} has no repeated blocks")
                blocks.update(map(id, found))
                for cls in {type(block) for block in found} - changed:
                    changed.add(cls)
                    patches.replace(cls, "forward", checkpointed)
            if getattr(getattr(module, "config", None), "use_cache", False):
                # Of Transformers' decoders: a block that is computed again would add to it again.
                named.setdefault("use_cache", False)
            return call(module, *args, **named)

        return called

    watch.around(choosing)


@contextlib.contextmanager
def _again(torch: Any, block: Any, patches: Patches) -> Iterator[None]:
    """While a block is computed again: batch norm has counted this batch already."""
    patches.took_effect(IDEA.name, block=type(block).__name__)
    norms = [m for m in block.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, tracked in kept:
        norm.momentum = 0.0
        norm.num_batches_tracked = tracked.clone() if tracked is not None else None
    try:
        yield
    finally:
        for norm, momentum, tracked in kept:
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def repeated_blocks(torch: Any, model: Any) -> List[Any]:
    """The outermost modules of a model that repeat within a Sequential or a ModuleList.

    A block has layers of its own; a single layer would keep as much by its input.
    """
    nn = torch.nn
    found: List[Any] = []
    waiting = [model]
    while waiting:
        module = waiting.pop()
        children = list(module.children())
        inner = [child for child in children if next(child.children(), None) is not None]
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and len(inner) >= _FEWEST_BLOCKS:
            found.extend(inner)
        else:
            waiting.extend(children)
    return found
