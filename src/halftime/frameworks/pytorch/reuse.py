"""Stores that outlive a run: found again by a hint, trusted only after samples were compared."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import shutil
import sys
from typing import Any, Dict, Optional

from .batches import bytes_of

COMPARED_ON_REUSE = 64
"""Samples that are drawn afresh and compared before a store of an earlier run is used."""


def place_for(torch: Any, dataset: Any, folder: str) -> str:
    """The folder of this dataset's store below `folder`, which is made for its owner alone.

    The name is a hint: a checksum of the dataset's code, its length, what three of its samples
    are, and the versions of what decodes them. Raises PermissionError where others may write.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.stat(folder)
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others: stores are not kept there")
    digest = hashlib.sha256()
    for part in (_code_of(type(dataset)), str(len(dataset)), _versions(torch)):
        digest.update(part.encode("utf-8", "replace"))
    for place in (0, len(dataset) // 2, len(dataset) - 1):
        digest.update(repr(_outline(torch, dataset[place])).encode())
    return os.path.join(folder, f"{type(dataset).__name__}-{digest.hexdigest()[:20]}")


def publish(partial: str, folder: str, about: Dict[str, Any]) -> None:
    """Give a store that has been written its name: whole, or not at all.

    Where another process was first, its store stays.
    """
    with open(os.path.join(partial, "about.json"), "w", encoding="utf-8") as file:
        json.dump(about, file)
    try:
        os.rename(partial, folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)


def read_about(folder: str) -> Optional[Dict[str, Any]]:
    """What a store says of itself; None where there is none, or none that was finished."""
    try:
        with open(os.path.join(folder, "about.json"), encoding="utf-8") as file:
            about: Dict[str, Any] = json.load(file)
        return about
    except (OSError, ValueError):
        return None


def keep_within(folder: str, most_bytes: int) -> None:
    """Remove the stores that were not used for longest until the rest fits."""
    found = []
    for entry in os.scandir(folder):
        about = read_about(entry.path) if entry.is_dir(follow_symlinks=False) else None
        if about is not None:
            found.append((os.stat(entry.path).st_mtime, entry.path, int(about["bytes"])))
    total = sum(size for _, _, size in found)
    for _, path, size in sorted(found):
        if total <= most_bytes:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= size


def _code_of(cls: type) -> str:
    inspect = importlib.import_module("inspect")
    words = []
    for owner in cls.__mro__[:-1]:
        try:
            words.append(inspect.getsource(owner))
        except (OSError, TypeError):
            words.append(owner.__qualname__)
    return "\n".join(words)


def _versions(torch: Any) -> str:
    names = ("numpy", "PIL", "torchvision")
    known = [f"{n} {getattr(sys.modules[n], '__version__', '')}" for n in names if n in sys.modules]
    return f"{platform.python_version()} {torch.__version__} {known}"


def _outline(torch: Any, sample: Any) -> Any:
    if torch.is_tensor(sample):
        return hashlib.sha256(bytes_of(sample)).hexdigest()
    if isinstance(sample, dict):
        return {key: _outline(torch, value) for key, value in sample.items()}
    if isinstance(sample, (list, tuple)):
        return [_outline(torch, value) for value in sample]
    raw = sample.tobytes() if hasattr(sample, "tobytes") else repr(sample).encode()
    return hashlib.sha256(raw).hexdigest()
