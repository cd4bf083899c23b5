"""What is kept of one dataset, and what the dataset held when it was opened."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Optional, Protocol

from .batches import ScriptsOwn
from .determinism import contents_of
from .shelf import Totals


class Known:
    """What is kept of a dataset that was met; one thread draws at a time."""

    def __init__(self, kept: Optional[Kept], before: Optional[Dict[int, int]] = None) -> None:
        """before: the contents of the dataset before any of its samples was drawn."""
        self.kept = kept
        self.drawing = threading.RLock()
        self._contents = None if kept is None else contents_of(kept.dataset)
        first = before or {}
        # What a sample changes as it is drawn, as a cache of the dataset's own, is its business.
        self._its_own = {
            key for key, now in (self._contents or {}).items() if first.get(key) != now
        }

    def looks_unchanged(self) -> bool:
        """Whether the dataset holds what it held when this was asked last, at a pass' border."""
        assert self.kept is not None, "of a dataset that is kept"
        before, self._contents = self._contents or {}, contents_of(self.kept.dataset)
        return all(
            self._contents.get(key, digest) == digest
            for key, digest in before.items()
            if key not in self._its_own
        )


class Kept(Protocol):
    """What is kept of one dataset, and serves its batches."""

    dataset: Any
    audited: int
    scripts_own: ScriptsOwn
    is_shared: bool
    """Whether the workers that this process forks share it."""

    @property
    def dropped(self) -> bool:
        """Whether it serves nothing any more."""

    @property
    def outdated_by_change(self) -> bool:
        """Whether a change of the dataset may outdate what is kept."""

    def totals(self) -> Totals:
        """What it has done so far."""

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The batch of these indices; None where it cannot be served."""

    def audit(self, count: int) -> None:
        """Draw `count` samples afresh and compare; a difference drops what is kept."""

    def save(self) -> None:
        """Leave it to later runs of the study, where it has a folder."""

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
