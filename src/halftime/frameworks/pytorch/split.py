"""Pipelines of transforms, split at their first random step: what comes before is kept.

A dataset whose samples are random cannot be stored. Where the randomness lies in a pipeline of
transforms (a Compose, as torchvision's), what its first steps make of a sample is the same each
time: it is kept by index, and the random steps run anew, on the numbers that they would have drawn.
JPEG files are decoded once. So the batches are the same, bit for bit.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ...agent.patches import Patches
from .decoded import Decoded
from .determinism import (
    DRAWS,
    own_generator,
    probe_places,
    random_states,
    reachable,
    restore,
    same,
    what_moved,
)

_AUDIT_EVERY = 1000


class Split:
    """One dataset, drawn through pipelines whose first steps are kept by sample."""

    def __init__(
        self,
        torch: Any,
        dataset: Any,
        room: Callable[[int], bool],
        dropped: Callable[[str], None],
        patches: Patches,
    ) -> None:
        self.dataset = dataset
        self.dropped = False
        self.served = self.served_batches = self.drawn = self.audited = self.size_bytes = 0
        self._torch = torch
        self._say_dropped = dropped
        self._kept: Dict[Tuple[int, int, int], Tuple[Any, Any]] = {}
        """By pipeline, index and turn: the look of what the pipeline was given, and the result."""
        self._steps: Dict[int, int] = {}
        """How many first steps of a pipeline are kept, by its id."""
        self._index: Optional[int] = None
        self._turns: Dict[int, int] = {}
        self._captured: Optional[List[Tuple[int, Any]]] = None
        self._until_audit = _AUDIT_EVERY

        def taken(size: int) -> bool:
            fits = room(size)
            self.size_bytes += size if fits else 0
            return fits

        self._room = taken
        self._decoded = Decoded(taken)
        self._pipelines = list(_pipelines(dataset))
        for cls in {type(pipeline) for pipeline in self._pipelines}:
            patches.replace(cls, "__call__", self._intercepted)
        self._decoded.install(patches)

    def probe(self) -> str:
        """Find what may be kept; gives why nothing may, else ''. Draws 128 samples.

        The random streams are put back: what the script draws afterwards is not moved.
        """
        if hasattr(self.dataset, "__getitems__"):
            return "it draws several samples at a time (__getitems__)"
        if own_generator(self.dataset) is not None:
            return "it holds a random generator of its own, which cannot be put back"
        before = random_states(self._torch)
        try:
            return self._probe()
        finally:
            restore(self._torch, before)
            self.drawn = 0

    def describe(self) -> str:
        """What is kept, in words."""
        words = []
        for pipeline in self._pipelines:
            kept = self._steps.get(id(pipeline), 0)
            if kept:
                words.append(f"{kept} of {len(pipeline.transforms)} steps of a Compose")
        if self._decoded.decoded:
            words.append("decoded JPEG files")
        return " and ".join(words)

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The batch of these indices: the dataset's own samples, drawn through the split."""
        drawn = self.drawn
        rows = index.tolist() if hasattr(index, "tolist") else index
        items = [self._draw(row) for row in rows]
        self.served += max(len(items) - (self.drawn - drawn), 0)
        self.served_batches += self.drawn == drawn
        return fetcher.collate_fn(items)

    def audit(self, count: int) -> None:
        """Nothing at the start of a pass: what a pipeline is given is looked at each time."""

    def save(self) -> None:
        """Nothing is left to later runs."""

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
        if not self.dropped:
            self.dropped = True
            self._kept.clear()
            self._steps.clear()
            self._say_dropped(reason)

    def _draw(self, row: Any) -> Any:
        """The dataset's own sample; what it decodes and transforms meanwhile may come from us."""
        self._index, self._decoded.drawing = row, True
        self._turns.clear()
        decoded = self._decoded.decoded
        try:
            return self.dataset[row]
        finally:
            self._index, self._decoded.drawing = None, False
            self.drawn += self._decoded.decoded > decoded and not self._steps

    def _intercepted(self, original: Any) -> Any:
        def __call__(pipeline: Any, *args: Any, **named: Any) -> Any:
            if self._index is None or len(args) != 1 or named:
                return original(pipeline, *args, **named)
            if self._captured is not None:
                self._captured.append((id(pipeline), copy_of_value(args[0])))
            steps = self._steps.get(id(pipeline), 0)
            return self._through(pipeline, steps, args[0]) if steps else original(pipeline, *args)

        return __call__

    def _through(self, pipeline: Any, steps: int, given: Any) -> Any:
        """What the pipeline makes of `given`: its first steps from memory, the rest anew."""
        turn = self._turns[id(pipeline)] = self._turns.get(id(pipeline), -1) + 1
        key = (id(pipeline), int(self._index or 0), turn)
        first, rest = pipeline.transforms[:steps], pipeline.transforms[steps:]
        look, known = _look_of(given), self._kept.get(key)
        if known is None or known[0] != look:
            result = _run(first, given)
            self.drawn += 1
            size = bytes_of_value(result)
            if known is None and size is not None and self._room(size):
                self._kept[key] = (look, copy_of_value(result))
            return _run(rest, result)
        result = copy_of_value(known[1])
        self._until_audit -= 1
        if self._until_audit <= 0:
            self._until_audit = _AUDIT_EVERY
            self.audited += 1
            fresh = _run(first, given)
            if not same(self._torch, fresh, result):
                self.drop(f"sample {key[1]} drawn afresh differs from the kept one")
                result = fresh
        return _run(rest, result)

    def _probe(self) -> str:
        places = probe_places(len(self.dataset))
        first = [self._inputs_at(place) for place in places]
        no_file = "" if self._decoded.decoded else "it decodes no JPEG file"
        for _ in range(DRAWS - 1):
            for place, inputs in zip(places, first):
                if not self._same_inputs(inputs, self._inputs_at(place)):
                    return no_file and f"its transforms get another input, and {no_file}"
        for pipeline in self._pipelines:
            inputs = [given for drawn in first for owner, given in drawn if owner == id(pipeline)]
            steps = self._steps_before_random(pipeline, inputs) if inputs else 0
            if steps:
                self._steps[id(pipeline)] = steps
        if self._steps:
            return ""
        return no_file and f"no step comes before its first random one, and {no_file}"

    def _inputs_at(self, place: int) -> List[Tuple[int, Any]]:
        """What each pipeline is given while a sample is drawn."""
        captured: List[Tuple[int, Any]] = []
        self._captured = captured
        try:
            self._draw(place)
        finally:
            self._captured = None
        return captured

    def _same_inputs(self, one: List[Tuple[int, Any]], other: List[Tuple[int, Any]]) -> bool:
        return len(one) == len(other) and all(
            a[0] == b[0] and same(self._torch, a[1], b[1]) for a, b in zip(one, other)
        )

    def _steps_before_random(self, pipeline: Any, inputs: List[Any]) -> int:
        """How many first steps give the same each time and move no global random stream.

        Source: measurement.md §5: 8 samples, 16 draws each, without restoring in between.
        """
        for number, step in enumerate(pipeline.transforms):
            if type(step).__name__.startswith("Random") or own_generator(step) is not None:
                return number
            before = random_states(self._torch)
            results = [step(copy_of_value(given)) for given in inputs]
            if any(bytes_of_value(result) is None for result in results):
                return number
            for _ in range(DRAWS - 1):
                for given, result in zip(inputs, results):
                    if not same(self._torch, step(copy_of_value(given)), result):
                        return number
            if what_moved(self._torch, before) is not None:
                return number
            inputs = results
        return len(pipeline.transforms)


def _pipelines(dataset: Any) -> Iterator[Any]:
    """The pipelines of transforms that a dataset can reach."""
    for found in reachable(dataset):
        steps = getattr(found, "transforms", None)
        if type(found).__name__ == "Compose" and isinstance(steps, (list, tuple)):
            yield found


def _run(steps: Any, value: Any) -> Any:
    for step in steps:
        value = step(value)
    return value


def _is_image(value: Any) -> bool:
    image = sys.modules.get("PIL.Image")
    return image is not None and isinstance(value, image.Image)


def copy_of_value(value: Any) -> Any:
    """A copy that nobody else holds, of an image, a tensor or an array; else the value itself."""
    if hasattr(value, "clone"):
        return value.clone()
    return value.copy() if _is_image(value) or hasattr(value, "nbytes") else value


def bytes_of_value(value: Any) -> Optional[int]:
    """The bytes that keeping a value takes; None for what cannot be kept."""
    if _is_image(value):
        width, height = value.size
        return int(width * height * max(len(value.getbands()), 1))
    if hasattr(value, "element_size"):
        return int(value.numel() * value.element_size())
    return int(value.nbytes) if hasattr(value, "nbytes") else None


def _look_of(value: Any) -> Any:
    """Enough of a value to notice that another one came under the same index."""
    if _is_image(value):
        width, height = value.size
        places = [(0, 0), (width // 2, height // 2), (width - 1, height - 1)]
        return value.mode, value.size, tuple(map(value.getpixel, places))
    if hasattr(value, "reshape") and getattr(value, "shape", None):
        flat = value.reshape(-1)
        return str(value.dtype), tuple(value.shape), flat[:: max(len(flat) // 8, 1)].tolist()
    return None
