"""The dataset store: samples kept the first time they are drawn, batches gathered in memory.

Changes: only how indices become a batch, at the loader's fetcher; sampler, dataset and collate
function stay the user's. Helps: where samples are decoded and collated one by one in every epoch.
May change: nothing; of a dataset whose samples are random only what comes before the first random
step is kept (split.py), or it is refused. Needs: a map-style dataset, memory for what is kept.
Source: pytorch#106704; measurement.md §5 for what "deterministic" means.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import tempfile
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
)

from ...agent.patches import Patches
from ...ideas import STORE as IDEA
from .batches import bytes_of
from .determinism import is_library, randomness_of, reachable
from .loading import make_serial
from .samples import Samples, bytes_of_sample
from .split import Split

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_RAM_SHARE = 0.5
_AUDIT_EVERY = 1000
_AUDITS_AN_EPOCH = 4
_MOST_DATASETS = 32


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """One store over the loader that feeds the training, or why not."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    refusal = ""
    if loader is None:
        refusal = "no DataLoader feeds the training"
    elif loader.iterable:
        refusal = "an IterableDataset cannot be drawn by index"
    elif loader.batch_size is None:
        refusal = "the loader forms no batches by itself (batch_size=None or a batch sampler)"
    elif not loader.deterministic and not loader.split:
        refusal = f"not cached: {loader.randomness or 'samples are not known to be deterministic'}"
    if refusal or loader is None:
        return [Proposal(switch=None, reason=refusal)]
    share = int(facts.available_bytes * _RAM_SHARE)
    with_workers = [other.ordinal for other in facts.loaders if other.workers]
    settings = {"memory_bytes": share, "serial": with_workers}
    size = (loader.dataset_length or 0) * (loader.sample_bytes or 0)
    place = "in RAM" if size <= share else "in a file (over the RAM share)"
    reason = f"{loader.dataset_length} deterministic samples, {size / 1e6:.0f} MB {place}"
    if loader.split:
        reason = f"kept by sample: {loader.split}; the random steps run anew"
    switch = Switch(technique=IDEA.name, settings=settings, numerics="exact")
    return [Proposal(switch=switch, reason=reason)]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Serve batches from stores, one for each dataset that can be stored."""
    stores = _Stores(framework, settings, patches)
    fetch_module = importlib.import_module("torch.utils.data._utils.fetch")
    loader_module = importlib.import_module("torch.utils.data.dataloader")
    make_serial(loader_module, settings.get("serial", ()), patches)

    def stored(original: Any) -> Any:
        def fetch(self: Any, index: Any) -> Any:
            return stores.fetch(self, index, original)

        return fetch

    def drawn_as_one(original: Any) -> Any:
        def __init__(self: Any, loader: Any) -> None:
            original(self, loader)
            order = _whole_order(framework, loader)
            if order is not None:
                self._sampler_iter = order
            stores.audit(loader)

        return __init__

    patches.replace(fetch_module._MapDatasetFetcher, "fetch", stored)
    patches.replace(loader_module._SingleProcessDataLoaderIter, "__init__", drawn_as_one)
    patches.at_exit(stores.report)


def _whole_order(torch: Any, loader: Any) -> Optional[Iterator[Any]]:
    """Batches of indices cut from one tensor, in the order of torch's own samplers.

    None for any other sampler. The same numbers are drawn from the same generator, at the same
    moment: when the first batch is asked for.
    Source: torch.utils.data.sampler, RandomSampler.__iter__ and BatchSampler.__iter__ (2.13).
    """
    data = torch.utils.data
    sampler = loader.sampler
    if (
        type(loader.batch_sampler) is not data.BatchSampler
        or loader.batch_sampler.sampler is not sampler
    ):
        return None
    if type(loader.dataset) in (data.IterableDataset,) or loader._dataset_kind != 0:
        return None
    if type(sampler) is data.RandomSampler:
        if sampler.replacement or sampler.num_samples != len(sampler.data_source):
            return None
    elif type(sampler) is not data.SequentialSampler:
        return None

    def batches() -> Iterator[Any]:
        length = len(sampler.data_source)
        generator = None
        if type(sampler) is data.SequentialSampler:
            order = torch.arange(length).numpy()
        else:
            generator = sampler.generator
            if generator is None:
                generator = torch.Generator()
                generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
            order = torch.randperm(length, generator=generator).numpy()
        size = loader.batch_sampler.batch_size
        whole = length - length % size
        for start in range(0, whole, size):
            yield order[start : start + size]
        if generator is not None:
            torch.randperm(length, generator=generator)  # RandomSampler draws once more at its end
        if whole < length and not loader.batch_sampler.drop_last:
            yield order[whole:]

    return batches()


class _Stores:
    """The stores of this process, one a dataset; what each refused."""

    def __init__(self, torch: Any, settings: Mapping[str, Any], patches: Patches) -> None:
        self._torch = torch
        self._patches = patches
        self._left_bytes = settings["memory_bytes"]
        self._folder: Optional[str] = settings.get("folder")
        self._known: Dict[int, Tuple[Any, Optional[Kept]]] = {}
        self._guarded: Dict[int, List[Kept]] = {}
        self._guarded_classes: set[type] = set()

    def fetch(self, fetcher: Any, index: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """A batch for `index`: from the store where there is one, else as ever."""
        known = self._known.get(id(fetcher.dataset))
        store = known[1] if known is not None else self._open(fetcher)
        if store is not None and not store.dropped:
            try:
                batch = store.batch(index, fetcher, plain)
            except Exception as error:
                # Ours to give up; what the dataset itself raises comes again from the plain path.
                store.drop(f"{type(error).__name__}: {error}")
                batch = None
            if batch is not None:
                return batch
        if hasattr(index, "tolist") and fetcher.auto_collation:
            index = index.tolist()
        return plain(fetcher, index)

    def _open(self, fetcher: Any) -> Optional[Kept]:
        kept: Optional[Kept] = None
        if len(self._known) >= _MOST_DATASETS:
            refusal = f"more than {_MOST_DATASETS} datasets"
        elif not fetcher.auto_collation:
            refusal = "the loader forms no batches by itself"
        else:
            kept, refusal = self._whole_or_split(fetcher)
        if refusal or kept is None:
            self._patches.refuse(IDEA.name, f"{type(fetcher.dataset).__name__}: {refusal}")
        else:
            self._guard(kept)
        self._known[id(fetcher.dataset)] = (fetcher.dataset, kept)
        return kept

    def _whole_or_split(self, fetcher: Any) -> Tuple[Optional[Kept], str]:
        """Whole samples where they are the same each time; else what comes before chance."""
        torch, dataset = self._torch, fetcher.dataset
        refusal = randomness_of(torch, dataset)
        if not refusal and fetcher.collate_fn is not torch.utils.data.default_collate:
            if bytes_of_sample(dataset[0]) is None:
                return None, "a sample holds more than tensors, arrays, images, numbers and text"
            return Samples(torch, dataset, self._room, self._dropped), ""
        if not refusal:
            folder = None
            if self._folder is not None:
                folder = os.path.join(self._folder, f"store-{len(self._known)}")
            return Store(torch, dataset, self._room, folder, self._dropped), ""
        split = Split(torch, dataset, self._room, self._dropped, self._patches)
        why_not = split.probe()
        return (None, f"{refusal}; {why_not}") if why_not else (split, "")

    def _room(self, size: int) -> bool:
        """Whether `size` bytes still fit the share of RAM; they are then taken."""
        fits = bool(size <= self._left_bytes)
        self._left_bytes -= size if fits else 0
        return fits

    def _dropped(self, reason: str) -> None:
        self._patches.refuse(IDEA.name, reason)
        self._patches.recorder.say(f"the store was dropped: {reason}")

    def _guard(self, store: Kept) -> None:
        """An attribute of the dataset, or of what it holds, that is set anew voids the store."""
        for held in list(reachable(store.dataset)):
            cls: Any = type(held)
            if not hasattr(held, "__dict__") or is_library(cls.__module__):
                continue
            self._guarded.setdefault(id(held), []).append(store)
            if cls not in self._guarded_classes:
                self._guarded_classes.add(cls)
                self._watch_class(cls)

    def _watch_class(self, cls: Any) -> None:
        guarded = self._guarded
        original = cls.__setattr__

        def __setattr__(self: Any, name: str, value: Any) -> None:
            original(self, name, value)
            for store in guarded.get(id(self), ()):
                store.drop(f"{cls.__name__}.{name} was set anew after the store was opened")

        # A class of C cannot be watched; the audits remain.
        with contextlib.suppress(TypeError):
            cls.__setattr__ = __setattr__

    def audit(self, loader: Any) -> None:
        """At the start of a pass, draw a few stored samples afresh and compare."""
        known = self._known.get(id(loader.dataset))
        if known is not None and known[1] is not None and not known[1].dropped:
            known[1].audit(_AUDITS_AN_EPOCH)

    def report(self) -> None:
        """Say what was served."""
        stores = [store for _, store in self._known.values() if store is not None]
        served = sum(store.served for store in stores)
        if served and not any(store.dropped for store in stores):
            self._patches.took_effect(
                IDEA.name,
                samples_served=served,
                batches_served=sum(store.served_batches for store in stores),
                samples_drawn=sum(store.drawn for store in stores),
                stored_bytes=sum(store.size_bytes for store in stores),
                audited=sum(store.audited for store in stores),
            )
        for store in stores:
            store.save()


class Kept(Protocol):
    """What is kept of one dataset, and serves its batches."""

    dataset: Any
    dropped: bool
    served: int
    served_batches: int
    drawn: int
    audited: int
    size_bytes: int

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The batch of these indices; None where it cannot be served."""

    def audit(self, count: int) -> None:
        """Draw `count` samples afresh and compare; a difference drops what is kept."""

    def save(self) -> None:
        """Leave it to later runs of the study, where it has a folder."""

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""


class Store:
    """One dataset's samples in one contiguous array a field: (samples, …)."""

    def __init__(
        self,
        torch: Any,
        dataset: Any,
        room: Callable[[int], bool],
        folder: Optional[str],
        dropped: Callable[[str], None],
    ) -> None:
        self.dataset = dataset
        self.dropped = False
        self.served = self.served_batches = self.drawn = self.audited = self.size_bytes = 0
        self._torch = torch
        self._numpy = importlib.import_module("numpy")
        self._length = len(dataset)
        self._room = room
        self._folder = folder
        self._say_dropped = dropped
        self._fields: List[Any] = []
        self._dtypes: List[Any] = []
        self._take: List[Any] = []
        self._present = self._numpy.zeros(self._length, dtype=bool)
        self._missing = self._length
        self._rebuild: Any = None
        self._until_audit = _AUDIT_EVERY
        self._probe = 0
        self._fetch: Any = None

    def batch(self, index: Any, fetcher: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """The batch of these indices, in fresh tensors; None where the store cannot serve it."""
        numpy = self._numpy
        rows = index if type(index) is numpy.ndarray else self._rows(index)
        if rows is None:
            return None
        if self._missing:
            absent = rows[~self._present[rows]]
            if absent.size:
                drawn = self._draw(numpy.unique(absent), absent, rows, fetcher, plain)
                if drawn is not None or self.dropped:
                    return drawn
        count = len(rows)
        self.served += count
        self.served_batches += 1
        self._until_audit -= count
        if self._until_audit <= 0:
            self._until_audit = _AUDIT_EVERY
            self.audit(1)
            if self.dropped:
                return None
        return self._gather(rows)

    def _rows(self, index: Any) -> Any:
        try:
            rows = self._numpy.asarray(index, dtype=self._numpy.int64)
        except (TypeError, ValueError, OverflowError):
            return None  # keys that are no numbers: the dataset's own business
        if (
            rows.ndim != 1
            or not rows.size
            or int(rows.view(self._numpy.uint64).max()) >= self._length
        ):
            return None
        return rows

    def _gather(self, rows: Any) -> Any:
        """One gather a field, on this thread alone, into fresh memory.

        A small parallel gather waits for a core that is busy (seen 375 times slower).
        """
        torch, leaves = self._torch, []
        for field, shape, dtype in self._take:
            fresh = torch.empty((len(rows), *shape), dtype=dtype)
            self._numpy.take(field, rows, axis=0, out=_array(torch, fresh), mode="clip")
            leaves.append(fresh)
        return self._rebuild(leaves)

    def _draw(
        self, wanted: Any, absent: Any, rows: Any, fetcher: Any, plain: Callable[[Any, Any], Any]
    ) -> Any:
        """Draw samples that are not stored yet, as the script would, and keep them."""
        batch = plain(fetcher, rows.tolist() if absent.size == rows.size else wanted.tolist())
        whole = absent.size == rows.size
        drawn_rows = rows if whole else wanted
        self.drawn += len(drawn_rows)
        leaves: List[Any] = []
        rebuild = _take_apart(batch, leaves)
        refusal = self._unfit(leaves, rebuild, len(drawn_rows))
        if not refusal and self._rebuild is None:
            refusal = self._allocate(leaves)
            self._rebuild = rebuild
        if refusal:
            self.drop(refusal)
            return batch if whole else None
        for field, leaf in zip(self._fields, leaves):
            field[drawn_rows] = _array(self._torch, leaf)
        self._present[drawn_rows] = True
        self._missing = self._length - int(self._present.sum())
        self._fetch = (fetcher, plain)
        return batch if whole else None

    def _unfit(self, leaves: List[Any], rebuild: Any, count: int) -> str:
        tensor = self._torch.Tensor
        if rebuild is None or not leaves:
            return f"a batch of {type(self.dataset).__name__} holds more than tensors"
        for leaf in leaves:
            if type(leaf) is not tensor or leaf.device.type != "cpu" or leaf.requires_grad:
                return "a batch holds tensors that are not plain CPU tensors"
            if leaf.layout is not self._torch.strided or not leaf.ndim or leaf.shape[0] != count:
                return "a batch's first dimension does not count its samples"
        if self._dtypes and [(x.dtype, tuple(x.shape[1:])) for x in leaves] != self._dtypes:
            return "samples differ in shape or type"
        return ""

    def _allocate(self, leaves: List[Any]) -> str:
        self._dtypes = [(leaf.dtype, tuple(leaf.shape[1:])) for leaf in leaves]
        sizes = [self._length * (x.numel() // x.shape[0]) * x.element_size() for x in leaves]
        self.size_bytes = sum(sizes)
        in_ram = self._folder is None and self._room(self.size_bytes)
        if not in_ram and shutil.disk_usage(self._folder_or_scratch()).free < 1.2 * self.size_bytes:
            return f"{self.size_bytes / 1e9:.1f} GB fit neither the RAM share nor the disk"
        for number, leaf in enumerate(leaves):
            like = _array(self._torch, leaf)
            shape = (self._length, *leaf.shape[1:])
            self._fields.append(self._new_field(number, shape, like.dtype, in_ram))
        self._take = [
            (field, shape, dtype) for field, (dtype, shape) in zip(self._fields, self._dtypes)
        ]
        return ""

    def _folder_or_scratch(self) -> str:
        if self._folder is None:
            return tempfile.gettempdir()
        os.makedirs(self._folder, exist_ok=True)
        return self._folder

    def _new_field(self, number: int, shape: Tuple[int, ...], dtype: Any, in_ram: bool) -> Any:
        numpy = self._numpy
        if in_ram:
            return numpy.empty(shape, dtype=dtype)
        if self._folder is None:
            with tempfile.TemporaryFile() as file:
                return numpy.memmap(file, dtype=dtype, mode="w+", shape=shape)
        path = os.path.join(self._folder, f"field-{number}")
        filled = os.path.join(self._folder, "present.npy")
        if not os.path.exists(filled):
            return numpy.memmap(path, dtype=dtype, mode="w+", shape=shape)
        # Filled by an earlier run of this study; what is written from here on stays private.
        self._present = numpy.load(filled)
        self._missing = self._length - int(self._present.sum())
        return numpy.memmap(path, dtype=dtype, mode="c", shape=shape)

    def save(self) -> None:
        """Leave the store to later runs of the study, where it has a folder."""
        if self._folder is None or self.dropped or not self._fields:
            return
        filled = os.path.join(self._folder, "present.npy")
        if not os.path.exists(filled):
            for field in self._fields:
                field.flush()
            self._numpy.save(filled, self._present)
            with open(os.path.join(self._folder, "about.json"), "w", encoding="utf-8") as file:
                json.dump({"samples": int(self._present.sum()), "bytes": self.size_bytes}, file)

    def audit(self, count: int) -> None:
        """Draw `count` stored samples afresh and compare; a difference drops the store."""
        if self._fetch is None or self._missing == self._length:
            return
        fetcher, plain = self._fetch
        stored = self._numpy.flatnonzero(self._present) if self._missing else None
        for _ in range(count):
            # A walk by a large prime: no random stream of the script is touched.
            self._probe = (self._probe + 7_368_787) % self._length
            row = self._probe if stored is None else int(stored[self._probe % len(stored)])
            leaves: List[Any] = []
            _take_apart(plain(fetcher, [row]), leaves)
            kept: List[Any] = []
            _take_apart(self._gather(self._numpy.array([row])), kept)
            self.audited += 1
            if self.dropped:
                return
            if [bytes_of(x) for x in leaves] != [bytes_of(x) for x in kept]:
                self.drop(f"sample {row} drawn afresh differs from the stored one")
                return

    def drop(self, reason: str) -> None:
        """Serve nothing any more."""
        if not self.dropped:
            self.dropped = True
            self._fields, self._take = [], []
            self._say_dropped(reason)


def _array(torch: Any, tensor: Any) -> Any:
    """A numpy view of a CPU tensor; of the same width where numpy lacks its type."""
    if tensor.dtype in (torch.bfloat16,):
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def _take_apart(batch: Any, leaves: List[Any]) -> Any:
    """Append the tensors of a batch to `leaves`; gives what puts such leaves together again.

    None where the batch holds anything but tensors in lists, tuples and dicts.
    """
    if hasattr(batch, "element_size"):
        place = len(leaves)
        leaves.append(batch)
        return lambda fresh: fresh[place]
    if type(batch) is dict:
        parts = {key: _take_apart(value, leaves) for key, value in batch.items()}
        if None in parts.values():
            return None
        return lambda fresh: {key: part(fresh) for key, part in parts.items()}
    if isinstance(batch, (list, tuple)):
        items = [_take_apart(value, leaves) for value in batch]
        if None in items:
            return None
        if hasattr(batch, "_fields"):
            cls = type(batch)
            return lambda fresh: cls(*(item(fresh) for item in items))
        if type(batch) is list:
            return lambda fresh: [item(fresh) for item in items]
        if type(batch) is tuple:
            return lambda fresh: tuple(item(fresh) for item in items)
    return None
