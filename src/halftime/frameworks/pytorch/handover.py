"""Batches that lie on the device already, handed over where the script would copy them there.

The script keeps its batch in memory, so that whatever else it does with it goes on as before; only
`batch.to(device)` finds its result made. A batch that was changed meanwhile is copied as ever.
"""

from __future__ import annotations

import weakref
from typing import Any, Dict, Tuple

from ...agent.patches import Patches

_MOST_WAITING = 64


class Handover:
    """Tensors in memory, each with its equal on a device."""

    def __init__(self, torch: Any, device: str, patches: Patches) -> None:
        self.device = device
        self.handed_over = 0
        self._waiting: Dict[int, Tuple[Any, int, Any]] = {}
        for name in ("to", "cuda"):
            patches.replace(torch.Tensor, name, self._instead_of)

    def offer(self, tensor: Any, there: Any) -> None:
        """Hand over `there`, on the device, when the script copies `tensor` to it."""
        if len(self._waiting) >= _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[id(tensor)] = weakref.ref(tensor), tensor._version, there

    def _instead_of(self, original: Any) -> Any:
        waiting = self._waiting

        def to(tensor: Any, *args: Any, **named: Any) -> Any:
            offered = waiting.pop(id(tensor), None) if waiting else None
            if offered is not None and offered[0]() is tensor and offered[1] == tensor._version:
                result = original(offered[2], *args, **named)
                if result.device.type == self.device:
                    self.handed_over += 1
                    return result
            return original(tensor, *args, **named)

        return to
