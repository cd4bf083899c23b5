"""Pipelines of transforms that a dataset can reach: objects of a class Compose, as torchvision's.

A plain list that a script goes through by itself is left alone: what stood in its place would be
seen by the script, and edits of the list would miss it.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

from ...agent.patches import Patches
from .determinism import reachable

Step = Callable[[Any], Any]
Instead = Callable[[Any], Optional[Sequence[Step]]]
"""Steps to be run in the place of a pipeline's own for the sample being drawn; None: its own."""


def pipelines_of(dataset: Any, instead: Instead, patches: Patches) -> List[Any]:
    """The pipelines that a dataset can reach. From here on each asks what to run `instead`."""
    found = {id(owner): owner for owner in reachable(dataset) if _is_pipeline(owner)}
    _intercept(found, instead, patches)
    return list(found.values())


def run(steps: Sequence[Step], value: Any) -> Any:
    """What the steps make of a value, one after the other."""
    for step in steps:
        value = step(value)
    return value


def _is_pipeline(found: Any) -> bool:
    steps = getattr(found, "transforms", None)
    return type(found).__name__ == "Compose" and isinstance(steps, (list, tuple))


def _intercept(pipelines: Dict[int, Any], instead: Instead, patches: Patches) -> None:
    def intercepted(original: Any) -> Any:
        def __call__(self: Any, *args: Any, **named: Any) -> Any:
            ours = len(args) == 1 and not named and id(self) in pipelines
            steps = instead(self) if ours else None
            return original(self, *args, **named) if steps is None else run(steps, args[0])

        return __call__

    for cls in {type(pipeline) for pipeline in pipelines.values()}:
        patches.replace(cls, "__call__", intercepted)
