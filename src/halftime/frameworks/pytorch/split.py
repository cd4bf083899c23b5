"""Pipelines of transforms, split at their first random step: what comes before is kept.

A dataset whose samples are random cannot be stored. Where the randomness lies in a pipeline of
transforms (a Compose, as torchvision's), what its first steps make of a sample is the same each
time: it is kept by index, and the random steps run anew, on the numbers that they would have drawn.
Image files are decoded once. So the batches are the same, bit for bit. Of a dataset that draws
several samples at a time, or has a random generator of its own, image files alone are kept.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .batches import ScriptsOwn, copy_of
from .decoded import Readers
from .determinism import (
    AUDIT_EVERY,
    DRAWS,
    Watched,
    generator_made_late,
    own_generator,
    probe_places,
    random_states,
    restore,
    same,
    what_moved,
)
from .looks import look_of_value
from .pipelines import Pipelines, Step, run
from .shelf import Shelf, Totals, bytes_of_value

_MOST_TURNS = 4
"""How often a sample may pass the same pipeline and be kept each time."""
_NO_FILE = "it decodes no image file that can be kept"


class Cut(NamedTuple):
    """A pipeline's steps as they were when it was cut, and how many of them are kept."""

    steps: Tuple[Any, ...]
    kept: int


class Split:
    """One dataset, drawn through pipelines whose first steps are kept by sample."""

    def __init__(
        self,
        torch: Any,
        dataset: Any,
        make_shelf: Callable[[int], Shelf],
        dropped: Callable[[str], None],
        pipelines: Pipelines,
        readers: Readers,
    ) -> None:
        """make_shelf: a shelf with that many slots."""
        self.dataset = dataset
        self.audited = 0
        self.scripts_own = ScriptsOwn()
        self._torch = torch
        self._readers = readers
        self._say_dropped = dropped
        self._length = len(dataset)
        self._stands_before = pipelines
        self._pipelines = pipelines.intercept(dataset, self._instead)
        kinds = 1 + len(self._pipelines)
        self._kinds = {id(pipeline): kind for kind, pipeline in enumerate(self._pipelines, 1)}
        self._shelf = make_shelf(kinds * _MOST_TURNS * self._length)
        self.is_shared = self._shelf.is_shared
        self._cuts: Dict[int, Cut] = {}
        """By the id of a pipeline."""
        self._index: Any = None
        self._turns: Dict[int, int] = {}
        self._hits = self._misses = 0
        self._captured: Optional[List[Tuple[int, Any]]] = None
        self._decodes = False
        self._draws_together = hasattr(dataset, "__getitems__")
        self._doubt = ""
        """Why nothing but image files is kept."""
        self._until_audit = 1

    @property
    def outdated_by_change(self) -> bool:
        """Whether a change of the dataset may outdate what is kept; decoded files it may not."""
        return bool(self._cuts)

    def totals(self) -> Totals:
        """What it has done so far, in all processes that share it."""
        return self._shelf.totals()

    @property
    def dropped(self) -> bool:
        """Whether it serves nothing any more."""
        return self._shelf.totals().dropped

    def probe(self, may_move: bool = False) -> str:
        """Find what may be kept; gives why nothing may, else ''. Draws some 150 samples.

        The global random streams are put back: what the script draws afterwards is not moved. A
        generator of the dataset's own cannot be: it is drawn from only where it `may_move`.
        """
        before = random_states(self._torch)
        try:
            owner = own_generator(self.dataset) or generator_made_late(self.dataset)
            if owner is not None:
                self._doubt = f"it holds a random generator of its own ({owner})"
            elif self._draws_together:
                self._doubt = "it draws several samples at a time"
            if owner is not None and not may_move:
                return ""  # the first batch will show whether it decodes image files
            if not self._doubt:
                return self._probe()
            self._draw_all(probe_places(self._length))
            return "" if self._decodes else f"{self._doubt}, and {_NO_FILE}"
        finally:
            restore(self._torch, before)

    def found(self) -> Tuple[str, bool, List[int]]:
        """What a probe found: why files alone are kept, whether there are any, steps kept."""
        cuts = [self._cuts.get(id(pipeline)) for pipeline in self._pipelines]
        return self._doubt, self._decodes, [cut.kept if cut else 0 for cut in cuts]

    def adopt(self, found: Tuple[str, bool, List[int]]) -> None:
        """Take over what the probe of a fork of this process found."""
        self._doubt, self._decodes, kept = found
        self._cuts = {
            id(pipeline): Cut(tuple(pipeline.transforms), count)
            for pipeline, count in zip(self._pipelines, kept)
            if count
        }

    def leave(self) -> None:
        """Stand before nothing any more: it is not used."""
        self._stands_before.release(self._pipelines)

    def describe(self) -> str:
        """What is kept, in words."""
        words = []
        for pipeline in self._pipelines:
            cut = self._cuts.get(id(pipeline))
            if cut is not None:
                words.append(f"{cut.kept} of {len(cut.steps)} steps of a Compose")
        if self._decodes:
            words.append("decoded images")
        return " and ".join(words)

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The batch of these indices: the dataset's own samples, drawn through the split."""
        with self.scripts_own:
            items, served = self._draw_all(index)
        if self._doubt and not self._decodes:
            self.drop(f"{self._doubt}, and {_NO_FILE}")
        self._shelf.count(served, len(index) - served)
        with self.scripts_own:
            return fetcher.collate_fn(items)

    def audit(self, count: int) -> None:
        """At the start of a pass: the next sample that is kept is drawn afresh, and compared."""
        self._until_audit = 1

    def save(self) -> None:
        """Nothing is left to later runs."""

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
        if not self.dropped:
            self._shelf.drop()
            self._cuts.clear()
            self._say_dropped(reason)

    def find(self, look: int) -> Optional[Any]:
        """What was made of the file of that look."""
        self._decodes = True
        found = (self._from_shelf(slot, look) for slot in self._slots_of_file(look))
        kept = next((pixels for pixels in found if pixels is not None), None)
        self._hits += kept is not None
        self._misses += kept is None
        return kept

    def keep(self, look: int, pixels: Any) -> None:
        """Keep what was made of a file."""
        any(self._to_shelf(slot, look, pixels) for slot in self._slots_of_file(look))

    def _from_shelf(self, slot: int, look: int) -> Optional[Any]:
        """Called from within the script's own code, where no error of ours may arise."""
        try:
            return self._shelf.get(slot, look)
        except Exception as error:
            self.drop(f"{type(error).__name__}: {error}")
            return None

    def _to_shelf(self, slot: int, look: int, value: Any) -> bool:
        try:
            return self._shelf.put(slot, look, value)
        except Exception as error:
            self.drop(f"{type(error).__name__}: {error}")
            return False

    def _slots_of_file(self, look: int) -> Sequence[int]:
        """Where on the shelf a decoded file may lie: by its look, or just behind another's."""
        slots = _MOST_TURNS * self._length
        return [(look + behind) % slots for behind in range(_MOST_TURNS)]

    def _draw_all(self, rows: Any) -> Tuple[Any, int]:
        """The dataset's own samples, and how many had nothing that was decoded or made anew."""
        if self._draws_together:
            self._hits = self._misses = 0
            with self._readers.keeping(self):
                items = self.dataset.__getitems__(rows)
            return items, max(len(rows) - self._misses, 0) if self._hits else 0
        items, served = [], 0
        for row in rows:
            items.append(self._draw(row))
            served += self._hits > 0 and not self._misses
        return items, served

    def _draw(self, row: Any) -> Any:
        """The dataset's own sample; what it decodes and transforms meanwhile may come from us."""
        self._index = row
        self._turns.clear()
        self._hits = self._misses = 0
        try:
            with self._readers.keeping(self):
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

    def _instead(self, pipeline: Any) -> Optional[Sequence[Step]]:
        """What a pipeline runs for the sample being drawn: its first steps as one, from us."""
        if self._index is None:
            return None
        if self._captured is not None:
            return [functools.partial(self._note, id(pipeline)), *pipeline.transforms]
        cut = self._cuts.get(id(pipeline))
        if cut is None:
            return None
        if not _same_objects(cut.steps, pipeline.transforms):
            self.drop("the steps of a Compose were changed after the store was opened")
            return None
        return [functools.partial(self._first, pipeline, cut), *cut.steps[cut.kept :]]

    def _note(self, pipeline: int, given: Any) -> Any:
        if self._captured is not None:
            self._captured.append((pipeline, copy_of(given)))
        return given

    def _first(self, pipeline: Any, cut: Cut, given: Any) -> Any:
        """What the first steps make of `given`: from the shelf, or anew."""
        first = cut.steps[: cut.kept]
        slot, look = self._slot(self._kinds[id(pipeline)]), look_of_value(given)
        if slot is None or look is None:
            return run(first, given)
        kept = self._from_shelf(slot, look)
        if kept is None:
            self._misses += 1
            streams = Watched(self._torch)
            kept = run(first, given)
            moved = streams.moved()
            if moved is None:
                self._to_shelf(slot, look, kept)
            else:  # for a sample of a kind that the probe did not meet
                self.drop(f"a step moved the global random state of {moved}")
            return kept
        self._hits += 1
        self._until_audit -= 1
        if self._until_audit <= 0:
            self._until_audit = AUDIT_EVERY
            self.audited += 1
            fresh = run(first, given)
            if not same(self._torch, fresh, kept):
                self.drop(f"sample {self._index} drawn afresh differs from the kept one")
                return fresh
        return kept

    def _probe(self) -> str:
        places = probe_places(self._length)
        first = [self._inputs_at(place) for place in places]
        no_file = "" if self._decodes else _NO_FILE
        for _ in range(DRAWS - 1):
            for place, inputs in zip(places, first):
                if not self._same_inputs(inputs, self._inputs_at(place)):
                    return no_file and f"its transforms get another input, and {no_file}"
        cuts: Dict[int, Cut] = {}
        for pipeline in self._pipelines:
            inputs = [given for drawn in first for owner, given in drawn if owner == id(pipeline)]
            kept = self._steps_before_random(pipeline.transforms, inputs) if inputs else 0
            if kept:
                cuts[id(pipeline)] = Cut(tuple(pipeline.transforms), kept)
        why_not = "no step comes before its first random one"
        if cuts and not self._is_the_same(cuts, places):
            cuts, why_not = {}, "its transforms do more than run one after the other"
        self._cuts = cuts
        self._until_audit = 1
        return "" if cuts else no_file and f"{why_not}, and {no_file}"

    def _is_the_same(self, cuts: Dict[int, Cut], places: List[int]) -> bool:
        """Whether samples, and the random numbers drawn for them, are the same with the cuts.

        In another order from the shelf than anew: a step may leave something for later code.
        """
        plain = []
        for place in places:
            before = random_states(self._torch)
            plain.append((place, before, self._draw(place), random_states(self._torch)))
        self._cuts = cuts
        for order in (plain, plain[::-1]):
            for place, before, sample, after in order:
                restore(self._torch, before)
                if not same(self._torch, self._draw(place), sample):
                    return False
                if what_moved(self._torch, after) is not None:
                    return False
        return True

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

    def _steps_before_random(self, steps: Sequence[Step], inputs: List[Any]) -> int:
        """How many first steps give the same each time and move no global random stream.

        Source: measurement.md §5: 8 samples, 16 draws each, without restoring in between.
        """
        for number, step in enumerate(steps):
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
        return len(steps)


def _same_objects(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))
