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
import os
import threading
import weakref
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from ...agent.memory import available_bytes
from ...agent.patches import Patches
from ...ideas import STORE as IDEA
from . import reuse
from .decoded import Readers
from .determinism import contents_of, objects_of_the_script, randomness_of
from .fields import Fields
from .forked import in_a_fork
from .kept import Kept, Known
from .loading import make_serial
from .order import whole_order
from .pipelines import Pipelines
from .samples import Samples, bytes_of_sample
from .shelf import OwnShelf, SharedShelf, Shelf, Totals
from .split import Split

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_RAM_SHARE = 0.5
_MOST_KEPT_BYTES = 50_000_000_000
_AUDITS_AN_EPOCH = 4
_MOST_DATASETS, _MOST_OF_A_LOADER = 32, 2
_CHANGED = "what the dataset holds was changed between two draws"
OF_TRAINING = "_halftime_of_training"
"""Whether a fetcher is of the loader that feeds the training."""


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """One store over the loader that feeds the training, or why not."""
    from ...records import Proposal, Switch

    loader = facts.fed_by_torch()
    refusal = ""
    if loader is None:
        refusal = "no DataLoader feeds the training"
    elif loader.iterable:
        refusal = "an IterableDataset cannot be drawn by index"
    elif not loader.forms_batches:
        refusal = "the loader forms no batches by itself (batch_size=None)"
    elif not loader.deterministic and not loader.split:
        refusal = f"not cached: {loader.randomness or 'samples are not known to be deterministic'}"
    if refusal or loader is None:
        return [Proposal(switch=None, reason=refusal)]
    share = int(facts.available_bytes * _RAM_SHARE)
    # Workers that run random steps stay, and share what is kept; those of other loaders too.
    serial = [loader.made_as] if loader.workers and not loader.split else []
    settings = {"memory_bytes": share, "serial": serial, "shown": bool(loader.deterministic)}
    size = (loader.dataset_length or 0) * (loader.sample_bytes or 0)
    place = "in RAM" if size <= share else "in a file (over the RAM share)"
    reason = f"{loader.dataset_length} deterministic samples, {size / 1e6:.0f} MB {place}"
    if loader.split:
        reason = f"kept by sample: {loader.split}; the random steps run anew"
    switch = Switch(technique=IDEA.name, settings=settings, numerics="exact")
    return [Proposal(switch=switch, reason=reason)]


def install(
    framework: Any,
    settings: Mapping[str, Any],
    patches: Patches,
    name: str = IDEA.name,
    of_training: type[Fields] = Fields,
) -> None:
    """Serve batches from stores, one for each dataset that can be stored.

    name: of the technique that this store is. of_training: keeps the dataset that is trained on.
    """
    stores = _Stores(framework, settings, patches, name, of_training)
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
            number = self.__dict__.get("_halftime_ordinal")
            stores.iterates(loader, number)
            self._dataset_fetcher.__dict__[OF_TRAINING] = number == patches.training_loader
            order = whole_order(framework, loader)
            if order is not None:
                self._sampler_iter = order
                self._dataset_fetcher.__dict__["_halftime_from_order"] = True
            stores.audit(loader)

        return __init__

    def shared_first(original: Any) -> Any:
        def __init__(self: Any, loader: Any) -> None:
            stores.before_workers(loader)
            original(self, loader)

        return __init__

    def ended(original: Any) -> Any:
        def _next_index(self: Any) -> Any:
            try:
                return original(self)
            except StopIteration:
                if isinstance(self, loader_module._SingleProcessDataLoaderIter):
                    stores.pass_ends(self._dataset)
                raise

        return _next_index

    patches.replace(fetch_module._MapDatasetFetcher, "fetch", stored)
    # Where it is defined: others stand before it there as well.
    patches.replace(loader_module._BaseDataLoaderIter, "_next_index", ended)
    patches.replace(loader_module._MultiProcessingDataLoaderIter, "__init__", shared_first)
    patches.replace(loader_module._SingleProcessDataLoaderIter, "__init__", drawn_as_one)
    patches.at_exit(stores.report)


class _Stores:
    """The stores of this process, one a dataset; what each refused."""

    def __init__(
        self,
        torch: Any,
        settings: Mapping[str, Any],
        patches: Patches,
        name: str,
        of_training: type[Fields],
    ) -> None:
        self._torch = torch
        self._patches = patches
        self._name = name
        self._of_training = of_training
        # The plan was made when more may have been free.
        self._left_bytes: int = min(settings["memory_bytes"], int(available_bytes() * _RAM_SHARE))
        self._divided = False
        self._process = os.getpid()
        self._readers = Readers(patches)
        self._pipelines = Pipelines(patches)
        self._draws = threading.local()
        self._shown: bool = settings.get("shown", False)
        self._trained: set[int] = set()
        """The datasets of the loader that feeds the training, by their id."""
        self._folder: Optional[str] = settings.get("folder")
        self._numbered = 0
        self._reuse: Optional[str] = settings.get("reuse")
        self._known: Dict[int, Known] = {}
        self._of_loader: Dict[int, Dict[int, Any]] = {}
        """By the number of a loader: the datasets that it was made over, with the loader itself."""
        self._forgotten: List[Totals] = []
        self._guarded: Dict[int, List[Kept]] = {}
        self._guarded_classes: set[type] = set()

    def fetch(self, fetcher: Any, index: Any, plain: Callable[[Any, Any], Any]) -> Any:
        """A batch for `index`: from what is kept where it is, else as ever."""
        known = self._known.get(id(fetcher.dataset))
        kept = known.kept if known is not None else None
        from_order = "_halftime_from_order" in fetcher.__dict__
        if not hasattr(index, "__len__") and fetcher.auto_collation:
            index = list(index)  # it may be gone through but once
        if known and kept is not None and not kept.dropped and self._serves(kept, fetcher):
            rows = index if not from_order or isinstance(kept, Fields) else index.tolist()
            batch = self._draw(known, kept, rows, fetcher, plain)
            if batch is not None:
                return batch
        return plain(fetcher, index.tolist() if from_order else index)

    def _draw(
        self, known: Known, kept: Kept, rows: Any, fetcher: Any, plain: Callable[[Any, Any], Any]
    ) -> Any:
        # A fork may find the lock held by a thread that it does not have.
        here = os.getpid() == self._process
        with known.drawing if here else contextlib.nullcontext():
            self._draws.are_ours = True
            try:
                return kept.batch(rows, fetcher, plain)
            except Exception as error:
                raised, kept.scripts_own.raised = kept.scripts_own.raised, None
                if error is raised:
                    raise
                kept.drop(f"{type(error).__name__}: {error}")
                return None
            finally:
                self._draws.are_ours = False

    def _serves(self, kept: Kept, fetcher: Any) -> bool:
        """Whether what is kept of a dataset is what this loader, in this process, asks for."""
        if os.getpid() != self._process and not kept.is_shared:
            return False  # a worker would keep a copy of its own
        whole = fetcher.collate_fn is self._torch.utils.data.default_collate
        return bool(fetcher.auto_collation and (whole or not isinstance(kept, Fields)))

    def iterates(self, loader: Any, number: Any) -> None:
        """A pass over a loader without workers begins, on the script's own thread."""
        if number is not None and number == self._patches.training_loader:
            self._trained.add(id(loader.dataset))
        if number is not None:
            self._forget_older(number, loader)
        main = threading.current_thread() is threading.main_thread()
        if main and loader._dataset_kind == 0 and id(loader.dataset) not in self._known:
            self._open(loader.dataset, loader.collate_fn, loader._auto_collation)

    def _forget_older(self, number: int, loader: Any) -> None:
        """Of a loader that is made anew over one dataset after the other, two are kept.

        What is kept of a dataset keeps the dataset alive, which the script may have let go.
        """
        met = self._of_loader.setdefault(number, {})
        met[id(loader.dataset)] = weakref.ref(loader)
        gone = [key for key, one in met.items() if one() is None and key != id(loader.dataset)]
        if len(met) <= _MOST_OF_A_LOADER or not gone:
            return
        del met[gone[0]]
        known = self._known.pop(gone[0], None)
        if known is None or known.kept is None:
            return
        self._trained.discard(gone[0])
        for held in [key for key, kept in self._guarded.items() if known.kept in kept]:
            self._guarded[held] = [k for k in self._guarded[held] if k is not known.kept]
        totals = known.kept.totals()
        self._left_bytes += 0 if getattr(known.kept, "on_disk", False) else totals.size_bytes
        self._forgotten += [totals] if isinstance(known.kept, self._acting()) else []
        known.kept.save()

    def _acting(self) -> Any:
        """The class of what has an effect: beside a dataset on a GPU, host memory has none."""
        return object if self._of_training is Fields else self._of_training

    def before_workers(self, loader: Any) -> None:
        """Make what the workers of a loader will share, before they are forked."""
        known = self._known.get(id(loader.dataset))
        if known is not None and known.kept is not None and known.kept.is_shared:
            self._audit(known)
        elif known is None and loader._dataset_kind == 0:
            self._open(loader.dataset, loader.collate_fn, loader._auto_collation, loader)

    def _open(
        self, dataset: Any, collate: Any, auto_collation: bool, with_workers: Any = None
    ) -> None:
        known = Known(None)
        try:
            before = contents_of(dataset)
            kept, refusal = self._choose(dataset, collate, auto_collation, with_workers)
            known = Known(kept, before)
        except Exception as error:
            # Ours to give up; what the dataset itself raises comes again from the plain path.
            refusal = f"{type(error).__name__}: {error}"
        if refusal or known.kept is None:
            self._patches.refuse(self._name, f"{type(dataset).__name__}: {refusal}")
            self._remember_refused(dataset)
            return
        if known.kept.outdated_by_change:
            self._guard(known.kept)
        self._known[id(dataset)] = known

    def _remember_refused(self, dataset: Any) -> None:
        """While the dataset lives: scripts may make one anew for each epoch."""
        number = id(dataset)
        self._known[number] = Known(None)
        with contextlib.suppress(TypeError):  # of lists there is no weak reference
            weakref.finalize(dataset, self._known.pop, number, None).atexit = False

    def _choose(
        self, dataset: Any, collate: Any, auto_collation: bool, with_workers: Any
    ) -> Tuple[Optional[Kept], str]:
        """What is kept of a dataset, or why nothing is."""
        if not self._divided:
            self._divided = True
            self._left_bytes //= self._ranks()
        if sum(known.kept is not None for known in self._known.values()) >= _MOST_DATASETS:
            return None, f"more than {_MOST_DATASETS} datasets"
        if not auto_collation:
            return None, "the loader forms no batches by itself"
        if with_workers is not None:
            return self._shared_split(dataset, with_workers)
        if self._torch.utils.data.get_worker_info() is not None:
            return None, "a worker that was not forked would keep a copy of its own"
        return self._whole_or_split(dataset, collate)

    def _rank(self) -> List[str]:
        """The number of this process, where several train."""
        group = self._torch.distributed
        if group.is_available() and group.is_initialized():
            return [str(group.get_rank())]
        return [os.environ["RANK"]] if "RANK" in os.environ else []

    def _ranks(self) -> int:
        """Processes of this training on this machine, which share its memory."""
        ranks = os.environ.get("LOCAL_WORLD_SIZE")
        if ranks is not None:
            return max(int(ranks), 1)
        group = self._torch.distributed
        spawned = group.is_available() and group.is_initialized()
        return int(group.get_world_size()) if spawned else 1

    def _whole_or_split(self, dataset: Any, collate: Any) -> Tuple[Optional[Kept], str]:
        """Whole samples where they are the same each time; else what comes before chance."""
        torch = self._torch
        shown = self._shown and id(dataset) in self._trained
        refusal = randomness_of(torch, dataset, shown)
        if not refusal and collate is not torch.utils.data.default_collate:
            if bytes_of_sample(dataset[0]) is None:
                return None, "a sample holds more than tensors, arrays, images, numbers and text"
            return Samples(torch, dataset, self._room, self._dropped), ""
        if not refusal:
            kind = self._of_training if id(dataset) in self._trained else Fields
            return kind(torch, dataset, self._room, *self._folder_for(dataset)), ""

        def own(slots: int) -> Shelf:
            return OwnShelf(self._room)

        split = Split(torch, dataset, own, self._dropped, self._pipelines, self._readers)
        why_not = split.probe()
        if why_not:
            split.leave()
        return (None, f"{refusal}; {why_not}") if why_not else (split, "")

    def _folder_for(self, dataset: Any) -> Tuple[Optional[str], Callable[[str], None], int]:
        """Where earlier runs left this dataset's samples, who hears, and how many to compare."""
        if self._folder is not None:  # of this study: filled by a run before
            self._numbered += 1
            # Each process of a training draws a part of its own.
            name = "-".join(["store", str(self._numbered), *self._rank()])
            return os.path.join(self._folder, name), self._dropped, 0
        if self._reuse is None:
            return None, self._dropped, 0
        place = reuse.place_for(self._torch, dataset, self._reuse)
        return place, self._dropped, reuse.COMPARED_ON_REUSE

    def _shared_split(self, dataset: Any, loader: Any) -> Tuple[Optional[Kept], str]:
        """What the workers of a loader keep together, in memory that they share."""
        torch = self._torch
        context = loader.multiprocessing_context or torch.multiprocessing.get_context()
        if context.get_start_method() != "fork":
            return None, "its workers are not forked: each would keep a copy of its own"
        if not SharedShelf.works():
            return None, "this processor may reorder what workers write"
        capacity = self._left_bytes // 2
        self._left_bytes -= capacity

        def shared(slots: int) -> Shelf:
            return SharedShelf(torch, slots, capacity)

        split = Split(torch, dataset, shared, self._dropped, self._pipelines, self._readers)
        # What is opened by a sample that this process draws would be shared by the workers.
        why_not, found = in_a_fork(torch, lambda: (split.probe(), split.found()))
        if not why_not:
            split.adopt(found)
            return split, ""
        split.leave()
        self._left_bytes += capacity
        return None, why_not

    def _room(self, size: int) -> bool:
        """Whether `size` bytes still fit the share of RAM; they are then taken."""
        fits = bool(size <= self._left_bytes)
        self._left_bytes -= size if fits else 0
        return fits

    def _dropped(self, reason: str) -> None:
        self._patches.refuse(self._name, reason)
        self._patches.recorder.say(f"{self._name}: {reason}")

    def _guard(self, store: Kept) -> None:
        """An attribute of the dataset, or of what it holds, that is set anew voids the store."""
        for held in list(objects_of_the_script(store.dataset)):
            cls: Any = type(held)
            self._guarded.setdefault(id(held), []).append(store)
            if cls not in self._guarded_classes:
                self._guarded_classes.add(cls)
                self._watch_class(cls)

    def _watch_class(self, cls: Any) -> None:
        guarded, draws = self._guarded, self._draws
        original = cls.__setattr__

        def __setattr__(self: Any, name: str, value: Any) -> None:
            before = getattr(self, "__dict__", {}).get(name)
            original(self, name, value)
            if before is None and getattr(draws, "are_ours", False):
                return  # what a dataset opens or counts out at its first sample
            for store in guarded.get(id(self), ()):
                store.drop(f"{cls.__name__}.{name} was set anew after the store was opened")

        # A class of C cannot be watched; the audits remain.
        with contextlib.suppress(TypeError):
            cls.__setattr__ = __setattr__

    def audit(self, loader: Any) -> None:
        """At the start of a pass, draw a few stored samples afresh and compare."""
        known = self._known.get(id(loader.dataset))
        if known is not None:
            self._audit(known)

    def _audit(self, known: Known) -> None:
        kept = known.kept
        if kept is None or kept.dropped:
            return
        self._compare(known, kept)
        try:
            with known.drawing:
                kept.audit(_AUDITS_AN_EPOCH)
        except Exception as error:  # of the dataset, drawn when the script did not ask for it
            kept.drop(f"{type(error).__name__}: {error}")

    def pass_ends(self, dataset: Any) -> None:
        """No batch is left: what the dataset holds must be the same when the next pass begins."""
        known = self._known.get(id(dataset))
        if known is not None and known.kept is not None and not known.kept.dropped:
            self._compare(known, known.kept)

    @staticmethod
    def _compare(known: Known, kept: Kept) -> None:
        if not kept.outdated_by_change:
            return
        with contextlib.suppress(Exception):  # what cannot be looked at is left to the audits
            if not known.looks_unchanged():
                kept.drop(_CHANGED)

    def report(self) -> None:
        """Say what was served."""
        stores = [known.kept for known in self._known.values() if known.kept is not None]
        acts = [store for store in stores if isinstance(store, self._acting())]
        done = [*self._forgotten, *(store.totals() for store in acts)]
        served = sum(totals.served for totals in done)
        if served and not any(totals.dropped for totals in done):
            self._patches.took_effect(
                self._name,
                samples_served=served,
                batches_served=sum(totals.batches for totals in done),
                samples_drawn=sum(totals.drawn for totals in done),
                stored_bytes=sum(totals.size_bytes for totals in done),
                audited=sum(store.audited for store in stores),
            )
        for store in stores:
            store.save()
        if self._reuse is not None and os.path.isdir(self._reuse):
            reuse.keep_within(self._reuse, _MOST_KEPT_BYTES)
