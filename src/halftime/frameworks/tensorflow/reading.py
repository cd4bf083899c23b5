"""Pipelines of tf.data that a script reads by itself, batch by batch, whatever trains on them."""

from __future__ import annotations

import importlib
import sys
import threading
import weakref
from typing import Any, Dict, List, Optional, Set, Tuple

from ...agent.patches import Patches
from ...agent.places import place_of_caller
from ...agent.recorder import OTHERS, Recorder, clock
from . import pipeline
from .prefetch import is_added_anyway

_OURS = __name__.partition(".frameworks")[0]
_LIBRARIES = ("keras.", "tensorflow.", f"{_OURS}.")


def observe(tf: Any, recorder: Recorder, patches: Patches, describe: Any, keeps: bool) -> None:
    """Wrap what such a script calls.

    describe: writes the facts of a pipeline, by its number. keeps: whether a store is on.
    """
    reading = Reading(tf, recorder, patches, describe, keeps)

    def iterated(original: Any) -> Any:
        def __iter__(self: Any) -> Any:
            return reading.iterate(self, original)

        return __iter__

    def in_parts(original: Any) -> Any:
        def __iter__(self: Any) -> Any:
            return reading.iterate_in_parts(self, original)

        return __iter__

    def in_numpy(original: Any) -> Any:
        def as_numpy_iterator(self: Any) -> Any:
            return reading.iterate_in_numpy(self, original)

        return as_numpy_iterator

    def asked(original: Any) -> Any:
        def next_batch(self: Any, *args: Any, **named: Any) -> Any:
            return reading.next_batch(self, original, args, named)

        return next_batch

    def tell(name: str) -> Any:
        return importlib.import_module(f"tensorflow.python.{name}")

    datasets = tell("data.ops.dataset_ops").DatasetV2
    patches.replace(datasets, "__iter__", iterated)
    patches.replace(datasets, "as_numpy_iterator", in_numpy)
    distributed = tell("distribute.input_lib")
    for cls in (distributed.DistributedDataset, distributed.DistributedDatasetsFromFunction):
        patches.replace(cls, "__iter__", in_parts)
    for cls in (tell("data.ops.iterator_ops").OwnedIterator, distributed.DistributedIteratorBase):
        for name in ("__next__", "get_next"):
            patches.replace(cls, name, asked)


class Reading:
    """Numbers the pipelines that the script reads, and times how long it waits for each batch.

    On its main thread: what others read ahead, nobody waits for.
    """

    def __init__(
        self, tf: Any, recorder: Recorder, patches: Patches, describe: Any, keeps: bool
    ) -> None:
        self._tf = tf
        self._recorder = recorder
        self._patches = patches
        self._describe = describe
        self._keeps = keeps
        self._inside = self._for_script = False
        self._ordinals: Dict[Tuple[Any, ...], int] = {}
        self._unasked: Dict[Tuple[Any, ...], int] = {}
        """Iterators that no batch was asked of yet, by what they look like."""
        self._pipelines: Dict[Tuple[Any, ...], Any] = {}
        """Which dataset each was last, as a weak reference."""
        self._passes: Dict[int, Pass] = {}
        """The pass over each pipeline that has not come to its end."""
        self._ended: Set[int] = set()
        """The pipelines that had a pass to its end."""

    def iterate(self, dataset: Any, original: Any) -> Any:
        """A pipeline that the script reads batch by batch."""
        if self._is_busy() or (asked_by_a_library() and not self._for_script):
            return original(dataset)
        known = self._safely(self._number, dataset, pipeline.operations(dataset), dataset)
        if known is None:
            return original(dataset)
        ordinal, look = known
        fed = dataset.__dict__.setdefault("_halftime_fed", {})
        if ordinal not in fed:
            made = self._quietly(self._patches.feed, dataset, ordinal, ordinal == OTHERS)
            fed[ordinal] = None if made is dataset else made
        self._recorder.iterates(ordinal)
        batches = original(dataset if fed[ordinal] is None else fed[ordinal])
        whole = self._safely(_asked_of_a_pass, dataset)
        return self._marked(batches, ordinal, look, whole)

    def iterate_in_parts(self, dataset: Any, original: Any) -> Any:
        """A pipeline that a strategy of tf.distribute has divided: seen, and left as it is."""
        if self._is_busy() or asked_by_a_library():
            return original(dataset)
        whole = getattr(dataset, "_original_dataset", None)
        ops = pipeline.operations(whole) if whole is not None else ()
        known = self._safely(self._number, dataset, ops, whole)
        if known is None:
            return original(dataset)
        ordinal, look = known
        self._safely(self._describe, dataset, ordinal, ordinal == OTHERS)
        self._recorder.iterates(ordinal)
        return self._marked(self._quietly(original, dataset), ordinal, look, None)

    def iterate_in_numpy(self, dataset: Any, original: Any) -> Any:
        """A pipeline that the script reads as arrays."""
        if self._is_busy():
            return original(dataset)
        outer, self._for_script = self._for_script, not asked_by_a_library()
        try:
            return original(dataset)
        finally:
            self._for_script = outer

    def next_batch(self, batches: Any, original: Any, args: Any, named: Any) -> Any:
        """The next batch of a pipeline that the script reads."""
        ordinal = batches.__dict__.get("_halftime_ordinal")
        recorder = self._recorder
        if ordinal is None or self._is_busy():
            return original(batches, *args, **named)
        asked = clock()
        is_asked = batches.__dict__.pop("_halftime_is_asked", None)
        if is_asked is not None:
            is_asked()
            self._begins(ordinal, batches._halftime_whole)
        recorder.requested(ordinal, asked)
        try:
            batch = self._quietly(original, batches, *args, **named)
        except (StopIteration, self._tf.errors.OutOfRangeError):
            self._passes.pop(ordinal, None)
            self._ended.add(ordinal)
            recorder.exhausted(ordinal, clock())
            raise
        if ordinal in self._passes:
            self._passes[ordinal].drawn += 1
        samples = self._safely(self._samples_in, batch)
        recorder.received(ordinal, asked, clock(), samples or 0)
        return batch

    def _marked(self, batches: Any, ordinal: int, look: Any, whole: Optional[int]) -> Any:
        """An iterator that knows its pipeline, until it is asked for a batch or is gone."""
        is_asked = weakref.finalize(batches, self._is_asked, look)
        is_asked.atexit = False
        batches.__dict__.update(
            _halftime_ordinal=ordinal, _halftime_whole=whole, _halftime_is_asked=is_asked
        )
        return batches

    def _is_asked(self, look: Tuple[Any, ...]) -> None:
        self._unasked[look] -= 1

    def _begins(self, ordinal: int, whole: Optional[int]) -> None:
        """A pass begins; of `whole` batches, where that is known."""
        before, updates = self._passes.get(ordinal), self._recorder.updates
        self._passes[ordinal] = Pass(whole, updates)
        # What was looked at before the training is no pass of it; one left after a whole one
        # finds a full cache.
        if before is None or updates <= before.updates + 1 or ordinal in self._ended:
            return
        if before.had_all:
            self._ended.add(ordinal)
            return
        self._recorder.emit("loader_facts", ordinal=ordinal, left_early=True)
        if self._keeps and ordinal == self._patches.training_loader:
            self._patches.void("store", "the script leaves a pass before the cache is full")

    def _number(self, dataset: Any, ops: Any, whole: Any) -> Tuple[int, Tuple[Any, ...]]:
        """The number of a pipeline, and what tells its iterator from others at the same line."""
        # One line may go through several pipelines: of a function for both, or of a zip.
        kind = place_of_caller(), ops
        look = (*kind, pipeline.elements_in(whole) if whole is not None else None)
        beside = self._unasked.get(look, 0)
        self._unasked[look] = beside + 1
        key = (*look, beside)
        if key not in self._ordinals:
            # One that took the place of another has the other's number.
            gone = (
                number
                for other, number in self._ordinals.items()
                if other[: len(kind)] == kind and other[-1] == key[-1] and not self._lives(other)
            )
            new = OTHERS + len(set(self._ordinals.values()))
            self._ordinals[key] = next(gone, new)
        self._pipelines[key] = weakref.ref(dataset)
        return self._ordinals[key], look

    def _lives(self, key: Tuple[Any, ...]) -> bool:
        return self._pipelines[key]() is not None

    def _is_busy(self) -> bool:
        """Whether what is asked for is not the script's, or is traced and not computed."""
        recorder = self._recorder
        if self._inside or recorder.off or recorder.fetches_inside:
            return True
        elsewhere = threading.current_thread() is not threading.main_thread()
        return elsewhere or not self._tf.executing_eagerly()

    def _quietly(self, call: Any, *args: Any, **named: Any) -> Any:
        """Call without looking at what is called within."""
        self._inside = True
        try:
            return call(*args, **named)
        finally:
            self._inside = False

    def _safely(self, look: Any, *args: Any) -> Any:
        """What we make of it; None where that fails: the script goes on, and the trial is void."""
        try:
            return self._quietly(look, *args)
        except Exception as error:
            self._recorder.report_failure("looking at a pipeline of tf.data", error)
            return None

    def _samples_in(self, tree: Any) -> int:
        """The first dimension of the first dense tensor; 0 where there is none."""
        return next((rows for leaf in self._tf.nest.flatten(tree) if (rows := _rows_of(leaf))), 0)


def _asked_of_a_pass(dataset: Any) -> Optional[int]:
    """How many batches one has to ask for until a pass was made; None where nobody knows.

    A cache is full once it was asked past its last element, as a prefetch at the end does ahead.
    """
    whole = pipeline.batches_a_pass(dataset)
    ahead = pipeline.ends_in_prefetch(dataset) or is_added_anyway(dataset)
    return whole if whole is None or ahead else whole + 1


class Pass:
    """A pass over a pipeline. updates: those that were made before it."""

    def __init__(self, whole: Optional[int], updates: int) -> None:
        self.drawn = 0
        self.updates = updates
        self._whole = whole

    @property
    def had_all(self) -> bool:
        """Whether each batch came at least once: an endless pipeline has no other end."""
        return self._whole is not None and self.drawn >= self._whole


def _rows_of(leaf: Any) -> int:
    """The first dimension; of a tensor in parts, as replicas have them, of all its parts."""
    values = getattr(leaf, "values", None)
    parts: List[Any] = list(values) if isinstance(values, tuple) else [leaf]
    shapes: List[Optional[Any]] = [getattr(part, "shape", None) for part in parts]
    return sum(int(shape[0] or 0) for shape in shapes if shape is not None and len(shape))


def asked_by_a_library() -> bool:
    """Whether the wrapped call was made by Keras, TensorFlow or us, not by the script."""
    caller = sys._getframe(3)  # this function, what calls it, the wrapper, its caller
    return str(caller.f_globals.get("__name__", "")).startswith(_LIBRARIES)
