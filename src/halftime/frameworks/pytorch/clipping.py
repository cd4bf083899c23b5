"""Where a script clips its gradients by hand, by whichever name it imports the function."""

from __future__ import annotations

import importlib
from typing import Any, Callable

from ...agent.patches import Patches


def around_clipping(torch: Any, patches: Patches, make: Callable[[Any], Any]) -> None:
    """Put `make(original)` in the place of each function that clips gradients."""
    for module in (torch.nn.utils, importlib.import_module("torch.nn.utils.clip_grad")):
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            patches.replace(module, name, make)
