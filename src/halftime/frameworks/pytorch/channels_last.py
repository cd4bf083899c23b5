"""Channels-last memory layout.

Changes: convolution weights, and the images given to a root, are laid out with channels
innermost. Helps: where convolutions bound the step. May change: the order of sums inside kernels.
Needs: 2-D convolutions. Source: PyTorch channels-last tutorial.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import CHANNELS_LAST as IDEA
from . import roots

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """For models of plain 2-D convolutions, or why not."""
    from ...records import Proposal, Switch

    convolutions = sum(root.convolutions for root in facts.roots)
    grouped = sum(root.grouped_convolutions for root in facts.roots)
    if not convolutions:
        return [Proposal(switch=None, reason="the model has no 2-D convolutions")]
    if grouped > convolutions / 2:
        return [
            Proposal(switch=None, reason=f"{grouped} of {convolutions} convolutions are grouped")
        ]
    switch = Switch(technique=IDEA.name, settings={}, numerics="rounding")
    return [Proposal(switch=switch, reason=f"{convolutions} convolutions")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Lay out each root's weights at its first call, and its images at every call."""
    torch = framework
    watch = roots.watch(torch, patches.recorder, patches, settings["roots"])
    laid_out: Any = weakref.WeakSet()
    layout = torch.channels_last

    def with_layout(call: Any) -> Any:
        def call_laid_out(module: Any, *args: Any, **named: Any) -> Any:
            if module not in laid_out:
                laid_out.add(module)
                _lay_out_weights(torch, module, layout)
                _report(torch, module, layout, patches)
            images = (_laid_out(torch, value, layout) for value in args)
            more = {name: _laid_out(torch, value, layout) for name, value in named.items()}
            return call(module, *images, **more)

        return call_laid_out

    watch.around(with_layout)


def _lay_out_weights(torch: Any, module: Any, layout: Any) -> None:
    for part in module.modules():
        if isinstance(part, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            part.weight.data = part.weight.data.contiguous(memory_format=layout)


def _laid_out(torch: Any, value: Any, layout: Any) -> Any:
    if torch.is_tensor(value) and value.ndim == 4 and value.is_floating_point():
        return value.contiguous(memory_format=layout)
    return value


def _report(torch: Any, module: Any, layout: Any, patches: Patches) -> None:
    convolutions = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    changed = sum(1 for m in convolutions if m.weight.is_contiguous(memory_format=layout))
    if changed:
        patches.took_effect(IDEA.name, convolutions=len(convolutions), laid_out=changed)
