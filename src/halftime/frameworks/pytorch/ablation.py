"""Replay and loader-alone: what free data would give, and how fast data could come."""

from __future__ import annotations

import importlib
import itertools
from typing import Any, List, Mapping, Optional

from ...agent.patches import Patches
from ...agent.recorder import clock
from .batches import copy_of, first_dimension, tensors_in
from .decoded import Readers
from .determinism import randomness_of
from .handles import open_handle
from .loading import length_of
from .pipelines import Pipelines
from .shelf import OwnShelf
from .split import Split

_MOST_BATCHES = 4096


def install(torch: Any, settings: Mapping[str, Any], patches: Patches, loaders: Any) -> None:
    """Serve copies of batches drawn across the epoch, after timing the loader alone.

    settings: {"batches": how many to keep, "drain_seconds": the longest to draw them for}.
    """
    module = importlib.import_module("torch.utils.data.dataloader")
    replay = _Replay(torch, settings, patches)

    def prepared(original: Any) -> Any:
        def __iter__(self: Any) -> Any:
            iterator = original(self)
            if loaders.ordinal(self) == patches.training_loader and not replay.is_ready:
                replay.prepare(self, iterator)
                iterator = original(self)
            iterator._halftime_left = replay.batches_an_epoch
            return iterator

        return __iter__

    def replayed(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            if (
                self.__dict__.get("_halftime_ordinal") != patches.training_loader
                or not replay.is_ready
            ):
                return original(self)
            if self._halftime_left is not None:
                if self._halftime_left <= 0:
                    raise StopIteration
                self._halftime_left -= 1
            return replay.next()

        return __next__

    patches.replace(module.DataLoader, "__iter__", prepared)
    # Drawing for the replay goes past the clocks: it is no step of the script.
    replay.draw = patches.replace(module._BaseDataLoaderIter, "__next__", replayed)


class _Replay:
    def __init__(self, torch: Any, settings: Mapping[str, Any], patches: Patches) -> None:
        self._torch = torch
        self._settings = settings
        self._patches = patches
        self._recorder = patches.recorder
        self._readers, self._pipelines = Readers(patches), Pipelines(patches)
        self.batches: List[Any] = []
        self.is_ready = False
        self.draw: Any = None
        self.batches_an_epoch: Optional[int] = None
        self._served = 0
        self._pins = False
        """Whether the loader gives page-locked memory, from which a GPU copies faster."""
        self._pin = importlib.import_module("torch.utils.data._utils.pin_memory").pin_memory

    def prepare(self, loader: Any, iterator: Any) -> None:
        """Learn whether samples are deterministic, then draw and time the batches to replay."""
        facts: dict[str, Any] = {"ordinal": self._patches.training_loader}
        self._pins = bool(loader.pin_memory) and self._torch.cuda.is_available()
        if isinstance(loader.dataset, self._torch.utils.data.IterableDataset):
            facts["randomness"] = "an IterableDataset: samples cannot be drawn a second time"
        else:
            self.batches_an_epoch = length_of(loader)
            facts["handle"] = open_handle(loader.dataset)
            facts["randomness"] = randomness_of(self._torch, loader.dataset)
            if facts["randomness"]:
                facts["split"] = self._what_split_keeps(loader)
            facts.update(self._time_items(loader))
        facts["deterministic"] = facts["randomness"] == ""
        facts["alone_samples_per_second"] = self._drain(iterator)
        facts["sample_bytes"] = self._bytes_a_sample()
        self._recorder.emit("loader_facts", **facts)
        self.is_ready = bool(self.batches)

    def _what_split_keeps(self, loader: Any) -> str:
        def own(slots: int) -> OwnShelf:
            return OwnShelf(lambda size: True)

        split = Split(
            self._torch, loader.dataset, own, lambda reason: None, self._pipelines, self._readers
        )
        # This run serves the script copies from here on: its own generators may move.
        return "" if split.probe(may_move=True) else split.describe()

    def _time_items(self, loader: Any) -> dict[str, float]:
        """Seconds of a sample and of its share in collation, in this process."""
        # A sampler with replacement may promise batches without end.
        order = list(itertools.islice(loader._index_sampler, _MOST_BATCHES))
        if not order or not loader._auto_collation:
            return {}
        kept = min(self._settings["batches"], len(order))
        chosen = [order[i * len(order) // kept] for i in range(kept)]
        deadline = clock() + self._settings["drain_seconds"] / 2
        drawing = collating = 0.0
        samples = 0
        for indices in chosen:
            start = clock()
            items = [loader.dataset[index] for index in indices]
            drawn = clock()
            batch = loader.collate_fn(items)
            collating += clock() - drawn
            drawing += drawn - start
            samples += len(items)
            self.batches.append(batch)
            if clock() > deadline:
                break
        return {"item_seconds": drawing / samples, "collate_seconds": collating / samples}

    def _drain(self, iterator: Any) -> Optional[float]:
        """Samples a second of the loader without training."""
        started = clock()
        samples = 0
        while samples == 0 or clock() - started < self._settings["drain_seconds"] / 2:
            try:
                batch = self.draw(iterator)
            except StopIteration:
                break
            samples += first_dimension(batch) or 1
            if len(self.batches) < self._settings["batches"]:
                self.batches.append(batch)
        seconds = clock() - started
        return samples / seconds if samples and seconds else None

    def _bytes_a_sample(self) -> Optional[int]:
        batch = self.batches[0] if self.batches else None
        rows = first_dimension(batch)
        if not rows:
            return None
        total = sum(t.numel() * t.element_size() for t in tensors_in(batch))
        return int(total // rows)

    def next(self) -> Any:
        """A copy of the next kept batch: the script may change what it is given."""
        batch = self.batches[self._served % len(self.batches)]
        self._served += 1
        fresh = copy_of(batch)
        return self._pin(fresh) if self._pins else fresh
