"""The store gives the same batches, bit for bit, or leaves the loader alone."""

from __future__ import annotations

import gc
import io
import random
import shutil
import threading
import weakref
from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.data._utils.fetch import _MapDatasetFetcher

from halftime.frameworks.pytorch import workers
from halftime.frameworks.pytorch.batches import digest_of, first_dimension, tensors_in
from halftime.frameworks.pytorch.determinism import Watched, randomness_of
from halftime.frameworks.pytorch.device_fields import DeviceFields
from halftime.frameworks.pytorch.fields import Fields
from halftime.frameworks.pytorch.handles import open_handle
from halftime.frameworks.pytorch.order import whole_order
from halftime.frameworks.pytorch.spares import Spares
from halftime.frameworks.pytorch.store import OF_TRAINING, _Stores
from halftime.ideas import STORE
from tests.conftest import make_diagnosis
from tests.observed import Observed

Trial = Callable[..., Observed]
Pair = namedtuple("Pair", "x y")


class Items(Dataset):  # type: ignore[type-arg]
    """Samples made by a function of their index."""

    def __init__(self, make: Callable[[int], Any], length: int = 50) -> None:
        self.make = make
        self.length = length
        self.drawn = [0]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        self.drawn[0] += 1
        return self.make(index)


class Notes:
    """Stands for the agent's patches: keeps what the store says."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.effects: dict[str, Any] = {}
        self.recorder = self
        self.training_loader = 0

    def refuse(self, technique: str, reason: str) -> None:
        self.refused.append(reason)

    def took_effect(self, technique: str, **evidence: Any) -> None:
        self.effects.update(evidence)

    def say(self, text: str) -> None:
        pass

    def replace(self, owner: Any, name: str, make: Any) -> Any:
        return getattr(owner, name)  # nothing of this process is changed


class Loader:
    """Stands for a DataLoader."""


class Stored:
    """A store beside the plain fetcher, on the same dataset."""

    def __init__(
        self, dataset: Any, collate: Any = None, memory: int = 10**8,
        of_training: type[Fields] = Fields, **settings: object,
    ) -> None:  # fmt: skip
        self.notes = Notes()
        self.number: int | None = None
        loader = DataLoader(dataset, batch_size=4, collate_fn=collate)
        self.fetcher = _MapDatasetFetcher(dataset, True, loader.collate_fn, False)
        whole = {"memory_bytes": memory, **settings}
        notes: Any = self.notes
        self.stores = _Stores(torch, whole, notes, STORE.name, of_training)

    def fetch(self, rows: Any, fetcher: Any = None) -> Any:
        """As a pass over a loader without workers would, for its first batch."""
        of = fetcher or self.fetcher
        loader = Loader()
        vars(loader).update(dataset=of.dataset, collate_fn=of.collate_fn, _dataset_kind=0,
                            _auto_collation=of.auto_collation)  # fmt: skip
        self.stores.iterates(loader, self.number)
        return self.stores.fetch(of, rows, _MapDatasetFetcher.fetch)

    def plain(self, rows: list[int]) -> Any:
        return _MapDatasetFetcher.fetch(self.fetcher, rows)


SAMPLES: dict[str, Callable[[int], Any]] = {
    "tensor and int": lambda i: (torch.full((3, 4), float(i)), i),
    "numpy and float": lambda i: (np.full((5,), i, dtype=np.float32), i / 7),
    "dict": lambda i: {"x": torch.tensor([i, -i]), "y": {"z": i % 3}},
    "named tuple": lambda i: Pair(torch.tensor(i), torch.zeros(2)),
    "bare tensor": lambda i: torch.tensor([i], dtype=torch.uint8),
    "bfloat16": lambda i: torch.tensor([i, i + 1], dtype=torch.bfloat16),
    "bool and half": lambda i: (torch.tensor(i % 2 == 0), torch.tensor(i, dtype=torch.float16)),
    "not a number": lambda i: torch.tensor([float("nan"), -0.0, i]),
    "complex": lambda i: torch.tensor(complex(i, 1)),
    "scalars": lambda i: [i, float(i)],
}


@pytest.mark.parametrize("name", SAMPLES)
def test_served_batch_equals_the_drawn_one_bit_for_bit(name: str) -> None:
    stored = Stored(Items(SAMPLES[name]))
    orders = [[3, 1, 2], [1, 2, 3, 49], [0, 0, 5], [49, 3, 1, 0, 5], [3, 1, 2], [7]]
    for rows in [*orders, *orders]:
        got, expected = stored.fetch(rows), stored.plain(rows)
        assert type(got) is type(expected)
        assert digest_of(got) == digest_of(expected), rows
    stored.stores.report()
    assert stored.notes.effects["batches_served"] >= len(orders)
    assert not stored.notes.refused


class OnADevice(DeviceFields):
    """Of a device that every machine has."""

    device = torch.device("cpu")


@pytest.mark.parametrize("name", SAMPLES)
def test_batch_gathered_on_a_device_equals_the_drawn_one_bit_for_bit(name: str) -> None:
    stored = Stored(Items(SAMPLES[name]), of_training=OnADevice)
    stored.number = 0
    stored.fetcher.__dict__[OF_TRAINING] = True
    orders: list[Any] = [[3, 1, 2], [0, 0, 5], [49], np.arange(50)]
    stored.fetch(list(range(50)))
    for rows in orders:
        got, expected = stored.fetch(rows), stored.plain(list(rows))
        assert type(got) is type(expected)
        assert digest_of(got) == digest_of(expected), rows
    stored.stores.report()
    assert stored.notes.effects["batches_served"] == len(orders)
    assert not stored.notes.refused


def test_batches_that_come_again_and_again_move_to_the_device() -> None:
    """Of a dataset that is never drawn whole: the rows that are there are gathered there."""
    stored = Stored(Items(SAMPLES["tensor and int"]), of_training=OnADevice)
    stored.number = 0
    stored.fetcher.__dict__[OF_TRAINING] = True
    for _ in range(20):
        for rows in ([1, 2, 3], [4, 5]):
            assert digest_of(stored.fetch(rows)) == digest_of(stored.plain(rows))
    fetched = stored.fetch([6, 1])
    assert digest_of(fetched) == digest_of(stored.plain([6, 1]))
    stored.stores.report()
    assert stored.notes.effects["batches_served"] > 20


def test_another_loader_of_the_same_dataset_is_served_on_the_host() -> None:
    stored = Stored(Items(SAMPLES["tensor and int"]), of_training=OnADevice)
    stored.number = 0
    stored.fetch(list(range(50)))
    for _ in range(20):
        stored.fetch([1, 2])
    (known,) = stored.stores._known.values()
    assert known.kept is not None
    assert known.kept.totals().served == 0


def test_dataset_that_is_not_trained_on_stays_in_host_memory() -> None:
    stored = Stored(Items(SAMPLES["scalars"]), of_training=OnADevice)
    stored.fetch(list(range(50)))
    (known,) = stored.stores._known.values()
    assert type(known.kept) is Fields


def test_served_batch_is_fresh_and_the_scripts_own_to_change() -> None:
    stored = Stored(Items(SAMPLES["tensor and int"]))
    stored.fetch([1, 2])
    first = stored.fetch([1, 2])
    first[0].zero_()
    assert digest_of(stored.fetch([1, 2])) == digest_of(stored.plain([1, 2]))


def test_each_sample_is_drawn_once() -> None:
    dataset = Items(SAMPLES["tensor and int"], length=20)
    stored = Stored(dataset)
    stored.fetch([0])
    after_proof = dataset.drawn[0]
    for _ in range(5):
        for start in range(0, 20, 5):
            stored.fetch(list(range(start, start + 5)))
    assert dataset.drawn[0] - after_proof == 19


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda i: torch.rand(2), "changed between two draws"),
        (lambda i: (torch.rand(()), torch.tensor(i))[1], "global random state of torch"),
        (lambda i: (np.random.rand(), torch.tensor(i))[1], "global random state of numpy"),
        (lambda i: torch.tensor(i) + (0 if torch.rand(()) > 1e-9 else 1), "random state of torch"),
    ],
)
def test_random_dataset_is_left_alone(make: Callable[[int], Any], said: str) -> None:
    stored = Stored(Items(make))
    stored.fetch([1, 2, 3])
    assert said in stored.notes.refused[0]


def test_generator_of_its_own_is_found_in_attributes_closures_and_globals() -> None:
    for make in (_with_closure(), _with_global, _WithAttribute()):
        stored = Stored(Items(make))
        stored.fetch([1])
        assert "generator of its own" in stored.notes.refused[0]


def _with_closure() -> Callable[[int], Any]:
    generator = np.random.default_rng(0)

    def make(index: int) -> Any:
        return torch.tensor(index if generator is not None else 0)

    return make


_GENERATOR = torch.Generator()


def _with_global(index: int) -> Any:
    return torch.tensor(index if _GENERATOR is not None else 0)


class _WithAttribute:
    def __init__(self) -> None:
        self.state = np.random.RandomState(0)

    def __call__(self, index: int) -> Any:
        return torch.tensor(index)


def test_random_states_are_as_before_the_proof() -> None:
    def make(index: int) -> Any:
        torch.rand(()), np.random.rand(), random.random()
        return torch.tensor(index)

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[2], random.getstate()
    assert randomness_of(torch, Items(make)) != ""
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[2] == before[1]
    assert random.getstate() == before[2]


def test_attribute_set_anew_voids_the_store() -> None:
    dataset = Items(SAMPLES["tensor and int"])
    stored = Stored(dataset)
    stored.fetch([1, 2])
    dataset.make = SAMPLES["bare tensor"]
    assert "was set anew" in stored.notes.refused[0]
    assert digest_of(stored.fetch([1, 2])) == digest_of(stored.plain([1, 2]))


class Held(Items):
    """Counts its draws where a store looks, and holds labels in one way or another."""

    def __init__(self, labels: Any) -> None:
        super().__init__(lambda i: (torch.tensor(i), int(self.labels[i])), len(labels))
        self.labels = labels


@pytest.mark.parametrize(
    "labels",
    [list(range(5000)), np.arange(5000), torch.arange(5000)],
    ids=["list", "array", "tensor"],
)
@pytest.mark.parametrize("within", [False, True])
def test_labels_that_are_written_to_in_place_void_the_store(labels: Any, within: bool) -> None:
    stored = Stored(Held(labels))
    loader = SimpleNamespace(dataset=stored.fetcher.dataset)
    for passes in range(4):
        stored.stores.audit(loader)
        assert stored.fetch([0, 1, 2])[1].tolist() == [0, 1, 2]
        if within and passes == 3:
            labels[4000] = 7
        stored.stores.pass_ends(loader.dataset)
    assert bool(stored.notes.refused) is within
    labels[4000] = 9
    stored.stores.audit(loader)
    assert "was changed between two draws" in stored.notes.refused[0]
    labels[4000] = 4000


def test_of_a_loader_over_one_dataset_after_the_other_two_are_kept() -> None:
    stored = Stored(Items(SAMPLES["tensor and int"]))
    stored.number = 3
    alive = []
    for _ in range(5):
        dataset = Items(SAMPLES["tensor and int"])
        alive.append(weakref.ref(dataset))
        fetcher = _MapDatasetFetcher(dataset, True, torch.utils.data.default_collate, False)
        stored.fetch([0, 1], fetcher)
        stored.fetch([0, 1], fetcher)
        del dataset, fetcher
    gc.collect()
    assert [one() is not None for one in alive] == [False, False, False, True, True]
    stored.stores.report()
    assert stored.notes.effects["samples_served"] == 10


Meant = dataclass(type("Meant", (), {"__annotations__": {"values": Any, "more": Any}}))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_batches_that_are_no_dict_are_told_by_all_their_bytes() -> None:
    rows, other = torch.zeros(64, 64), torch.zeros(64, 64)
    other[30, 30] = 1.0
    for make in (
        lambda x: UserDict(x=x),
        lambda x: Meant(x, {"y": x}),
        lambda x: SimpleNamespace(x=x),
    ):
        assert digest_of(make(rows)) == digest_of(make(rows.clone()))
        assert digest_of(make(rows)) != digest_of(make(other))
        assert len(list(tensors_in(make(rows)))) >= 1
    assert first_dimension(Meant(rows, None)) == 0
    assert first_dimension(UserDict(x=rows)) == 64
    assert first_dimension(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])) == 0
    assert digest_of(object()) == digest_of(object())


def test_sample_that_changed_behind_the_store_is_found_by_the_audit() -> None:
    values = torch.arange(50.0)
    dataset = Items(lambda i: values[i].clone())
    stored = Stored(dataset)
    for _ in range(2):
        stored.fetch(list(range(50)))
    values += 1.0
    stored.stores.audit(DataLoader(dataset))
    assert "differs from the stored one" in stored.notes.refused[0]
    assert torch.equal(stored.fetch([4, 5]), torch.tensor([5.0, 6.0]))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda i: ("name", i), "more than tensors"),
        (lambda i: torch.zeros(i // 10 + 1), "differ in shape"),
    ],
)
def test_what_does_not_fit_a_field_is_left_alone(make: Callable[[int], Any], said: str) -> None:
    stored = Stored(Items(make))
    for rows in ([1, 2], [41, 42], [1, 2]):
        assert digest_of(stored.fetch(rows)) == digest_of(stored.plain(rows))
    assert said in stored.notes.refused[0]


def test_own_collate_gets_copies_of_whole_samples() -> None:
    stored = Stored(Items(SAMPLES["bare tensor"]), collate=lambda items: torch.stack(items) * 2)
    for _ in range(2):
        batch = stored.fetch([1])
        assert torch.equal(batch, torch.tensor([[2]], dtype=torch.uint8))
        batch.zero_()
    (kept,) = [known.kept for known in stored.stores._known.values()]
    assert kept is not None
    assert kept.totals()[:3] == (1, 1, 1)


def test_dataset_over_the_ram_share_goes_to_a_file() -> None:
    stored = Stored(Items(SAMPLES["tensor and int"]), memory=10)
    for _ in range(2):
        assert digest_of(stored.fetch([3, 4])) == digest_of(stored.plain([3, 4]))
    (store,) = [known.kept for known in stored.stores._known.values()]
    assert store is not None
    assert all(isinstance(field, np.memmap) for field in store._fields)


def test_dataset_larger_than_memory_and_disk_is_left_alone(monkeypatch: Any) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    stored = Stored(Items(SAMPLES["tensor and int"]), memory=10)
    for _ in range(2):
        assert digest_of(stored.fetch([3, 4])) == digest_of(stored.plain([3, 4]))
    assert "fit neither the RAM share nor the disk" in stored.notes.refused[0]


def test_dataset_that_reads_a_database_is_stored_and_ends_no_run(trial: Trial) -> None:
    plain = trial("database.py")
    stored = trial("database.py", technique="store")
    assert stored.run.effects["store"]["batches_served"] > 0
    assert stored.run.losses == plain.run.losses
    # A connection of sqlite belongs to one thread: the trial fails by the script's own error.
    threaded = trial("database.py", technique="prefetch")
    assert threaded.run.outcome == "failed" or threaded.run.losses == plain.run.losses
    if threaded.run.outcome == "failed":
        assert "ProgrammingError" in threaded.run.cause


def test_dataset_that_reads_the_network_is_stored(trial: Trial) -> None:
    plain = trial("network.py")
    stored = trial("network.py", technique="store")
    assert stored.run.effects["store"]["batches_served"] > 0
    assert stored.run.losses == plain.run.losses


@pytest.mark.parametrize(
    ("script", "handle"),
    [("network.py", "an open connection"), ("database.py", "a database connection")],
)
def test_connection_that_workers_would_share_is_a_reason_for_none(
    trial: Trial, script: str, handle: str
) -> None:
    seen = trial(script, ablation={"batches": 8, "drain_seconds": 0.5})
    (refused,) = workers.settings_to_try(seen.facts, make_diagnosis(seen.facts))
    assert refused.reason == f"the dataset holds {handle}, which worker processes would share"


def test_open_file_is_told_from_closed_ones_and_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "samples.bin"
    path.write_bytes(b"12")
    with path.open("rb") as file:
        assert open_handle(SimpleNamespace(file=file)) == "an open file (samples.bin)"
        assert open_handle(SimpleNamespace(archive=[{"first": file}])).startswith("an open file")
    assert open_handle(SimpleNamespace(file=file)) == ""
    with path.open("ab") as log:
        assert open_handle(SimpleNamespace(file=io.BytesIO(), log=log)) == ""


def test_index_out_of_range_raises_what_the_dataset_raises() -> None:
    dataset = TensorDataset(torch.arange(10.0))
    stored = Stored(dataset)
    for _ in range(2):
        stored.fetch(list(range(10)))
    with pytest.raises(IndexError):
        stored.fetch([3, 10])
    assert torch.equal(stored.fetch([-1])[0], torch.tensor([9.0]))


def test_store_takes_what_its_fields_need_and_no_more() -> None:
    stored = Stored(Items(lambda i: torch.zeros(100), length=1000))
    stored.fetch([1])
    (store,) = [known.kept for known in stored.stores._known.values()]
    assert store is not None
    assert store.size_bytes == 1000 * 100 * 4
    assert sum(field.nbytes for field in store._fields) == store.size_bytes


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("length", [10, 12, 13])
@pytest.mark.parametrize("shuffle", [True, False])
def test_whole_order_is_that_of_torchs_samplers(
    length: int, drop_last: bool, shuffle: bool
) -> None:
    dataset = TensorDataset(torch.arange(length))
    generator = torch.Generator().manual_seed(1) if shuffle else None

    def two_epochs(fast: bool) -> list[list[int]]:
        torch.manual_seed(7)
        if generator is not None:
            generator.manual_seed(1)
        seen = []
        for given in (None, generator):
            loader = DataLoader(
                dataset, batch_size=4, shuffle=shuffle, drop_last=drop_last, generator=given
            )
            for _ in range(2):
                order = whole_order(torch, loader) if fast else iter(loader.batch_sampler)  # type: ignore[arg-type]
                assert order is not None
                seen += [list(map(int, batch)) for batch in order]
        return [*seen, [int(torch.randint(0, 10**6, ())) for _ in range(3)]]

    assert two_epochs(fast=True) == two_epochs(fast=False)


def test_other_samplers_keep_their_own_way() -> None:
    dataset = TensorDataset(torch.arange(10))
    sampler = torch.utils.data.WeightedRandomSampler([1.0] * 10, 10)
    assert whole_order(torch, DataLoader(dataset, batch_size=4, sampler=sampler)) is None
    repeated = torch.utils.data.RandomSampler(dataset, replacement=True)
    assert whole_order(torch, DataLoader(dataset, batch_size=4, sampler=repeated)) is None


@pytest.mark.parametrize("kind", ["rare", "python", "own generator"])
def test_random_transform_in_a_script_is_never_frozen(trial: Trial, kind: str) -> None:
    seen = trial("images.py", "--random", kind, technique="store")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert "store" not in seen.run.effects
    assert seen.run.refused


def test_transform_reassigned_between_epochs_voids_the_store(trial: Trial) -> None:
    plain = trial("images.py", "--random", "reassigned", "--epochs", "4")
    stored = trial("images.py", "--random", "reassigned", "--epochs", "4", technique="store")
    assert stored.run.losses == plain.run.losses
    assert "store" not in stored.run.effects


def test_script_under_the_store_has_the_same_losses_bit_for_bit(trial: Trial) -> None:
    plain = trial("images.py", "--epochs", "4")
    stored = trial("images.py", "--epochs", "4", technique="store")
    assert stored.run.effects["store"]["batches_served"] == 60
    assert stored.run.losses == plain.run.losses
    assert stored.output == plain.output


def test_store_of_a_study_is_filled_once_and_mapped_by_later_runs(
    trial: Trial, tmp_path: Any
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    settings = {"folder": str(folder)}
    plain = trial("images.py", "--epochs", "1")
    filling = trial("images.py", "--epochs", "1", technique="store", settings=settings)
    mapped = trial("images.py", "--epochs", "1", technique="store", settings=settings)
    assert mapped.run.outcome == "completed", mapped.run.last_lines
    assert plain.run.losses == filling.run.losses == mapped.run.losses
    assert mapped.run.effects["store"]["samples_served"] >= 300


def test_memory_of_large_batches_is_used_again_only_where_nobody_holds_it() -> None:
    spares = Spares(torch, lambda size: True)
    shape = (4, 100_000)
    first = spares.empty(shape, torch.float32)
    place = first.data_ptr()
    first.fill_(1.0)
    row = first[2]
    array = first.numpy()
    storage = first.untyped_storage()
    del first
    assert spares.empty(shape, torch.float32).data_ptr() != place, "a view is held"
    del row
    assert spares.empty(shape, torch.float32).data_ptr() != place, "an array is held"
    assert array.min() == 1.0
    del array
    assert spares.empty(shape, torch.float32).data_ptr() != place, "the storage itself is held"
    del storage
    again = spares.empty(shape, torch.float32)
    assert again.data_ptr() == place
    assert again.shape == shape
    assert again.is_contiguous()
    again.share_memory_()
    del again
    for _ in range(5):
        assert not spares.empty(shape, torch.float32).is_shared(), "another process may read it"


def test_large_batches_are_the_same_as_the_plain_ones_while_all_are_held() -> None:
    stored = Stored(Items(lambda index: torch.full((100_000,), float(index)), length=12))
    held = [stored.fetch([i, i + 1, i + 2, i + 3]) for i in range(9)]
    held += [stored.fetch([i + 3, i + 1, i, i + 2]) for i in range(9)]
    for i in range(9):
        assert digest_of(held[i]) == digest_of(stored.plain([i, i + 1, i + 2, i + 3]))
        assert digest_of(held[9 + i]) == digest_of(stored.plain([i + 3, i + 1, i, i + 2]))


def test_batch_that_a_dataset_makes_itself_stays_as_it_is() -> None:
    class Ready(Items):
        def __getitems__(self, rows: list[int]) -> Any:
            return torch.tensor(rows)

    stored = Stored(Ready(lambda index: torch.tensor(index)), collate=lambda batch: batch)
    for _ in range(2):
        assert torch.equal(stored.fetch([0, 1, 2]), torch.tensor([0, 1, 2]))


def test_samples_drawn_together_are_kept_for_a_collate_of_the_scripts_own() -> None:
    data = torch.utils.data.Subset(Items(lambda index: {"x": [index] * (index % 3 + 1)}), range(20))
    stored = Stored(data, collate=list)
    for rows in ([0, 1, 2, 2], [1, 2, 3, 0], [0, 1, 2, 3]):
        assert stored.fetch(rows) == stored.plain(rows)
    stored.stores.report()
    assert stored.notes.effects["samples_served"] == 3 + 4
    assert stored.notes.effects["samples_drawn"] == 4


def test_what_a_study_has_shown_of_the_training_data_is_looked_at_again_in_few_draws() -> None:
    drawn = {}
    for shown in (False, True):
        items = Items(lambda index: torch.tensor(index))
        stored = Stored(items, shown=shown)
        stored.number = 0
        stored.fetch([0, 1, 2, 3])
        drawn[shown] = items.drawn[0] - 4
    assert drawn == {False: 1 + 8 * 16 + 64, True: 1 + 8 * 2}


def test_sample_that_is_random_for_few_indices_is_not_frozen() -> None:
    def make(index: int) -> Any:
        return torch.tensor(float(index)) + (torch.rand(()) if index == 5 else 0.0)

    for collate in (None, lambda batch: torch.stack(batch) * 2):
        stored = Stored(Items(make, length=1000), collate=collate)
        torch.manual_seed(0)
        expected = [stored.plain(rows) for rows in ([1, 2, 3], [3, 5, 1], [5, 4, 5])]
        torch.manual_seed(0)
        for rows, batch in zip(([1, 2, 3], [3, 5, 1], [5, 4, 5]), expected, strict=True):
            assert torch.equal(stored.fetch(rows), batch)
        assert any("random state of torch" in reason for reason in stored.notes.refused)


def test_loaders_of_one_dataset_get_each_what_they_ask_for() -> None:
    stored = Stored(Items(lambda index: torch.tensor(index)))
    for _ in range(2):
        assert torch.equal(stored.fetch([1, 2]), torch.tensor([1, 2]))
    data, hundred = stored.fetcher.dataset, lambda batch: torch.stack(batch) * 100
    for auto, collate, rows in ((True, hundred, [1, 2]), (False, hundred, [1, 2][0])):
        other = _MapDatasetFetcher(data, auto, collate if auto else lambda x: x, False)
        got = stored.fetch(rows, other)
        assert torch.equal(got, _MapDatasetFetcher.fetch(other, rows))


def test_what_a_dataset_raises_reaches_the_script_once_and_moves_nothing() -> None:
    def make(index: int) -> Any:
        if index == 7:
            raise ValueError("a corrupt sample")
        return torch.tensor(index)

    def collate(batch: list[Any]) -> Any:
        shift = torch.rand(())
        if len(batch) == 3:
            raise KeyError("a batch of three")
        return torch.stack(batch) + shift

    stored = Stored(Items(make, length=20), collate=collate)
    torch.manual_seed(0)
    stored.fetch([1, 2])
    for rows, kind in (([1, 7], ValueError), ([1, 2, 3], KeyError)):
        before = stored.fetcher.dataset.drawn[0]
        with pytest.raises(kind):
            stored.fetch(rows)
        assert stored.fetcher.dataset.drawn[0] - before <= len(rows)
    after = torch.rand(())
    torch.manual_seed(0)
    torch.rand(2)
    assert torch.equal(torch.rand(()), after), "the two batches that were collated drew one each"
    assert torch.is_tensor(stored.fetch([1, 2]))


def test_generator_that_is_made_late_is_found_before_it_is_drawn_from() -> None:
    class Late(Items):
        handle: Any = None
        numbers: Any = None
        draws_own = False

        def __getitem__(self, index: int) -> Any:
            if self.handle is None:
                self.handle = object()
                self.numbers = np.random.default_rng(0) if self.draws_own else None
            return super().__getitem__(index)

    quiet, random = Late(lambda index: torch.tensor(index)), Late(lambda index: torch.tensor(index))
    random.draws_own = True
    assert randomness_of(torch, quiet) == ""
    assert "generator of its own" in randomness_of(torch, random)
    assert random.handle is random.numbers is None, "the script makes it, as it would"


def test_dataset_that_opens_its_file_at_the_first_sample_is_stored() -> None:
    class Opens(Items):
        handle: Any = None

        def __getitem__(self, index: int) -> Any:
            if self.handle is None:
                self.handle = object()
            return super().__getitem__(index)

    stored = Stored(Opens(lambda index: torch.tensor(index)))
    for _ in range(2):
        assert torch.equal(stored.fetch([3, 1]), torch.tensor([3, 1]))
    stored.stores.report()
    assert stored.notes.effects["samples_served"] == 2


def test_numbers_that_the_script_draws_beside_a_thread_of_ours_are_left_alone() -> None:
    stored = Stored(Items(lambda index: (torch.rand(()), torch.tensor(index))[1], length=100))
    quiet = Stored(Items(lambda index: torch.tensor(index), length=100))
    quiet.fetch([0])
    moved = torch.get_rng_state()

    def elsewhere() -> None:
        watched = Watched(torch)
        torch.rand(3)
        assert watched.moved() is None
        watched.put_back()
        assert torch.equal(quiet.fetch([1, 2]), torch.tensor([1, 2]))
        stored.fetch([1])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not torch.equal(torch.get_rng_state(), moved)
    assert not quiet.notes.refused
    assert len(stored.stores._known) == 0, "no dataset is opened on another thread"


class Compose:
    """As torchvision's, with a first step that is random."""

    transforms = (lambda x: x + torch.rand(()),)


def test_datasets_that_are_refused_are_not_kept_alive() -> None:
    stored = Stored(Items(lambda index: torch.tensor(index)))
    alive = []
    for _ in range(40):
        data = Items(lambda index: torch.rand(()))
        data.transform = Compose()  # type: ignore[attr-defined]
        fetcher = _MapDatasetFetcher(data, True, stored.fetcher.collate_fn, False)
        stored.fetch([1], fetcher)
        alive.append(weakref.ref(data))
    del data, fetcher
    gc.collect()
    assert not [reference for reference in alive if reference() is not None]
    assert len(stored.stores._known) == 0
