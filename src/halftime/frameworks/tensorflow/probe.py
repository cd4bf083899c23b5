"""Observes TensorFlow: the pipelines of tf.data that trainers are fed from."""

from __future__ import annotations

import importlib
import time
import zlib
from typing import Any, Dict, Mapping, Optional

from ...agent.patches import Patches
from ...agent.places import place_of_caller
from ...agent.recorder import Recorder
from . import TECHNIQUES, pipeline
from .autotune import is_tuned
from .prefetch import is_added_anyway

_MOST_BATCHES_WITNESSED = 2500
_ARRAYS = ("ndarray", "EagerTensor", "ResourceVariable", "DataFrame")


def attach(
    tensorflow: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]
) -> None:
    """Techniques first, so that what is described is what they made."""
    described: set[str] = set()

    def describe(data: Any, trains: bool) -> Any:
        place = place_of_caller()
        if trains and place not in described:
            described.add(place)
            ordinal = len(described) - 1
            recorder.emit("loader", place=place, **_facts(tensorflow, data, ordinal))
        return data

    patches.feeders.append(describe)
    patches.switch_on(orders, "keras", __package__, TECHNIQUES, tensorflow)
    if orders["witness"] and orders["witness"]["batches"]:
        patches.feeders.append(_witness(tensorflow, recorder))
    if orders["fingerprint_evaluation"]:
        patches.feeders.append(_fingerprint(tensorflow, recorder))
    if orders["ablation"]:
        patches.feeders.append(_replay(tensorflow, recorder, orders["ablation"]))
    _note_strategies(recorder, patches)


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
    if facts["kind"] != "tf.data":
        return facts
    ops = pipeline.operations(data)
    elements, size = pipeline.elements_in(data), pipeline.bytes_of_element(data)
    batch = pipeline.batch_size_of(data)
    reason = pipeline.why_no_cache(data)
    facts.update(
        dataset=" → ".join(ops),
        dataset_length=_samples_in(data),
        batch_size=batch,
        batches=elements,
        shuffles="shuffle" in ops,
        pipeline=ops,
        serial_maps=pipeline.serial_maps_in(data),
        batchable_maps=pipeline.batchable_maps_in(data),
        deterministic=not reason,
        randomness=reason,
        cache_after=pipeline.place_of_cache(data),
        sample_bytes=_sample_bytes(data) if batch else size,
        prefetched_by_itself=is_added_anyway(data),
        autotuned=is_tuned(data),
    )
    return facts


def _kind(tf: Any, data: Any) -> str:
    if isinstance(data, tf.data.Dataset):
        return "tf.data"
    if type(data).__name__ in _ARRAYS or isinstance(data, (list, tuple, dict)):
        return "arrays in memory"
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return "a PyDataset"
    return "a generator" if hasattr(data, "__next__") else type(data).__name__


def _length(data: Any) -> Optional[int]:
    shape = getattr(data, "shape", None)
    try:
        return int(shape[0]) if shape else None
    except (TypeError, IndexError):
        return None


def _samples_in(dataset: Any) -> Optional[int]:
    """Samples of one pass: the elements before the last `batch`."""
    below = dataset
    while below is not None:
        above = pipeline.inputs_of(below)
        if pipeline.name_of(below) in ("batch", "paddedbatch") and above:
            return pipeline.elements_in(above[0])
        below = above[0] if len(above) == 1 else None
    return pipeline.elements_in(dataset)


def _sample_bytes(dataset: Any) -> Optional[int]:
    below = dataset
    while below is not None:
        above = pipeline.inputs_of(below)
        if pipeline.name_of(below) in ("batch", "paddedbatch") and above:
            return pipeline.bytes_of_element(above[0])
        below = above[0] if len(above) == 1 else None
    return None


def _witness(tf: Any, recorder: Recorder) -> Any:
    """Checksums of the batches of two passes, before the training: the second is served."""
    seen: set[str] = set()

    def fed(dataset: Any, trains: bool) -> Any:
        place = place_of_caller()
        if not (trains and isinstance(dataset, tf.data.Dataset)) or place in seen:
            return dataset
        seen.add(place)
        count = pipeline.elements_in(dataset)
        if count is None or count > _MOST_BATCHES_WITNESSED:
            return dataset
        digests = [
            (0, number, zlib.crc32(b"".join(leaf.numpy().tobytes() for leaf in tf.nest.flatten(b))))
            for _ in range(2)
            for number, b in enumerate(dataset)
        ]
        recorder.emit("batches", digests=digests)
        return dataset

    return fed


def _fingerprint(tf: Any, recorder: Recorder) -> Any:
    """Sum up every held-out row, whatever its order. Source: measurement.md §5, Seeds."""
    sums: Dict[str, str] = {}

    def fed(data: Any, trains: bool) -> Any:
        place = place_of_caller()
        if not trains and place not in sums:
            rows = data if isinstance(data, tf.data.Dataset) else [data]
            total = sum(
                zlib.crc32(row.tobytes())
                for batch in rows
                for leaf in tf.nest.flatten(batch)
                for row in tf.convert_to_tensor(leaf).numpy()
            )
            sums[place] = f"{total:x}"
            recorder.emit("fingerprints", loaders=dict(sums))
        return data

    return fed


def _replay(tf: Any, recorder: Recorder, ablation: Mapping[str, Any]) -> Any:
    """Drain the pipeline alone, then train on copies of its first batches, over and over."""
    done: list[bool] = []

    def fed(dataset: Any, trains: bool) -> Any:
        if not (trains and isinstance(dataset, tf.data.Dataset)) or done:
            return dataset
        done.append(True)
        start, samples = time.perf_counter(), 0
        for batch in dataset:
            leaf = tf.nest.flatten(batch)[0]
            samples += int(leaf.shape[0]) if leaf.shape.rank else 1
            if time.perf_counter() - start > ablation["drain_seconds"]:
                break
        seconds = time.perf_counter() - start
        facts = {
            "alone_samples_per_second": samples / seconds,
            "op_seconds": pipeline.costs_of(tf, dataset),
        }
        recorder.emit("loader_facts", ordinal=0, **facts)
        return dataset.take(ablation["batches"]).cache().repeat()

    return fed
