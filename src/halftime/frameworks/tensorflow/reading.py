"""Pipelines of tf.data that a script reads by itself, batch by batch, whatever trains on them."""

from __future__ import annotations

import importlib
import sys
import threading
import weakref
from typing import Any, Dict, List, Optional, Tuple

from ...agent.patches import Patches
from ...agent.places import place_of_caller
from ...agent.recorder import OTHERS, Recorder, clock
from . import pipeline

_OURS = __name__.partition(".frameworks")[0]
_LIBRARIES = ("keras.", "tensorflow.", f"{_OURS}.")


def observe(tf: Any, recorder: Recorder, patches: Patches, describe: Any) -> None:
    """Wrap what such a script calls.

    describe: writes the facts of a pipeline, by its number.
    """
    reading = Reading(tf, recorder, patches, describe)

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
    """Numbers the pipelines that the script reads, and times how long it waits for each batch."""

    def __init__(self, tf: Any, recorder: Recorder, patches: Patches, describe: Any) -> None:
        self._tf = tf
        self._recorder = recorder
        self._patches = patches
        self._describe = describe
        self._local = threading.local()
        self._ordinals: Dict[Tuple[Any, ...], int] = {}
        self._unasked: Dict[Tuple[Any, ...], int] = {}
        """Iterators that no batch was asked of yet, by what they look like."""
        self._pipelines: Dict[Tuple[Any, ...], Any] = {}
        """Which dataset each was last, as a weak reference."""
        self._passes: Dict[int, Pass] = {}
        """The pass over each pipeline that has not come to its end."""

    def iterate(self, dataset: Any, original: Any) -> Any:
        """A pipeline that the script reads batch by batch."""
        if self._is_busy() or (_asked_by_a_library() and not self._is_for_script()):
            return original(dataset)
        ordinal, look = self._number(dataset, pipeline.operations(dataset), dataset)
        fed = dataset.__dict__.setdefault("_halftime_fed", {})
        if ordinal not in fed:
            self._local.inside = True
            try:
                made = self._patches.feed(dataset, ordinal, trains=ordinal == OTHERS)
            finally:
                self._local.inside = False
            fed[ordinal] = None if made is dataset else made
        self._recorder.iterates(ordinal)
        batches = original(dataset if fed[ordinal] is None else fed[ordinal])
        batches._halftime_ordinal, batches._halftime_look = ordinal, look
        batches._halftime_whole = pipeline.batches_a_pass(dataset)
        return batches

    def iterate_in_parts(self, dataset: Any, original: Any) -> Any:
        """A pipeline that a strategy of tf.distribute has divided: seen, and left as it is."""
        if self._is_busy() or _asked_by_a_library():
            return original(dataset)
        whole = getattr(dataset, "_original_dataset", None)
        ops = pipeline.operations(whole) if whole is not None else ()
        ordinal, look = self._number(dataset, ops, whole)
        self._describe(dataset, ordinal, ordinal == OTHERS)
        self._recorder.iterates(ordinal)
        self._local.inside = True
        try:
            batches = original(dataset)
        finally:
            self._local.inside = False
        batches._halftime_ordinal, batches._halftime_look = ordinal, look
        return batches

    def iterate_in_numpy(self, dataset: Any, original: Any) -> Any:
        """A pipeline that the script reads as arrays."""
        outer, self._local.for_script = self._is_for_script(), not _asked_by_a_library()
        try:
            return original(dataset)
        finally:
            self._local.for_script = outer

    def next_batch(self, batches: Any, original: Any, args: Any, named: Any) -> Any:
        """The next batch of a pipeline that the script reads."""
        ordinal = batches.__dict__.get("_halftime_ordinal")
        recorder = self._recorder
        if ordinal is None or self._is_busy():
            return original(batches, *args, **named)
        asked = clock()
        look = batches.__dict__.pop("_halftime_look", None)
        if look is not None:
            self._unasked[look] -= 1
            self._begins(ordinal, batches.__dict__.get("_halftime_whole"))
        recorder.requested(ordinal, asked)
        self._local.inside = True
        try:
            batch = original(batches, *args, **named)
        except (StopIteration, self._tf.errors.OutOfRangeError):
            self._passes.pop(ordinal, None)
            recorder.exhausted(ordinal, clock())
            raise
        finally:
            self._local.inside = False
        if ordinal in self._passes:
            self._passes[ordinal].drawn += 1
        recorder.received(ordinal, asked, clock(), self._samples_in(batch))
        return batch

    def _begins(self, ordinal: int, whole: Optional[int]) -> None:
        """A pass begins; of `whole` batches, where that is known."""
        before, updates = self._passes.get(ordinal), self._recorder.updates
        # What was looked at before the training is no pass of it.
        if before is not None and updates > before.updates + 1 and not before.had_all:
            self._recorder.emit("loader_facts", ordinal=ordinal, left_early=True)
        self._passes[ordinal] = Pass(whole, updates)

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
        inside = getattr(self._local, "inside", False)
        return inside or recorder.off or recorder.fetches_inside or not self._tf.executing_eagerly()

    def _is_for_script(self) -> bool:
        return bool(getattr(self._local, "for_script", False))

    def _samples_in(self, tree: Any) -> int:
        """The first dimension of the first dense tensor; 0 where there is none."""
        return next((rows for leaf in self._tf.nest.flatten(tree) if (rows := _rows_of(leaf))), 0)


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


def _asked_by_a_library() -> bool:
    """Whether the wrapped call was made by Keras, TensorFlow or us, not by the script."""
    caller = sys._getframe(3)  # this function, Reading's, the wrapper, its caller
    return str(caller.f_globals.get("__name__", "")).startswith(_LIBRARIES)
