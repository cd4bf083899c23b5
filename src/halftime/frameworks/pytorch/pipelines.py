"""Pipelines of transforms that a dataset can reach: objects of a class Compose, as torchvision's.

A plain list that a script goes through by itself is left alone: what stood in its place would be
seen by the script, and edits of the list would miss it.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Set

from ...agent.patches import Patches
from .determinism import reachable

Step = Callable[[Any], Any]
Instead = Callable[[Any], Optional[Sequence[Step]]]
"""Steps to be run in the place of a pipeline's own for the sample being drawn; None: its own."""


class Pipelines:
    """Stands before the pipelines that somebody has something to run `instead` for."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._instead: Dict[int, Instead] = {}
        self._classes: Set[type] = set()

    def intercept(self, dataset: Any, instead: Instead) -> List[Any]:
        """The pipelines of a dataset: from here on each asks what to run, until released."""
        found = [owner for owner in reachable(dataset) if _is_pipeline(owner)]
        for pipeline in found:
            self._instead[id(pipeline)] = instead
            if type(pipeline) not in self._classes:
                self._classes.add(type(pipeline))
                self._patches.replace(type(pipeline), "__call__", self._intercepted)
        return found

    def release(self, pipelines: Sequence[Any]) -> None:
        """Leave them to themselves again."""
        for pipeline in pipelines:
            self._instead.pop(id(pipeline), None)

    def _intercepted(self, original: Any) -> Any:
        def __call__(pipeline: Any, *args: Any, **named: Any) -> Any:
            instead = self._instead.get(id(pipeline))
            steps = instead(pipeline) if instead and len(args) == 1 and not named else None
            if steps is None:
                return original(pipeline, *args, **named)
            return run(steps, args[0])

        return __call__


def run(steps: Sequence[Step], value: Any) -> Any:
    """What the steps make of a value, one after the other."""
    for step in steps:
        value = step(value)
    return value


def _is_pipeline(found: Any) -> bool:
    steps = getattr(found, "transforms", None)
    return type(found).__name__ == "Compose" and isinstance(steps, (list, tuple))
