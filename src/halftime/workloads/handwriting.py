"""MNIST images for the bundled scripts: real where they can be had, else enlarged digits."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "halftime" / "mnist"


class Handwriting(NamedTuple):
    """images: (count, 28, 28) uint8; labels: (count,) uint8; source: where they come from."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str


def load(data_dir: str | None, train: int, test: int) -> Handwriting:
    """The first `train` and `test` images of MNIST, or of the fallback, which the source names."""
    folder, source = find(data_dir)
    if folder is None:
        return enlarged_digits(train, test, source)
    arrays = [
        read_idx(folder / name)[:count]
        for name, count in zip(FILES, (train, train, test, test), strict=True)
    ]
    return Handwriting(*arrays, source=source)


def find(data_dir: str | None) -> tuple[Path | None, str]:
    """The folder with the four files: --data-dir, HALFTIME_DATA, the cache, or a download."""
    if data_dir is not None:
        folder = Path(data_dir)
        missing = [name for name in FILES if not (folder / name).exists()]
        if missing:
            raise SystemExit(
                f"--data-dir {data_dir}: no {missing[0]}; expected are {', '.join(FILES)}"
            )
        return folder, f"MNIST from {data_dir}"
    shared = os.environ.get("HALFTIME_DATA")
    if shared and all((Path(shared) / "mnist" / name).exists() for name in FILES):
        return Path(shared) / "mnist", "MNIST from HALFTIME_DATA"
    if all((CACHE / name).exists() for name in FILES):
        return CACHE, f"MNIST from {CACHE}"
    failure = download(CACHE)
    if failure is None:
        return CACHE, f"MNIST, downloaded to {CACHE}"
    return None, f"scikit-learn's digits, enlarged to 28x28 (MNIST could not be had: {failure})"


def download(folder: Path) -> str | None:
    """Fetch the four files with their checksums; the reason where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    failure = "no mirror"
    for mirror in MIRRORS:
        try:
            for name, checksum in FILES.items():
                with urllib.request.urlopen(mirror + name, timeout=10) as answer:
                    content = answer.read()
                if hashlib.md5(content).hexdigest() != checksum:
                    raise OSError(f"{name} does not have the published checksum")
                partial = folder / f"{name}.part"
                partial.write_bytes(content)
                partial.rename(folder / name)
            return None
        except OSError as error:
            failure = str(getattr(error, "reason", error))
    return failure


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, as LeCun published it."""
    with gzip.open(path, "rb") as file:
        content = file.read()
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).astype(int)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def enlarged_digits(train: int, test: int, source: str) -> Handwriting:
    """scikit-learn's 8x8 digits at 28x28, shifted and rotated; split before that."""
    try:
        from scipy import ndimage
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SystemExit(
            f"{source}; install scikit-learn for it: pip install scikit-learn"
        ) from error
    digits = load_digits()
    generator = np.random.default_rng(0)
    order = generator.permutation(len(digits.target))
    split = len(order) * 4 // 5

    def augmented(chosen: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        labels = np.zeros(count, dtype=np.uint8)
        for row in range(count):
            place = chosen[row % len(chosen)]
            image = ndimage.zoom(digits.images[place] / 16.0, 2.5, order=1)
            image = ndimage.rotate(image, generator.uniform(-12, 12), reshape=False, order=1)
            down, right = generator.integers(0, 9, size=2)
            images[row, down : down + 20, right : right + 20] = np.clip(image, 0, 1) * 255
            labels[row] = digits.target[place]
        return images, labels

    return Handwriting(*augmented(order[:split], train), *augmented(order[split:], test), source)
