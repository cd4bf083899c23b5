"""A store that outlives a run is only trusted where it is still what the dataset gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halftime.cli import main
from halftime.frameworks.pytorch import reuse
from halftime.frameworks.pytorch.batches import digest_of
from tests.pytorch.test_store import Items, Stored

ROWS = [list(range(start, start + 10)) for start in range(0, 50, 10)]


class Shifted(Items):
    """Samples that another state of the data would give, under the same hint."""

    offset = 0


def shifted(index: int) -> Any:
    # The three samples that the hint looks at stay the same.
    return torch.tensor([index + (Shifted.offset if index not in (0, 25, 49) else 0)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def one_run(folder: Path, make: Callable[[int], Any] = shifted) -> tuple[Stored, Items]:
    """A pass over the data with a store that is kept in a folder, to its end."""
    dataset = Shifted(make)
    stored = Stored(dataset, reuse=str(folder))
    for rows in ROWS:
        assert digest_of(stored.fetch(rows)) == digest_of(stored.plain(rows))
    stored.stores.report()
    return stored, dataset


def drawn(stored: Stored) -> int:
    (kept,) = [known.kept for known in stored.stores._known.values()]
    assert kept is not None
    return kept.totals().drawn


@pytest.fixture(autouse=True)
def same_data() -> None:
    Shifted.offset = 0


def test_second_run_draws_only_what_it_compares(folder: Path) -> None:
    first, _ = one_run(folder)
    second, _ = one_run(folder)
    assert drawn(first) == 50
    # The first batch shows what a sample is like, and only then the store is found.
    assert drawn(second) == len(ROWS[0])
    assert second.notes.effects["audited"] == reuse.COMPARED_ON_REUSE
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not second.notes.refused


def test_data_that_changed_under_the_same_hint_is_stored_anew(folder: Path) -> None:
    one_run(folder)
    Shifted.offset = 1
    second, _ = one_run(folder)
    assert "is not this data" in second.notes.refused[0]
    third, _ = one_run(folder)
    assert not third.notes.refused


def test_store_whose_files_are_cut_short_is_made_anew(folder: Path) -> None:
    one_run(folder)
    (field,) = folder.glob("*/field-0")
    field.write_bytes(field.read_bytes()[:100])
    second, _ = one_run(folder)
    assert drawn(second) == 50


def test_store_that_a_crash_left_half_way_is_not_found(folder: Path) -> None:
    dataset = Shifted(shifted)
    stored = Stored(dataset, reuse=str(folder))
    stored.fetch(ROWS[0])  # and no end
    assert [path.suffix[:6] for path in folder.iterdir()] == [".part-"]
    second, _ = one_run(folder)
    assert drawn(second) == 50


def test_store_of_two_runs_at_once_is_that_of_the_first(folder: Path) -> None:
    runs = [Stored(Shifted(shifted), reuse=str(folder)) for _ in range(2)]
    for stored in runs:
        for rows in ROWS:
            stored.fetch(rows)
    for stored in runs:
        stored.stores.report()
    (kept,) = folder.iterdir()
    assert np.load(kept / "present.npy").all()


def test_folder_that_others_may_write_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        reuse.place_for(torch, Shifted(shifted), str(folder))


def test_stores_over_the_cap_leave_oldest_first(folder: Path) -> None:
    one_run(folder)
    one_run(folder, lambda index: torch.tensor([index * 3]))
    assert len(list(folder.iterdir())) == 2
    reuse.keep_within(str(folder), 50 * 8)
    assert len(list(folder.iterdir())) == 1


def test_stores_are_listed_and_cleared_and_nothing_else_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_run(folder)
    (folder / "notes.txt").write_text("mine")
    assert main(["store", "list", str(folder)]) == 0
    assert "50 samples" in capsys.readouterr().out
    assert main(["store", "clear", str(folder)]) == 0
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert main(["store", "list", str(folder / "nowhere")]) == 2
