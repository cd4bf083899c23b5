"""A PyDataset that feeds a training: what it takes, its replay, and the witness of its batches."""

from __future__ import annotations

import importlib
import sys
import zlib
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ...agent.patches import Patches
from ...agent.recorder import Recorder, clock
from ..pytorch.batches import first_dimension
from ..pytorch.determinism import own_generator, random_states, what_moved
from ..pytorch.handles import open_handle
from ..tensorflow.probe import bytes_of

_MOST_KEPT_BYTES = 1_000_000_000
_DRAWN_AGAIN = 8
_MOST_WITNESSED = 2500


def observe(keras: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]) -> None:
    """Replay its first batches, or write the checksums of what it hands out, as ordered."""
    if orders["ablation"]:
        patches.feeders.append(_replay(keras, recorder, orders["ablation"]))
    if orders["witness"] and orders["witness"]["batches"]:
        _witness(keras, recorder, patches)


def _replay(keras: Any, recorder: Recorder, ablation: Mapping[str, Any]) -> Any:
    """Draw its first batches, and train on them over and over."""
    done: List[bool] = []

    def fed(data: Any, number: int, trains: bool) -> Any:
        if not trains or done or not isinstance(data, keras.utils.PyDataset):
            return data
        done.append(True)
        start, samples, size = clock(), 0, 0
        kept: List[Any] = []
        count = data.num_batches
        most = ablation["batches"] if count is None else min(ablation["batches"], count)
        while len(kept) < most and size < _MOST_KEPT_BYTES:
            kept.append(data[len(kept)])
            samples += first_dimension(kept[-1])
            size += sum(getattr(leaf, "nbytes", 0) for leaf in keras.tree.flatten(kept[-1]))
            if clock() - start > ablation["drain_seconds"]:
                break
        seconds = clock() - start
        reason = _randomness_of(keras, data, kept)
        recorder.emit(
            "loader_facts", ordinal=number, alone_samples_per_second=samples / seconds,
            batch_size=samples // len(kept), deterministic=not reason, randomness=reason,
            handle=open_handle(data),
        )  # fmt: skip
        return _again(keras, kept, count)

    return fed


def _again(keras: Any, kept: List[Any], count: Optional[int]) -> Any:
    """A PyDataset of as many batches, which are these over and over."""

    class Kept(keras.utils.PyDataset):  # type: ignore[misc]
        num_batches = count

        def __getitem__(self, index: int) -> Any:
            return kept[index % len(kept)]

    return Kept()


def _randomness_of(keras: Any, data: Any, batches: List[Any]) -> str:
    """Why its batches are not deterministic; '' where they came out equal and moved no state."""
    owner = own_generator(data)
    if owner is not None:
        return f"the dataset holds a random generator of its own ({owner})"
    torch = sys.modules.get("torch")
    before = random_states(torch)
    for place, batch in enumerate(batches[:_DRAWN_AGAIN]):
        if digest_of(keras, data[place]) != digest_of(keras, batch):
            return "a batch changed between two draws (a random transform)"
    owner = what_moved(torch, before)
    return f"drawing a batch moves the global random state of {owner}" if owner else ""


def _witness(keras: Any, recorder: Recorder, patches: Patches) -> None:
    """Checksums of its batches in the order in which the trainer takes them."""
    numbers: Dict[int, int] = {}
    digests: List[Tuple[int, int, int]] = []

    def fed(data: Any, number: int, trains: bool) -> Any:
        if trains and isinstance(data, keras.utils.PyDataset):
            numbers[id(data)] = number
        return data

    def taken(original: Any) -> Any:
        def standardize_batch(self: Any, batch: Any) -> Any:
            number = numbers.get(id(self.py_dataset))
            if number is not None and len(digests) < _MOST_WITNESSED:
                digests.append((number, len(digests), digest_of(keras, batch)))
            return original(self, batch)

        return standardize_batch

    patches.feeders.append(fed)
    module = importlib.import_module("keras.src.trainers.data_adapters.py_dataset_adapter")
    patches.replace(module.PyDatasetAdapter, "_standardize_batch", taken)
    patches.at_exit(lambda: recorder.emit("batches", digests=digests) if digests else None)


def digest_of(keras: Any, batch: Any) -> int:
    """A checksum of the bytes of all arrays of a batch."""
    return zlib.crc32(b"".join(map(bytes_of, keras.tree.flatten(batch))))
