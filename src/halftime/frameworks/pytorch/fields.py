"""A dataset's samples in one contiguous array a field, gathered into batches in memory."""

from __future__ import annotations

import importlib
import math
import os
import random
import shutil
import tempfile
from typing import Any, Callable, List, Optional, Tuple

from . import reuse
from .batches import ScriptsOwn, bytes_of
from .determinism import AUDIT_EVERY, Watched
from .shelf import Totals
from .spares import Spares, make_pages, new_array

_MOST_UNMADE = 7 / 8
"""Once fewer of the samples are missing, the pages of all are made: few may ever be drawn."""


class Fields:
    """One dataset's samples in one contiguous array a field: (samples, …)."""

    is_shared = False
    outdated_by_change = True

    def __init__(
        self,
        torch: Any,
        dataset: Any,
        room: Callable[[int], bool],
        folder: Optional[str],
        dropped: Callable[[str], None],
        compare_first: int = 0,
    ) -> None:
        """folder: where earlier runs left the samples, and this one leaves them to later runs.

        compare_first: how many of them are drawn afresh and compared before they are trusted.
        """
        self.dataset = dataset
        self.dropped = False
        self.served = self.served_batches = self.drawn = self.audited = self.size_bytes = 0
        self.scripts_own = ScriptsOwn()
        self._spares = Spares(torch, room)
        self._unmade: List[Any] = []
        """Memory of fields whose pages are not made yet."""
        self._torch = torch
        self._numpy = importlib.import_module("numpy")
        self._length = len(dataset)
        self._room = room
        self._folder = folder
        self._say_dropped = dropped
        self._compare_first = compare_first
        self._fields: List[Any] = []
        self._dtypes: List[Any] = []
        self._take: List[Any] = []
        self._present = self._numpy.zeros(self._length, dtype=bool)
        self._missing = self._length
        self._rebuild: Any = None
        self._until_audit = AUDIT_EVERY
        self._probe = 0
        self.on_disk = False
        self._fetch: Any = None

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The batch of these indices, in fresh tensors; None where the store cannot serve it."""
        numpy = self._numpy
        rows = index if type(index) is numpy.ndarray else self._rows(index)
        if rows is None:
            return None
        if self._missing:
            absent = rows[~self._present[rows]]
            if absent.size:
                drawn = self._draw(numpy.unique(absent), absent, rows, fetcher, plain)
                if drawn is not None or self.dropped:
                    return drawn
        count = len(rows)
        self.served += count
        self.served_batches += 1
        self._until_audit -= count
        if self._until_audit <= 0:
            self._until_audit = AUDIT_EVERY
            self.audit(1)
            if self.dropped:
                return None
        return self._gather(rows)

    def _rows(self, index: Any) -> Any:
        try:
            rows = self._numpy.asarray(index, dtype=self._numpy.int64)
        except (TypeError, ValueError, OverflowError):
            return None  # keys that are no numbers: the dataset's own business
        if (
            rows.ndim != 1
            or not rows.size
            or int(rows.view(self._numpy.uint64).max()) >= self._length
        ):
            return None
        return rows

    def _gather(self, rows: Any) -> Any:
        """One gather a field, on this thread alone, into memory that nobody holds.

        A small parallel gather waits for a core that is busy (seen 375 times slower).
        """
        torch, leaves = self._torch, []
        for field, shape, dtype in self._take:
            fresh = self._spares.empty((len(rows), *shape), dtype)
            self._numpy.take(field, rows, axis=0, out=_array(torch, fresh), mode="clip")
            leaves.append(fresh)
        return self._rebuild(leaves)

    def _draw(
        self, wanted: Any, absent: Any, rows: Any, fetcher: Any, plain: Callable[[Any, Any], Any]
    ) -> Any:
        """Draw samples that are not stored yet, as the script would, and keep them."""
        whole = absent.size == rows.size
        drawn_rows = rows if whole else wanted
        streams = Watched(self._torch)
        with self.scripts_own:
            batch = plain(fetcher, drawn_rows.tolist())
        self.drawn += len(drawn_rows)
        moved = streams.moved()
        if moved is not None:  # for a sample of a kind that the probe did not meet
            self.drop(f"drawing a sample moves the global random state of {moved}")
            if not whole:
                streams.put_back()
            return batch if whole else None
        leaves: List[Any] = []
        rebuild = _take_apart(batch, leaves)
        refusal = self._unfit(leaves, rebuild, len(drawn_rows))
        if not refusal and self._rebuild is None:
            self._rebuild, self._fetch = rebuild, (fetcher, plain)
            refusal = self._allocate(leaves)
        if refusal:
            self.drop(refusal)
            return batch if whole else None
        for field, leaf in zip(self._fields, leaves):
            field[drawn_rows] = _array(self._torch, leaf)
        self._present[drawn_rows] = True
        self._missing = self._length - int(self._present.sum())
        if self._unmade and self._missing <= self._length * _MOST_UNMADE:
            for memory in self._unmade:
                make_pages(memory)
            self._unmade = []
        return batch if whole else None

    def _unfit(self, leaves: List[Any], rebuild: Any, count: int) -> str:
        tensor = self._torch.Tensor
        if rebuild is None or not leaves:
            return f"a batch of {type(self.dataset).__name__} holds more than tensors"
        for leaf in leaves:
            if type(leaf) is not tensor or leaf.device.type != "cpu" or leaf.requires_grad:
                return "a batch holds tensors that are not plain CPU tensors"
            if leaf.layout is not self._torch.strided or not leaf.ndim or leaf.shape[0] != count:
                return "a batch's first dimension does not count its samples"
        if self._dtypes and [(x.dtype, tuple(x.shape[1:])) for x in leaves] != self._dtypes:
            return "samples differ in shape or type"
        return ""

    def _allocate(self, leaves: List[Any]) -> str:
        self._dtypes = [(leaf.dtype, tuple(leaf.shape[1:])) for leaf in leaves]
        sizes = [self._length * (x.numel() // x.shape[0]) * x.element_size() for x in leaves]
        self.size_bytes = sum(sizes)
        likes = [_array(self._torch, leaf) for leaf in leaves]
        shapes = [(self._length, *leaf.shape[1:]) for leaf in leaves]
        self.on_disk = self._open_kept(shapes, likes)
        if not self.on_disk:
            in_ram = self._folder is None and self._room(self.size_bytes)
            free = shutil.disk_usage(self._scratch()).free
            self.on_disk = not in_ram
            if not in_ram and free < 1.2 * self.size_bytes:
                return f"{self.size_bytes / 1e9:.1f} GB fit neither the RAM share nor the disk"
            try:
                for number, (shape, like) in enumerate(zip(shapes, likes)):
                    self._fields.append(self._new_field(number, shape, like.dtype, in_ram))
            except OSError as error:  # another store, or another rank, was given the same room
                self._fields = []
                return f"{self.size_bytes / 1e9:.1f} GB could not be kept: {error.strerror}"
        self._take = [
            (field, shape, dtype) for field, (dtype, shape) in zip(self._fields, self._dtypes)
        ]
        if self._compare_first and self._missing < self._length and not self._is_still_true():
            shutil.rmtree(self._folder or "", ignore_errors=True)
            self._fields, self._missing = [], self._length
            self._present[:] = False
            self._say_dropped("what an earlier run kept is not this data: it is made anew")
            return self._allocate(leaves)
        return ""

    def _scratch(self) -> str:
        """Where fields are written that do not lie in RAM."""
        if self._folder is None:
            return tempfile.gettempdir()
        os.makedirs(self._partial(), mode=0o700, exist_ok=True)
        return self._partial()

    def _partial(self) -> str:
        return f"{self._folder}.part-{os.getpid()}-{id(self):x}"

    def _open_kept(self, shapes: List[Any], likes: List[Any]) -> bool:
        """Map what an earlier run has left, if it has these fields whole; writes stay private."""
        about = reuse.read_about(self._folder) if self._folder is not None else None
        if self._folder is None or about is None or about.get("fields") != self._outline():
            return False
        numpy = self._numpy
        try:
            present = numpy.load(os.path.join(self._folder, "present.npy"))
            fields = [
                numpy.memmap(self._path(self._folder, n), dtype=x.dtype, mode="c", shape=shape)
                for n, (shape, x) in enumerate(zip(shapes, likes))
            ]
        except (OSError, ValueError):
            return False  # cut short
        if present.shape != self._present.shape:
            return False
        os.utime(self._folder)
        self._fields, self._present = fields, present
        self._missing = self._length - int(present.sum())
        return True

    def _is_still_true(self) -> bool:
        """Whether samples of the store, drawn afresh at random places, are what it holds."""
        stored = self._numpy.flatnonzero(self._present)
        choice = random.Random()  # of our own: no random stream of the script moves
        rows = [int(stored[choice.randrange(len(stored))]) for _ in range(self._compare_first)]
        return all(map(self._is_as_drawn, rows))

    def _is_as_drawn(self, row: int) -> bool:
        fetcher, plain = self._fetch
        drawn: List[Any] = []
        streams = Watched(self._torch)
        _take_apart(plain(fetcher, [row]), drawn)
        streams.put_back()
        kept: List[Any] = []
        _take_apart(self._gather(self._numpy.array([row])), kept)
        self.audited += 1
        return [bytes_of(x) for x in drawn] == [bytes_of(x) for x in kept]

    def _outline(self) -> List[Any]:
        return [[str(dtype), list(shape)] for dtype, shape in self._dtypes]

    @staticmethod
    def _path(folder: str, number: int) -> str:
        return os.path.join(folder, f"field-{number}")

    def _new_field(self, number: int, shape: Tuple[int, ...], dtype: Any, in_ram: bool) -> Any:
        numpy = self._numpy
        if in_ram:
            field, memory = new_array(numpy, shape, dtype)
            self._unmade += [memory] if memory is not None else []
            return field
        size = math.prod(shape) * dtype.itemsize
        name = None if self._folder is None else self._path(self._partial(), number)
        with tempfile.TemporaryFile() if name is None else open(name, "w+b") as file:
            # A file of holes would end the script by SIGBUS once the disk is full.
            os.posix_fallocate(file.fileno(), 0, size)
            return numpy.memmap(file, dtype=dtype, mode="r+", shape=shape)

    def save(self) -> None:
        """Leave the samples to later runs where they have a folder; whole or not at all."""
        if self._folder is None or not os.path.isdir(self._partial()):
            return
        if self.dropped or not self._fields:
            shutil.rmtree(self._partial(), ignore_errors=True)
            return
        for field in self._fields:
            field.flush()
        self._numpy.save(os.path.join(self._partial(), "present.npy"), self._present)
        count = int(self._present.sum())
        about = {"samples": count, "bytes": self.size_bytes, "fields": self._outline()}
        reuse.publish(self._partial(), self._folder, about)

    def totals(self) -> Totals:
        """What it has done so far."""
        done = (self.served, self.drawn, self.served_batches)
        return Totals(*done, size_bytes=self.size_bytes, dropped=self.dropped)

    def audit(self, count: int) -> None:
        """Draw `count` stored samples afresh and compare; a difference drops the store."""
        if self._fetch is None or self._missing == self._length:
            return
        stored = self._numpy.flatnonzero(self._present) if self._missing else None
        for _ in range(count):
            # A walk by a large prime: no random stream of the script is touched.
            self._probe = (self._probe + 7_368_787) % self._length
            row = self._probe if stored is None else int(stored[self._probe % len(stored)])
            as_drawn = self._is_as_drawn(row)
            if self.dropped:
                return
            if not as_drawn:
                self.drop(f"sample {row} drawn afresh differs from the stored one")
                return

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
        if not self.dropped:
            self.dropped = True
            self._fields, self._take, self._unmade = [], [], []
            self._spares = Spares(self._torch, self._room)
            self._say_dropped(reason)


def _array(torch: Any, tensor: Any) -> Any:
    """A numpy view of a CPU tensor; of the same width where numpy lacks its type."""
    if tensor.dtype in (torch.bfloat16,):
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def _take_apart(batch: Any, leaves: List[Any]) -> Any:
    """Append the tensors of a batch to `leaves`; gives what puts such leaves together again.

    None where the batch holds anything but tensors in lists, tuples and dicts.
    """
    if hasattr(batch, "element_size"):
        place = len(leaves)
        leaves.append(batch)
        return lambda fresh: fresh[place]
    if type(batch) is dict:
        parts = {key: _take_apart(value, leaves) for key, value in batch.items()}
        if None in parts.values():
            return None
        return lambda fresh: {key: part(fresh) for key, part in parts.items()}
    if isinstance(batch, (list, tuple)):
        items = [_take_apart(value, leaves) for value in batch]
        if None in items:
            return None
        if hasattr(batch, "_fields"):
            cls = type(batch)
            return lambda fresh: cls(*(item(fresh) for item in items))
        if type(batch) is list:
            return lambda fresh: [item(fresh) for item in items]
        if type(batch) is tuple:
            return lambda fresh: tuple(item(fresh) for item in items)
    return None
