"""TensorFlow's own counters of op seeds, to build an op anew as if it were built before."""

from __future__ import annotations

import importlib
import random
from contextlib import contextmanager
from typing import Any, Iterator

EAGER_CONTEXT = "tensorflow.python.eager.context"
"""The module that keeps them; it is loaded with TensorFlow."""


class OpSeeds:
    """What the seed of the next op without one is drawn from."""

    def __init__(self) -> None:
        self._context = importlib.import_module(EAGER_CONTEXT).context()

    def now(self) -> Any:
        """The counters as they stand."""
        numbers = getattr(self._context, "_rng", None)  # there is none before a global seed is set
        return self._context._seed, numbers.getstate() if numbers is not None else None

    def put_back(self, seeds: Any) -> None:
        """Let the counters stand where they stood."""
        seed, state = seeds
        if state is not None and self._context._seed == seed:
            self._context._rng.setstate(state)

    @contextmanager
    def under(self, seeds: Any) -> Iterator[None]:
        """Build as if the counters stood at `seeds`; afterwards they go on from where they are."""
        seed, state = seeds
        if state is None:
            yield
            return
        now = self._context._seed, self._context._rng
        self._context._seed = seed
        self._context._rng = random.Random()
        self._context._rng.setstate(state)
        try:
            yield
        finally:
            self._context._seed, self._context._rng = now
