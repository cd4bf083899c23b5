"""Random transforms are never frozen: what comes before them is kept, and batches are the same."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from halftime.frameworks.pytorch.batches import copy_of
from halftime.frameworks.pytorch.decoded import Readers
from halftime.frameworks.pytorch.determinism import same
from halftime.frameworks.pytorch.looks import look_of_value
from halftime.frameworks.pytorch.pipelines import Pipelines
from halftime.frameworks.pytorch.shelf import OwnShelf, SharedShelf
from halftime.frameworks.pytorch.split import Split
from halftime.trials.candidates import propose
from tests.conftest import make_diagnosis
from tests.observed import Observed
from tests.pytorch.test_store import Notes

Trial = Callable[..., Observed]
SCRIPT = "photographs.py"
WITNESS = {"batches": True, "cycle": None, "gradients": 0}
REPLAY = {"batches": 4, "drain_seconds": 1.0}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--steps", "flip,resize,tensor"),
        ("--partner",),
        ("--twice", "--collate"),
        ("--ragged", "--collate"),
        ("--lazy", "--steps", "shrink,flip,tensor"),
    ],
    ids=" ".join,
)
def test_batches_and_losses_are_the_same_bit_for_bit(
    trial: Trial, arguments: tuple[str, ...]
) -> None:
    plain = trial(SCRIPT, *arguments, witness=WITNESS)
    seen = trial(SCRIPT, *arguments, technique="store", witness=WITNESS)
    assert seen.run.outcome == "completed", seen.run.last_lines
    effect = seen.run.effects["store"]
    assert 0 < effect["samples_drawn"] <= 2 * 48
    assert effect["samples_served"] >= 48
    assert seen.digests == plain.digests
    assert seen.run.losses == plain.run.losses
    assert seen.output == plain.output


def test_workers_share_what_is_kept_from_epoch_to_epoch(trial: Trial) -> None:
    plain = trial(SCRIPT, "--workers", "2", witness=WITNESS)
    seen = trial(SCRIPT, "--workers", "2", technique="store", witness=WITNESS)
    assert seen.run.outcome == "completed", seen.run.last_lines
    effect = seen.run.effects["store"]
    # Eight were kept by the probe. Two files may meet at one place: one is decoded again.
    assert 48 - 8 <= effect["samples_drawn"] < 60
    assert effect["samples_served"] == 4 * 48 - effect["samples_drawn"]
    assert seen.digests == plain.digests
    assert seen.run.losses == plain.run.losses


def test_pipeline_that_is_edited_in_place_is_followed_at_once(trial: Trial) -> None:
    plain = trial(SCRIPT, "--edit", witness=WITNESS)
    seen = trial(SCRIPT, "--edit", technique="store", witness=WITNESS)
    assert "changed" in dict(seen.run.refused)["store"]
    assert "store" not in seen.run.effects
    assert seen.digests == plain.digests
    assert seen.run.losses == plain.run.losses


@pytest.mark.parametrize("arguments", [(), ("--together", "--workers", "2")], ids=" ".join)
def test_files_are_decoded_once_where_no_step_can_be_told_random(
    trial: Trial, arguments: tuple[str, ...]
) -> None:
    plain = trial("decoders.py", *arguments, witness=WITNESS)
    seen = trial("decoders.py", *arguments, technique="store", witness=WITNESS)
    assert seen.run.outcome == "completed", seen.run.last_lines
    effect = seen.run.effects["store"]
    # Eight were decoded when it was looked for; two files may meet at one place of the shelf.
    assert 32 - 8 <= effect["samples_drawn"] < 48
    assert effect["samples_served"] == 4 * 32 - effect["samples_drawn"]
    assert seen.digests == plain.digests
    assert seen.run.losses == plain.run.losses


def test_dataset_with_its_own_generator_and_no_files_is_left_alone(trial: Trial) -> None:
    seen = trial("decoders.py", "--no-files", technique="store", ablation=REPLAY)
    assert "generator of its own" in dict(seen.run.refused)["store"]
    assert "store" not in seen.run.effects
    assert [loader.split for loader in seen.facts.loaders] == [""]


def test_processes_that_share_a_shelf_never_take_the_same_memory() -> None:
    slots = 400
    shelf = SharedShelf(torch, slots, capacity=10_000_000)

    def fill(first: int) -> None:
        for slot in range(first, first + slots // 2):
            shelf.put(slot % slots, slot % slots, np.full(1000, slot % slots))
        shelf.count(served=1, drawn=2)

    # More writers than any loader has workers; each slot is wanted by several at once.
    writers = [
        multiprocessing.get_context("fork").Process(target=fill, args=(number * slots // 6,))
        for number in range(6)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    fill(0)
    for slot in range(slots):
        assert np.array_equal(shelf.get(slot, slot), np.full(1000, slot))
        assert shelf.get(slot, slot + 1) is None, "another look is another value"
    assert shelf.totals()[:3] == (7, 14, 0)
    assert shelf.totals().size_bytes < slots * 8100, "each is kept once"
    shelf.drop()
    assert shelf.get(0, 0) is None


class Compose:
    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, value: Any) -> Any:
        for step in self.transforms:
            value = step(value)
        return value


class WithChances(Compose):
    def __call__(self, value: Any) -> Any:
        for step in self.transforms:
            if torch.rand(()) < 0.9:
                value = step(value)
        return value


class Noisy(torch.utils.data.Dataset[Any]):
    """Two hundred rows; the second step leaves something for later, or is random for one row."""

    def __init__(self, make: type[Compose] = Compose, leaves: bool = False, rare: int = -1) -> None:
        self.leaves, self.rare, self.left = leaves, rare, 0.0
        self.transform = make([lambda x: x + 1, self.second, lambda x: x + torch.rand(())])

    def second(self, x: Any) -> Any:
        if self.leaves:
            vars(self)["left"] = float(x[0])  # past __setattr__
        return x + torch.rand(()) if x[0] == self.rare + 1 else x * 2

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Any:
        return self.transform(torch.full((4,), float(index))) + self.left


class Replaces(Notes):
    """Patches that act, on the classes of this file."""

    def replace(self, owner: Any, name: str, make: Any) -> Any:
        original = getattr(owner, name)
        setattr(owner, name, make(original))
        return original


def split_of(data: Noisy) -> tuple[Split, list[str]]:
    notes, dropped = Replaces(), list[str]()

    def own(slots: int) -> OwnShelf:
        return OwnShelf(lambda size: True)

    split = Split(torch, data, own, dropped.append, Pipelines(notes), Readers(Notes()))  # type: ignore[arg-type]
    return split, dropped


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (Noisy(), "2 of 3 steps of a Compose"),
        (Noisy(type("Compose", (WithChances,), {})), ""),
        (Noisy(leaves=True), ""),
    ],
    ids=["chain", "chances", "leaves something"],
)
def test_pipeline_is_split_only_where_nothing_else_depends_on_its_steps(
    data: Noisy, kept: str
) -> None:
    split, _ = split_of(data)
    before = torch.get_rng_state()
    said = split.probe()
    assert bool(said) is not bool(kept), said
    assert torch.equal(torch.get_rng_state(), before)
    assert split.describe() == kept


def test_sample_whose_input_changes_at_times_is_made_anew() -> None:
    class Pasted(Noisy):
        def __getitem__(self, index: int) -> Any:
            x = torch.full((4,), float(index))
            return self.transform(x + (torch.rand(()) < 0.5 if index == 5 else 0.0))

    order = [5, 5, 5, 5, 6, 6]
    torch.manual_seed(0)
    expected = [Pasted()[row] for row in order]
    split, dropped = split_of(Pasted())
    assert split.probe() == ""
    torch.manual_seed(0)
    fetcher = SimpleNamespace(collate_fn=list)
    got = split.batch(order, fetcher, None)  # type: ignore[arg-type]
    assert torch.equal(torch.stack(got), torch.stack(expected))
    assert dropped == []


def test_step_that_is_random_for_rare_samples_is_not_frozen() -> None:
    order = [5, 6, 5, 7, 5, 6]
    plain = Noisy(rare=5)
    torch.manual_seed(0)
    expected = [plain[row] for row in order]
    split, dropped = split_of(Noisy(rare=5))
    assert split.probe() == ""
    torch.manual_seed(0)
    fetcher = SimpleNamespace(collate_fn=list)
    assert torch.equal(torch.stack(split.batch(order, fetcher, None)), torch.stack(expected))  # type: ignore[arg-type]
    assert dropped == ["a step moved the global random state of torch"]


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(24.0).reshape(2, 3, 4),
        torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
        torch.rand(5, 6)[:, :3],
        torch.tensor(3, dtype=torch.uint8),
        torch.rand(4, 5, 3).bfloat16().permute(1, 2, 0),
        np.arange(6, dtype="i2").reshape(2, 3),
    ],
    ids=["plain", "turned", "a part", "a number", "channels last", "array"],
)
def test_shared_shelf_gives_what_a_copy_would(value: Any) -> None:
    shelf = SharedShelf(torch, 1, capacity=10_000)
    assert shelf.put(0, 7, value)
    kept, copied = shelf.get(0, 7), copy_of(value)
    assert same(torch, kept, value)
    if torch.is_tensor(value):
        assert (kept.dtype, kept.shape, kept.stride()) == (
            copied.dtype, copied.shape, copied.stride()
        )  # fmt: skip


def test_shared_shelf_keeps_what_an_image_says_of_itself() -> None:
    image = Image.new("RGB", (4, 3))
    image.info["exif"] = b"turned"
    shelf = SharedShelf(torch, 1, capacity=10_000)
    assert shelf.put(0, 7, image)
    assert shelf.get(0, 7).info == {"exif": b"turned"}


LOOKS: list[tuple[Any, Any]] = [
    ("a", "b"),
    (b"a", "a"),
    (1, 1.0),
    ({"x": 1}, {"x": 2}),
    ([1, [2]], [1, [3]]),
    (torch.zeros(3), torch.zeros(1, 3)),
    (torch.zeros(60), torch.zeros(60).index_fill(0, torch.tensor([59]), 1.0)),
    (np.zeros(60), np.zeros(60, dtype="f4")),
    (np.zeros(10**6), np.eye(1000).reshape(-1)),
    (torch.zeros(512, 512), torch.zeros(512, 512).index_fill(0, torch.tensor([77]), 1.0)),
    (Image.new("L", (28, 28)), Image.fromarray(np.eye(28, dtype="u1"))),
    (Image.new("RGB", (500, 400)), Image.new("RGB", (500, 400), (0, 0, 1))),
]


@pytest.mark.parametrize(("one", "other"), LOOKS, ids=lambda value: type(value).__name__)
def test_look_tells_values_apart(one: Any, other: Any) -> None:
    assert look_of_value(one) == look_of_value(copy.deepcopy(one))
    assert look_of_value(one) != look_of_value(other)


def test_palette_is_part_of_the_look_and_what_has_none_is_told_so() -> None:
    one = Image.new("P", (8, 8))
    other = one.copy()
    one.putpalette([1, 2, 3] * 256)
    other.putpalette([3, 2, 1] * 256)
    assert look_of_value(one) != look_of_value(other)
    for value in (object(), [object()], np.array([object()]), {"x": {1}}):
        assert look_of_value(value) is None


def test_random_steps_still_give_another_sample_each_time(trial: Trial) -> None:
    seen = trial(SCRIPT, technique="store", witness=WITNESS)
    batches = [digest for digests in seen.digests for digest in digests]
    assert len({digest for _, _, digest in batches}) == len(batches)


def test_what_could_be_kept_is_a_fact_and_proposed_as_exact(trial: Trial) -> None:
    facts = trial(SCRIPT, ablation=REPLAY).facts
    loader = facts.fed_by()
    assert loader is not None
    assert loader.deterministic is False
    assert loader.split == "1 of 3 steps of a Compose and decoded images"
    candidates, _ = propose(facts, make_diagnosis(facts, wait=0.8), ("store",), ())
    assert [(c.name, c.numerics) for c in candidates] == [("store", "exact")]


def test_transform_with_a_generator_of_its_own_is_refused(trial: Trial) -> None:
    seen = trial("images.py", "--random", "own generator", technique="store")
    assert "store" not in seen.run.effects
    assert "generator of its own" in dict(seen.run.refused)["store"]


def test_file_that_changes_on_disk_is_decoded_again(trial: Trial) -> None:
    text = (
        "import os, time, torch\nfrom PIL import Image\nfrom torch import nn\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "def paint(shade):\n"
        "    Image.new('RGB', (8, 8), (shade, 0, 0)).save('a.jpg')\n"
        "    os.utime('a.jpg', (shade, shade))\n"
        "class One(Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i):\n"
        "        pixel = Image.open('a.jpg').convert('RGB').getpixel((0, 0))\n"
        "        return torch.tensor([pixel[0] / 255]) + torch.rand(1) * 1e-6\n"
        "model = nn.Linear(1, 1)\nopt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "loader = DataLoader(One(), batch_size=4)\n"
        "for shade in (200, 200, 100):\n"
        "    paint(shade)\n"
        "    for x in loader:\n"
        "        opt.zero_grad(); model(x).sum().backward(); opt.step()\n"
        "    print(round(float(x[0]) * 255))\n"
    )
    seen = trial(text, text=True, technique="store")
    assert seen.run.effects["store"]["samples_served"] > 0
    first, second, third = map(int, seen.output.split())
    assert first == second
    assert abs(third - 100) < 3
