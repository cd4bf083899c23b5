"""Pipelines of transforms that a dataset can reach: a Compose, or a list of the script's own.

Each runs its first steps as one, where somebody says what that one is.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Optional, Protocol, Sequence

from ...agent.patches import Patches
from .determinism import is_library, reachable

_MOST_STEPS = 64
Step = Callable[[Any], Any]


class Pipeline(Protocol):
    """Steps of which each is given what the one before made; they are the script's to change."""

    kind: str

    @property
    def steps(self) -> Sequence[Step]:
        """The steps as they are now."""


Instead = Callable[[Pipeline], Optional[Sequence[Step]]]
"""Steps to be run in the place of a pipeline's own for the sample being drawn; None: its own."""


def pipelines_of(dataset: Any, instead: Instead, patches: Patches) -> List[Pipeline]:
    """The pipelines that a dataset can reach. From here on each asks what to run `instead`."""
    composed: Dict[int, Pipeline] = {}
    lists: List[Pipeline] = []
    for found in list(reachable(dataset)):
        if _is_compose(found):
            composed[id(found)] = _Composed(found)
        elif hasattr(found, "__dict__") and not is_library(type(found).__module__):
            lists += _lists_in(vars(found), instead)

    def intercepted(original: Any) -> Any:
        def __call__(self: Any, *args: Any, **named: Any) -> Any:
            pipeline = composed.get(id(self)) if len(args) == 1 and not named else None
            steps = instead(pipeline) if pipeline is not None else None
            if steps is None:
                return original(self, *args, **named)
            return run(steps, args[0])

        return __call__

    for cls in {type(pipeline.owner) for pipeline in composed.values()}:  # type: ignore[attr-defined]
        patches.replace(cls, "__call__", intercepted)
    return [*composed.values(), *lists]


def run(steps: Sequence[Step], value: Any) -> Any:
    """What the steps make of a value, one after the other."""
    for step in steps:
        value = step(value)
    return value


def _is_compose(found: Any) -> bool:
    steps = getattr(found, "transforms", None)
    return type(found).__name__ == "Compose" and isinstance(steps, (list, tuple))


def _lists_in(attributes: Dict[str, Any], instead: Instead) -> Iterator[Pipeline]:
    for name, value in list(attributes.items()):
        if type(value) is list and 1 < len(value) <= _MOST_STEPS and all(map(callable, value)):
            attributes[name] = steps = _Steps(value)
            steps.instead = instead
            yield _Listed(steps)


class _Composed:
    kind = "Compose"

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @property
    def steps(self) -> Sequence[Step]:
        return self.owner.transforms  # type: ignore[no-any-return]


class _Listed:
    kind = "list"

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps
        steps.pipeline = self

    @property
    def steps(self) -> Sequence[Step]:
        return list.__getitem__(self._steps, slice(None))


class _Steps(List[Any]):
    """A script's list of transforms: whoever goes through it may be given others for the sample.

    In every other way, copies and pickles too, it is the list.
    """

    __module__ = "builtins"  # what it holds is the script's, and found there
    instead: Optional[Instead] = None
    pipeline: Optional[Pipeline] = None

    def __iter__(self) -> Iterator[Any]:
        others = self.instead(self.pipeline) if self.instead and self.pipeline else None
        return list.__iter__(self) if others is None else iter(others)

    def __reduce__(self) -> Any:
        return list, (list.__getitem__(self, slice(None)),)
