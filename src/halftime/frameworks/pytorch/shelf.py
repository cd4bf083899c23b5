"""Values kept by sample: in this process, or shared with the workers that it forks."""

from __future__ import annotations

import importlib
import mmap
import multiprocessing
import os
import pickle
import platform
from typing import Any, Callable, Dict, NamedTuple, Optional, Protocol, Tuple

from .batches import bytes_of, copy_of
from .looks import is_image

MODES = ("L", "RGB", "RGBA", "CMYK")
_USED, _SERVED, _DRAWN, _BATCHES, _DROPPED = range(5)
_TAKEN = -1
"""In the place of an entry that is being written."""
_LONGEST_LOCK_SECONDS = 1.0


class Totals(NamedTuple):
    """What a shelf has done, in all processes: samples served and drawn, whole batches served."""

    served: int
    drawn: int
    batches: int
    size_bytes: int
    dropped: bool


class Shelf(Protocol):
    """Keeps a value in a slot, with a look: what tells that it is still the same sample's."""

    is_shared: bool
    """With the processes that this one forks."""

    def get(self, slot: int, look: int) -> Optional[Any]:
        """A copy of the value, or None where there is none of that look."""

    def put(self, slot: int, look: int, value: Any) -> bool:
        """Keep a value in an empty slot, where there is room; gives whether it is kept."""

    def count(self, served: int, drawn: int) -> None:
        """Of a batch, the samples that came from the shelf, and those that did not."""

    def drop(self) -> None:
        """Give nothing any more."""

    def totals(self) -> Totals:
        """What it has done so far."""


class OwnShelf:
    """A shelf of this process alone: what a fork of it draws is not kept."""

    is_shared = False

    def __init__(self, room: Callable[[int], bool]) -> None:
        self._process = os.getpid()
        self._room = room
        self._values: Dict[int, Tuple[int, Any]] = {}
        self._served = self._drawn = self._batches = self._bytes = 0
        self._dropped = False

    def get(self, slot: int, look: int) -> Optional[Any]:
        known = self._values.get(slot)
        return copy_of(known[1]) if known is not None and known[0] == look else None

    def put(self, slot: int, look: int, value: Any) -> bool:
        size = bytes_of_value(value)
        if size is None or slot in self._values or os.getpid() != self._process:
            return False
        if not self._room(size):
            return False
        self._bytes += size
        self._values[slot] = (look, copy_of(value))
        return True

    def count(self, served: int, drawn: int) -> None:
        self._served += served
        self._drawn += drawn
        self._batches += not drawn

    def drop(self) -> None:
        self._dropped = True
        self._values.clear()

    def totals(self) -> Totals:
        done = (self._served, self._drawn, self._batches)
        return Totals(*done, size_bytes=self._bytes, dropped=self._dropped)


class SharedShelf:
    """A shelf in memory that this process shares with the workers it forks.

    Memory is given out under a lock and written without it; an entry's place is written last, so
    that readers need no lock. That order holds on processors of the x86 family alone. Memory is
    taken as it is written; `capacity` bytes are the most.
    """

    is_shared = True

    def __init__(self, torch: Any, slots: int, capacity: int) -> None:
        numpy = importlib.import_module("numpy")
        self._torch = torch
        self._capacity = capacity
        self._memory = mmap.mmap(-1, max(capacity, mmap.PAGESIZE))
        self._index_memory = mmap.mmap(-1, slots * 3 * 8)
        self._counts_memory = mmap.mmap(-1, 5 * 8)
        self._index = numpy.frombuffer(self._index_memory, dtype="i8").reshape(slots, 3)
        self._counts = numpy.frombuffer(self._counts_memory, dtype="i8")
        self._lock = multiprocessing.get_context("fork").Lock()
        self._lost = False
        """Whether a process died with the lock: nothing more is kept or counted here."""

    @staticmethod
    def works() -> bool:
        """Whether this processor keeps the order of writes."""
        return platform.machine() in ("x86_64", "AMD64")

    def get(self, slot: int, look: int) -> Optional[Any]:
        place, length, kept_look = self._index[slot].tolist()
        if place <= 0 or kept_look != look or self._counts[_DROPPED]:
            return None
        return _decoded(self._torch, self._memory[place - 1 : place - 1 + length])

    def put(self, slot: int, look: int, value: Any) -> bool:
        if self._index[slot, 0]:
            return False
        record = _encoded(self._torch, value)
        if record is None or not self._acquire():
            return False
        try:
            place = int(self._counts[_USED])
            if self._index[slot, 0] or place + len(record) > self._capacity:
                return False
            self._index[slot, 0] = _TAKEN
            self._counts[_USED] = place + len(record)
        finally:
            self._lock.release()
        self._memory[place : place + len(record)] = record
        self._index[slot, 1:] = len(record), look
        self._index[slot, 0] = place + 1
        return True

    def count(self, served: int, drawn: int) -> None:
        if self._acquire():
            self._counts[_SERVED] += served
            self._counts[_DRAWN] += drawn
            self._counts[_BATCHES] += not drawn
            self._lock.release()

    def drop(self) -> None:
        self._counts[_DROPPED] = 1

    def totals(self) -> Totals:
        used, served, drawn, batches, dropped = self._counts.tolist()
        return Totals(served, drawn, batches, used, bool(dropped))

    def _acquire(self) -> bool:
        self._lost = self._lost or not self._lock.acquire(timeout=_LONGEST_LOCK_SECONDS)
        return not self._lost


def bytes_of_value(value: Any) -> Optional[int]:
    """The bytes that keeping a value takes; None for what cannot be kept."""
    if is_image(value):
        width, height = value.size
        return int(width * height * (1 if value.mode in ("1", "L", "P") else 4))
    if hasattr(value, "element_size"):
        return int(value.numel() * value.element_size())
    return int(value.nbytes) if hasattr(value, "nbytes") else None


def _encoded(torch: Any, value: Any) -> Optional[bytes]:
    """A plain image, tensor or array as bytes that say what they are; None for anything else."""
    about: Tuple[Any, ...]
    if is_image(value) and value.mode in MODES:
        about, raw = ("image", value.mode, value.size, value.info), value.tobytes()
    elif type(value) is torch.Tensor and value.device.type == "cpu" and not value.requires_grad:
        # As a clone has it: what lies in memory in another order, as channels last, stays so.
        order = sorted(range(value.ndim), key=lambda dimension: -value.stride(dimension))
        if not value.permute(order).is_contiguous():
            order = list(range(value.ndim))
        dense = value.permute(order)
        about = ("tensor", str(value.dtype).rpartition(".")[2], tuple(dense.shape), order)
        raw = bytes_of(dense)
    elif type(value).__name__ == "ndarray" and value.dtype.kind in "biufc":
        about, raw = ("array", value.dtype.str, value.shape, None), value.tobytes()
    else:
        return None
    try:
        return pickle.dumps((*about, raw), protocol=5) if raw else None
    except Exception:  # what an image says of itself may hold anything
        return None


def _decoded(torch: Any, record: bytes) -> Any:
    """The value of such bytes, in memory that nobody else holds."""
    kind, form, shape, more, raw = pickle.loads(record)
    if kind == "image":
        image = importlib.import_module("PIL.Image").frombytes(form, shape, raw)
        image.info = more
        return image
    if kind == "tensor":
        dense = torch.frombuffer(bytearray(raw), dtype=getattr(torch, form)).reshape(shape)
        return dense.permute([more.index(dimension) for dimension in range(len(more))])
    numpy = importlib.import_module("numpy")
    return numpy.frombuffer(bytearray(raw), dtype=form).reshape(shape)
