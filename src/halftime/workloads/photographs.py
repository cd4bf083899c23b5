"""Folders of photographs for the bundled scripts: flowers, else crops of two photographs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "halftime" / "photographs"
TRAIN, TEST, SIDE = 300, 75, 320


class Photographs(NamedTuple):
    """train, test: folders with a folder of JPEG files for each class; where they come from."""

    train: Path
    test: Path
    source: str


def find(data_dir: str | None) -> Photographs:
    """--data-dir with train and val in it, HALFTIME_DATA, or crops of scikit-learn's photos."""
    if data_dir is not None:
        folder = Path(data_dir)
        for name in ("train", "val"):
            if not (folder / name).is_dir():
                raise SystemExit(f"--data-dir {data_dir}: no folder {name}; expected: train, val")
        return Photographs(folder / "train", folder / "val", f"photographs from {data_dir}")
    shared = Path(os.environ.get("HALFTIME_DATA", "/nowhere")) / "flowers"
    if (shared / "train").is_dir():
        return Photographs(shared / "train", shared / "val", "flowers from HALFTIME_DATA")
    if not (CACHE / "complete").exists():
        cut_from_two_photos(CACHE)
    source = f"crops of scikit-learn's two photographs, in {CACHE}"
    return Photographs(CACHE / "train", CACHE / "val", source)


def cut_from_two_photos(folder: Path) -> None:
    """Square crops of a temple and of a flower as JPEG files; test crops from their right edges."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise SystemExit(
            "no photographs at hand; install scikit-learn for its two: pip install scikit-learn"
        ) from error
    numbers = np.random.default_rng(0)
    for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        height, width, _ = pixels.shape
        border = width * 3 // 4
        for part, count, left, right in (
            ("train", TRAIN // 2, 0, border),
            ("val", TEST // 2, border, width),
        ):
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            side = min(SIDE, right - left, height) - 32
            for number in range(count):
                x = int(numbers.integers(left, right - side))
                y = int(numbers.integers(0, height - side))
                crop = Image.fromarray(pixels[y : y + side, x : x + side])
                crop.resize((SIDE, SIDE)).save(place / f"{number:03}.jpg", quality=90)
    (folder / "complete").touch()
