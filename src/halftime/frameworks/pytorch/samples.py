"""Whole samples, kept as they were drawn, for a collate function of the script's own."""

from __future__ import annotations

import operator
from typing import Any, Callable, Dict, List, Optional

from .batches import ScriptsOwn, copy_of
from .determinism import AUDIT_EVERY, Watched, same
from .looks import PLAIN
from .shelf import Totals, bytes_of_value

_SMALL = 64


class Samples:
    """The samples of one deterministic dataset by index, of any shapes; each served as a copy."""

    is_shared = False
    outdated_by_change = True

    def __init__(
        self, torch: Any, dataset: Any, room: Callable[[int], bool], dropped: Callable[[str], None]
    ) -> None:
        self.dataset = dataset
        self.dropped = False
        self.served = self.served_batches = self.drawn = self.audited = self.size_bytes = 0
        self.scripts_own = ScriptsOwn()
        self._torch = torch
        self._room = room
        self._say_dropped = dropped
        self._kept: Dict[Any, Any] = {}
        self._until_audit = AUDIT_EVERY

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The script's own collation of samples that are kept, or drawn now."""
        keys = [_key_of(row) for row in index]
        absent = {key: row for key, row in zip(keys, index) if key not in self._kept}
        fresh: Dict[Any, Any] = {}
        if absent:
            streams = Watched(self._torch)
            with self.scripts_own:
                drawn = self._draw(list(absent.values()))
            moved, reason = streams.moved(), ""
            if type(drawn) is not list or len(drawn) != len(absent):
                reason = "the dataset gives batches that are ready, not samples"
            elif moved is not None:  # for a sample of a kind that the probe did not meet
                reason = f"drawing a sample moves the global random state of {moved}"
            if reason:
                streams.put_back()
                self.drop(reason)
                return None
            fresh = dict(zip(absent, drawn))
        items = [self._sample(key, fresh) for key in keys]
        if self.dropped:
            return None
        self.served += sum(key not in absent for key in keys)
        self.served_batches += not absent
        with self.scripts_own:
            return fetcher.collate_fn(items)

    def _draw(self, rows: List[Any]) -> Any:
        # What draws several samples at a time may not draw one.
        together = getattr(self.dataset, "__getitems__", None)
        return together(rows) if together is not None else [self.dataset[row] for row in rows]

    def _sample(self, key: Any, fresh: Dict[Any, Any]) -> Any:
        """A sample by its index. fresh: those that were drawn for this batch."""
        kept = self._kept.get(key)
        if kept is None:
            sample = fresh[key]
            self.drawn += 1
            size = bytes_of_sample(sample)
            if size is not None and self._room(size):
                self.size_bytes += size
                self._kept[key] = copy_of(sample)
            else:
                fresh[key] = copy_of(sample)  # the batch may hold it twice
            return sample
        self._until_audit -= 1
        if self._until_audit <= 0:
            self._until_audit = AUDIT_EVERY
            self.audit(1)
        return copy_of(kept)

    def totals(self) -> Totals:
        """What it has done so far."""
        done = (self.served, self.drawn, self.served_batches)
        return Totals(*done, size_bytes=self.size_bytes, dropped=self.dropped)

    def audit(self, count: int) -> None:
        """Draw `count` kept samples afresh and compare; a difference drops them all."""
        rows = list(self._kept)
        for _ in range(count if rows else 0):
            row = rows[self.audited % len(rows)]
            self.audited += 1
            streams = Watched(self._torch)
            fresh = self.dataset[row]
            streams.put_back()
            if not same(self._torch, fresh, self._kept[row]):
                self.drop(f"sample {row} drawn afresh differs from the kept one")
                return

    def save(self) -> None:
        """Nothing is left to later runs."""

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
        if not self.dropped:
            self.dropped = True
            self._kept.clear()
            self._say_dropped(reason)


def _key_of(row: Any) -> Any:
    """The index itself: where a sampler gives tensors or arrays of none, their number."""
    return operator.index(row) if hasattr(row, "__index__") else row


def bytes_of_sample(sample: Any) -> Optional[int]:
    """The bytes that keeping a sample takes; None where it holds what cannot be copied."""
    if type(sample) in PLAIN:
        return _SMALL + (len(sample) if isinstance(sample, (str, bytes)) else 0)
    if isinstance(sample, dict):
        parts = [bytes_of_sample(part) for part in sample.values()]
    elif type(sample) in (list, tuple) or hasattr(sample, "_fields"):
        parts = [bytes_of_sample(part) for part in sample]
    else:
        return bytes_of_value(sample)
    return None if None in parts else _SMALL + sum(part or 0 for part in parts)
