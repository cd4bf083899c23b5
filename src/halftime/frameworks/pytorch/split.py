"""Pipelines of transforms, split at their first random step: what comes before is kept.

A dataset whose samples are random cannot be stored. Where the randomness lies in a pipeline of
transforms (a Compose, as torchvision's), what its first steps make of a sample is the same each
time: it is kept by index, and the random steps run anew, on the numbers that they would have drawn.
JPEG images are decoded once. So the batches are the same, bit for bit.
"""

from __future__ import annotations

import operator
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from ...agent.patches import Patches
from . import decoded
from .batches import copy_of
from .determinism import (
    AUDIT_EVERY,
    DRAWS,
    own_generator,
    probe_places,
    random_states,
    reachable,
    restore,
    same,
    what_moved,
)
from .shelf import Shelf, Totals, bytes_of_value, is_image, look_of

_MOST_TURNS = 4
"""How often a sample may pass the same pipeline and be kept each time."""


class Split:
    """One dataset, drawn through pipelines whose first steps are kept by sample."""

    def __init__(
        self,
        torch: Any,
        dataset: Any,
        make_shelf: Callable[[int], Shelf],
        dropped: Callable[[str], None],
        patches: Patches,
    ) -> None:
        """make_shelf: a shelf with that many slots."""
        self.dataset = dataset
        self.audited = 0
        self._torch = torch
        self._say_dropped = dropped
        self._length = len(dataset)
        self._pipelines = list(_pipelines(dataset))
        kinds = 1 + len(self._pipelines)
        self._kinds = {id(pipeline): kind for kind, pipeline in enumerate(self._pipelines, 1)}
        self._shelf = make_shelf(kinds * _MOST_TURNS * self._length)
        self._steps: Dict[int, int] = {}
        """How many first steps of a pipeline are kept, by its id."""
        self._index: Any = None
        self._turns: Dict[int, int] = {}
        self._hits = self._misses = 0
        self._captured: Optional[List[Tuple[int, Any]]] = None
        self._decodes = False
        self._until_audit = AUDIT_EVERY
        for cls in {type(pipeline) for pipeline in self._pipelines}:
            patches.replace(cls, "__call__", self._intercepted)
        decoded.install(self._shelf, self._slots_of_file, self._decoding, patches)

    def totals(self) -> Totals:
        """What it has done so far, in all processes that share it."""
        return self._shelf.totals()

    @property
    def dropped(self) -> bool:
        """Whether it serves nothing any more."""
        return self._shelf.totals().dropped

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

    def describe(self) -> str:
        """What is kept, in words."""
        words = []
        for pipeline in self._pipelines:
            kept = self._steps.get(id(pipeline), 0)
            if kept:
                words.append(f"{kept} of {len(pipeline.transforms)} steps of a Compose")
        if self._decodes:
            words.append("decoded images")
        return " and ".join(words)

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The batch of these indices: the dataset's own samples, drawn through the split."""
        rows = index.tolist() if hasattr(index, "tolist") else index
        items, served = [], 0
        for row in rows:
            items.append(self._draw(row))
            served += self._hits > 0 and not self._misses
        self._shelf.count(served, len(items) - served)
        return fetcher.collate_fn(items)

    def audit(self, count: int) -> None:
        """Nothing at the start of a pass: what a pipeline is given is looked at each time."""

    def save(self) -> None:
        """Nothing is left to later runs."""

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
        if not self.dropped:
            self._shelf.drop()
            self._steps.clear()
            self._say_dropped(reason)

    def _draw(self, row: Any) -> Any:
        """The dataset's own sample; what it decodes and transforms meanwhile may come from us."""
        self._index = row
        self._turns.clear()
        self._hits = self._misses = 0
        try:
            return self.dataset[row]
        finally:
            self._index = None

    def _slot(self, kind: int) -> Optional[int]:
        """Where on the shelf the next of this kind lies for the sample that is being drawn."""
        turn = self._turns.get(kind, 0)
        try:
            index = operator.index(self._index)
        except TypeError:
            return None  # no sample is being drawn, or its key is no number
        if not 0 <= index < self._length or turn >= _MOST_TURNS:
            return None
        self._turns[kind] = turn + 1
        return (kind * _MOST_TURNS + turn) * self._length + index

    def _slots_of_file(self, look: int) -> Sequence[int]:
        """Where on the shelf a decoded file may lie: by its look, or just behind another's."""
        if self._index is None:
            return ()
        slots = _MOST_TURNS * self._length
        return [(look + behind) % slots for behind in range(_MOST_TURNS)]

    def _decoding(self, was_kept: bool) -> None:
        self._decodes = True
        self._hits += was_kept
        self._misses += not was_kept

    def _intercepted(self, original: Any) -> Any:
        def __call__(pipeline: Any, *args: Any, **named: Any) -> Any:
            if self._index is None or len(args) != 1 or named:
                return original(pipeline, *args, **named)
            if self._captured is not None:
                self._captured.append((id(pipeline), copy_of(args[0])))
            steps = self._steps.get(id(pipeline), 0)
            return self._through(pipeline, steps, args[0]) if steps else original(pipeline, *args)

        return __call__

    def _through(self, pipeline: Any, steps: int, given: Any) -> Any:
        """What the pipeline makes of `given`: its first steps from the shelf, the rest anew."""
        slot = self._slot(self._kinds[id(pipeline)])
        first, rest = pipeline.transforms[:steps], pipeline.transforms[steps:]
        if slot is None:
            return _run(rest, _run(first, given))
        look = _look_of(given)
        kept = self._shelf.get(slot, look)
        if kept is None:
            self._misses += 1
            kept = _run(first, given)
            self._shelf.put(slot, look, kept)
            return _run(rest, kept)
        self._hits += 1
        self._until_audit -= 1
        if self._until_audit <= 0:
            self._until_audit = AUDIT_EVERY
            self.audited += 1
            fresh = _run(first, given)
            if not same(self._torch, fresh, kept):
                self.drop(f"sample {self._index} drawn afresh differs from the kept one")
                kept = fresh
        return _run(rest, kept)

    def _probe(self) -> str:
        places = probe_places(self._length)
        first = [self._inputs_at(place) for place in places]
        no_file = "" if self._decodes else "it decodes no JPEG file"
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
            results = [step(copy_of(given)) for given in inputs]
            if any(bytes_of_value(result) is None for result in results):
                return number
            for _ in range(DRAWS - 1):
                for given, result in zip(inputs, results):
                    if not same(self._torch, step(copy_of(given)), result):
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


def _look_of(value: Any) -> int:
    """A checksum of enough of a value to notice that another one came under the same index."""
    look: Any = type(value).__name__
    if is_image(value):
        width, height = value.size
        places = [(0, 0), (width // 2, height // 2), (width - 1, height - 1)]
        look = value.mode, value.size, tuple(map(value.getpixel, places))
    elif hasattr(value, "reshape") and getattr(value, "shape", None):
        flat = value.reshape(-1)
        look = str(value.dtype), tuple(value.shape), flat[:: max(len(flat) // 8, 1)].tolist()
    return look_of(repr(look).encode())
