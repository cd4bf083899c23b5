"""A dataset's samples in the memory of a GPU, gathered into batches there."""

from __future__ import annotations

from typing import Any, Callable, List

from .fields import Fields
from .shelf import Totals
from .store import OF_TRAINING

_SHARE_OF_FREE = 0.5
_FIRST_MOVE = 8


class DeviceFields(Fields):
    """Fields of which a copy lies on the GPU, for the loader that feeds the training.

    The copy is made once all samples were drawn, or an earlier run left them; where some never are,
    once batches are served again and again. What is not there is gathered in host memory as ever.
    """

    device: Any = None
    """Where the script copies its batches to; None until it has copied one."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._resident: List[Any] = []
        self._there: Any = None
        self._fits, self._left_by_another, self._trains = True, False, False
        self._hits, self._move_at = 0, _FIRST_MOVE
        self._served_there = self._batches_there = 0

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The batch of these indices; on the GPU for the loader that feeds the training."""
        self._trains = bool(fetcher.__dict__.get(OF_TRAINING))
        return super().batch(index, fetcher, plain)

    def _open_kept(self, shapes: List[Any], likes: List[Any]) -> bool:
        self._left_by_another = super()._open_kept(shapes, likes)
        return self._left_by_another

    def _gather(self, rows: Any) -> Any:
        if not self._trains:
            return super()._gather(rows)
        if not self._are_there(rows):
            self._move_when_it_is_time()
        if not self._are_there(rows):
            return super()._gather(rows)
        self._served_there += len(rows)
        self._batches_there += 1
        index = self._torch.from_numpy(rows).to(self._resident[0].device, non_blocking=True)
        return self._rebuild([field.index_select(0, index) for field in self._resident])

    def _are_there(self, rows: Any) -> bool:
        return self._there is not None and bool(self._there[rows].all())

    def _move_when_it_is_time(self) -> None:
        self._hits += 1
        once = self._there is None and (not self._missing or self._left_by_another)
        if self.device is None or not self._fits or not (once or self._hits >= self._move_at):
            return
        self._move_at = 2 * self._hits
        self._move()

    def _move(self) -> None:
        torch, device = self._torch, self.device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            self._fits = self.size_bytes <= free * _SHARE_OF_FREE
        if not self._fits:
            self._say_dropped(f"{self.size_bytes / 1e9:.1f} GB do not fit on the GPU")
            return
        self._resident, self._there = [], None
        self._resident = [
            torch.from_numpy(field).to(device).view(dtype) for field, _, dtype in self._take
        ]
        self._there = self._present.copy()

    def totals(self) -> Totals:
        """What it has done so far; served is what came from the GPU."""
        return super().totals()._replace(served=self._served_there, batches=self._batches_there)

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
        super().drop(reason)
        self._resident, self._there = [], None
