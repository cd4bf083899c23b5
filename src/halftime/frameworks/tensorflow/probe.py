"""Observes TensorFlow: the pipelines of tf.data that trainers are fed from."""

from __future__ import annotations

import importlib
import itertools
import time
import zlib
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ...agent.patches import Patches
from ...agent.places import place_of_caller
from ...agent.recorder import EVALUATION, Recorder
from .. import techniques_at
from . import length_bucketing, pipeline, reading
from .autotune import is_tuned
from .prefetch import is_added_anyway

_MOST_BATCHES_WITNESSED = 2500
# Two passes at least, and as many as parity compares.
_BATCHES_WITNESSED = 210
_LONGEST_PASS = 30.0
_MOST_DESCRIBED = 64
_ONCE = "the pipeline gives its elements once: nothing can be looked at beforehand"
_OWN = ("arrays in memory", "a PyDataset", "a generator")


def attach(
    tensorflow: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]
) -> None:
    """Techniques first, so that what is described is what they made."""
    pipeline.remember_what_ops_forget(tensorflow, patches)
    describe = describing(tensorflow, recorder)
    patches.feeders.append(describe)
    techniques = techniques_at("tensorflow", orders["framework"], orders["fed_by"])
    patches.switch_on(orders, techniques, tensorflow)
    if orders["witness"] and orders["witness"]["batches"]:
        patches.feeders.append(_Witness(tensorflow, recorder, orders["witness"]).fed)
    if orders["fingerprint_evaluation"]:
        patches.feeders.append(_fingerprint(tensorflow, recorder))
    if orders["ablation"]:
        patches.feeders.append(_replay(tensorflow, recorder, orders["ablation"]))
    keeps = any(switch["technique"] == "store" for switch in orders["switches"])
    reading.observe(tensorflow, recorder, patches, describe, keeps)
    _note_strategies(recorder, patches)


def describing(tf: Any, recorder: Recorder) -> Any:
    """Write the facts of what a trainer is given. tf: None where TensorFlow is not loaded."""
    described: set[Tuple[int, str]] = set()

    def describe(data: Any, number: int, trains: bool) -> Any:
        place = place_of_caller()
        known = (number, place) in described or len(described) >= _MOST_DESCRIBED
        # Of what has a probe of its own, that one tells: DataLoaders of torch, and tf.data.
        told = hasattr(data, "_halftime_ordinal") or (tf is None and _kind(tf, data) not in _OWN)
        if not known and not told:
            described.add((number, place))
            recorder.emit("loader", place=place, **_facts(tf, data, number))
        return data

    return describe


def _note_strategies(recorder: Recorder, patches: Patches) -> None:
    """Say under which strategy of tf.distribute the script trains."""
    seen: set[str] = set()

    def noted(original: Any) -> Any:
        def scope(self: Any) -> Any:
            name, count = type(self).__name__, self.num_replicas_in_sync
            if name not in seen and not name.startswith("_Default"):  # Keras' own, under any fit
                seen.add(name)
                replicas = "1 replica" if count == 1 else f"{count} replicas"
                text = f"the script trains under {name} with {replicas} ({place_of_caller()})"
                recorder.emit("note", text=text)
            return original(self)

        return scope

    module = importlib.import_module("tensorflow.python.distribute.distribute_lib")
    patches.replace(module.StrategyBase, "scope", noted)


def _facts(tf: Any, data: Any, ordinal: int) -> Dict[str, Any]:
    """What LoaderFacts holds of the data that a trainer is given."""
    facts: Dict[str, Any] = {
        "ordinal": ordinal, "dataset": type(data).__name__, "dataset_length": _length(data),
        "batch_size": None, "batches": None, "workers": 0, "iterable": False, "shuffles": False,
        "default_collate": True, "torch_sampler": False, "pinned": False, "kind": _kind(tf, data),
        "autotuned": True,
    }  # fmt: skip
    if facts["kind"] == "a PyDataset":
        facts.update(batches=_batches_of(data), workers=_workers_of(data))
    if facts["kind"] != "tf.data":
        return facts
    ops = pipeline.operations(data)
    reason = pipeline.why_no_cache(data)
    facts.update(
        dataset=" → ".join(ops),
        dataset_length=_samples_in(data),
        batch_size=pipeline.batch_size_of(data),
        batches=pipeline.elements_in(data),
        shuffles="shuffle" in ops,
        pipeline=ops,
        beside=pipeline.beside_of(data),
        serial_maps=pipeline.serial_maps_in(data),
        batchable_maps=pipeline.batchable_maps_in(data),
        deterministic=not reason,
        randomness=reason,
        cache_after=pipeline.place_of_cache(data),
        sample_bytes=pipeline.bytes_of_element(pipeline.before_batch(data)),
        op_bytes=[
            pipeline.bytes_of_element(pipeline.before_batch(part))
            for part in pipeline.prefixes_of(data)
        ],
        prefetched_by_itself=is_added_anyway(data),
        autotuned=is_tuned(data),
    )
    return facts


def _kind(tf: Any, data: Any) -> str:
    if tf is not None and isinstance(data, tf.data.Dataset):
        return "tf.data"
    if any(cls.__name__ == "PyDataset" for cls in type(data).__mro__):
        return "a PyDataset"
    if hasattr(data, "__next__"):
        return "a generator"
    if hasattr(data, "shape") or isinstance(data, (list, tuple, dict)):
        return "arrays in memory"
    if type(data).__name__.startswith("Distributed"):
        return "a distributed pipeline"
    library = type(data).__module__.partition(".")[0]
    return f"a {library}.{type(data).__name__}"


def _batches_of(data: Any) -> Optional[int]:
    try:
        return data.num_batches if hasattr(data, "num_batches") else len(data)
    except Exception:  # of a length that the script has not told
        return None


def _workers_of(data: Any) -> int:
    """Those that the script has asked for beside the one that is there anyway."""
    workers = getattr(data, "_workers", 1)
    return workers if workers > 1 or getattr(data, "_use_multiprocessing", False) else 0


def _length(data: Any) -> Optional[int]:
    shape = getattr(data, "shape", None)
    try:
        return int(shape[0]) if shape else None
    except (TypeError, IndexError):
        return None


def _samples_in(dataset: Any) -> Optional[int]:
    """Samples of one pass."""
    return pipeline.elements_in(pipeline.before_batch(dataset))


class _Witness:
    """Checksums of the batches of two passes, before the training: the second is served.

    ordered: "longest_pass", the seconds after which a pass is left. Then no other is drawn, but as
    many are begun: a shuffle gives each another order, and that of the training is to be the same.
    """

    def __init__(self, tf: Any, recorder: Recorder, ordered: Mapping[str, Any]) -> None:
        self._tf = tf
        self._recorder = recorder
        self._longest = ordered.get("longest_pass", _LONGEST_PASS)
        self._done = False
        self._digests: List[Tuple[int, int, int]] = []

    def fed(self, dataset: Any, number: int, trains: bool) -> Any:
        """Look at the pipeline that trains, and hand it on."""
        if self._done or not (trains and isinstance(dataset, self._tf.data.Dataset)):
            return dataset
        self._done = True
        if pipeline.gives_once(dataset):
            self._recorder.emit("note", text=_ONCE)
            self._recorder.emit("batches", digests=[], served=False)
            return dataset
        endless = int(dataset.cardinality()) == self._tf.data.INFINITE_CARDINALITY
        count = pipeline.batches_a_pass(dataset)
        times = max(2, -(-_BATCHES_WITNESSED // (count or _BATCHES_WITNESSED)))
        if endless and count is None:
            self._draw(dataset, number, _BATCHES_WITNESSED, 1)
            ended = [False]  # at least nobody can tell
        elif endless:  # it comes to the end of its passes within one
            ended = [self._draw(dataset, number, count, times)]
        else:
            ended = []
            for _ in range(times):
                if all(ended):
                    ended.append(self._draw(dataset, number, None, 1))
                else:
                    next(iter(dataset), None)
        self._recorder.emit("batches", digests=self._digests, served=all(ended))
        return dataset

    def _draw(self, dataset: Any, number: int, count: Optional[int], rounds: int) -> bool:
        """Draw so many rounds of `count` batches, or all; gives whether it was done in time."""
        most = _MOST_BATCHES_WITNESSED
        began = time.perf_counter()
        for place, batch in enumerate(pipeline.drawn_from(dataset, self._recorder)):
            if count is not None and place >= count * rounds:
                return True
            if time.perf_counter() - began > self._longest * rounds:
                return False  # a cache serves only what has come to its end
            if (place if count is None else place % count) < most:
                self._digests.append((number, place, _digest(self._tf, batch)))
        return True


def _digest(tf: Any, batch: Any) -> int:
    leaves = tf.nest.flatten(batch, expand_composites=True)
    return zlib.crc32(b"".join(map(bytes_of, leaves)))


def _fingerprint(tf: Any, recorder: Recorder) -> Any:
    """Sum up every held-out row, whatever its order. Source: measurement.md §5, Seeds."""
    sums: Dict[str, str] = {}

    def fed(data: Any, number: int, trains: bool) -> Any:
        place = place_of_caller()
        # What the script reads itself before its training was a look at it.
        evaluates = number == EVALUATION or (not trains and recorder.updates > 0)
        if evaluates and place not in sums:
            try:
                total = _sum_of(tf, _held_out(tf, data))
            except Exception as error:  # data of the script's own: evaluation will say it
                total = None
                recorder.emit("note", text=f"held-out rows not summed up: {type(error).__name__}")
            if total is not None:
                sums[place] = f"{total:x}"
                recorder.emit("fingerprints", loaders=dict(sums))
        return data

    return fed


def _sum_of(tf: Any, batches: Iterator[Any]) -> Optional[int]:
    """The sum of the checksums of all rows; None where there are none, or too many."""
    total = count = 0
    for batch in itertools.islice(batches, _MOST_BATCHES_WITNESSED + 1):
        count += 1
        for leaf in tf.nest.flatten(batch, expand_composites=True):
            values = tf.convert_to_tensor(leaf)
            rows = values if values.shape.rank else [values]
            total += sum(zlib.crc32(bytes_of(row)) for row in rows)
    return total if 0 < count <= _MOST_BATCHES_WITNESSED else None


def _held_out(tf: Any, data: Any) -> Iterator[Any]:
    """What is evaluated on, batch by batch; nothing where looking would use it up."""
    kind = _kind(tf, data)
    if kind == "tf.data":
        yield from () if pipeline.gives_once(data) else data
    elif kind == "a PyDataset":
        yield from (data[place] for place in range(len(data)))
    elif kind == "arrays in memory":
        yield data


def bytes_of(values: Any) -> bytes:
    """The bytes of a tensor or array, of strings the strings themselves; none of None."""
    if values is None:
        return b""
    array = values.numpy() if hasattr(values, "numpy") else values
    if isinstance(array, bytes):
        return array
    if array.dtype == object:
        return b"\0".join(bytes(value) for value in array.ravel())
    return bytes(array.tobytes())


def _replay(tf: Any, recorder: Recorder, ablation: Mapping[str, Any]) -> Any:
    """Train on copies of the pipeline's first batches, over and over; first drain it alone."""
    done: list[bool] = []

    def fed(dataset: Any, number: int, trains: bool) -> Any:
        if not (trains and isinstance(dataset, tf.data.Dataset)) or done:
            return dataset
        done.append(True)
        if ablation.get("alone", True) and not pipeline.gives_once(dataset):
            tell_costs(dataset, number)
        return dataset.take(ablation["batches"]).cache().repeat()

    def tell_costs(dataset: Any, number: int) -> None:
        start, samples = time.perf_counter(), 0
        for batch in dataset:
            leaf = tf.nest.flatten(batch)[0]
            samples += int(leaf.shape[0]) if leaf.shape.rank else 1
            if time.perf_counter() - start > ablation["drain_seconds"]:
                break
        seconds = time.perf_counter() - start
        alone = samples / seconds
        recorder.emit("loader_facts", ordinal=number, alone_samples_per_second=alone)
        costs = pipeline.costs_of(tf, dataset)
        recorder.emit("loader_facts", ordinal=number, op_seconds=costs)
        padding = length_bucketing.padding_of(tf, dataset)
        if padding is not None:
            recorder.emit(
                "loader_facts", ordinal=number, padding_share=padding[0],
                padding_share_sorted=padding[1],
            )  # fmt: skip

    return fed
