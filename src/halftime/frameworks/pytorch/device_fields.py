"""A dataset's samples in the memory of a GPU, gathered into batches there."""

from __future__ import annotations

from typing import Any, List

from .fields import Fields
from .shelf import Totals

_SHARE_OF_FREE = 0.5


class DeviceFields(Fields):
    """Fields of which a copy moves to the GPU as soon as they are filled.

    They are filled when all samples were drawn once, or when an earlier run left them. What is not
    there, and all that comes before, is gathered in host memory as ever.
    """

    device: Any = None
    """Where to; None: the CUDA device that the script uses."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._resident: List[Any] = []
        self._there: Any = None
        self._fits = True
        self._served_there = self._batches_there = 0

    def _gather(self, rows: Any) -> Any:
        filled = not self._missing or not self.drawn
        if filled and self._fits and (self._there is None or not self._there[rows].all()):
            self._move()
        if self._there is None or not self._there[rows].all():
            return super()._gather(rows)
        self._served_there += len(rows)
        self._batches_there += 1
        index = self._torch.from_numpy(rows).to(self._resident[0].device, non_blocking=True)
        return self._rebuild([field.index_select(0, index) for field in self._resident])

    def _move(self) -> None:
        torch = self._torch
        if self.device is None and not torch.cuda.is_initialized():
            return
        if self.device is None:
            free, _ = torch.cuda.mem_get_info()
            self._fits = self.size_bytes <= free * _SHARE_OF_FREE
        if not self._fits:
            self._say_dropped(f"{self.size_bytes / 1e9:.1f} GB do not fit on the GPU")
            return
        device = self.device or torch.device("cuda", torch.cuda.current_device())
        fields = [torch.from_numpy(field) for field, _, _ in self._take]
        kinds = [dtype for _, _, dtype in self._take]
        self._resident = [field.to(device).view(kind) for field, kind in zip(fields, kinds)]
        self._there = self._present.copy()

    def totals(self) -> Totals:
        """What it has done so far; served is what came from the GPU."""
        return super().totals()._replace(served=self._served_there, batches=self._batches_there)

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
        super().drop(reason)
        self._resident, self._there = [], None
