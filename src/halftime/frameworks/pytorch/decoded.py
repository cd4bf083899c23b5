"""Photographs that are decoded once: what PIL made of a JPEG file, kept on a shelf."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any, Callable, Optional, Sequence

from ...agent.patches import Patches
from .shelf import MODES, Shelf, look_of

Places = Callable[[int], Sequence[int]]


def install(shelf: Shelf, places: Places, told: Callable[[bool], None], patches: Patches) -> None:
    """Stand before PIL's decoders, where the script has imported it.

    places: the slots where the pixels of a file of that look may lie; none where nothing is kept.
    told: hears of each file whether its pixels were there. A hit is a copy of the pixels, at the
    moment when PIL would decode; mode, size and metadata are PIL's own, read from the file.
    """
    if "PIL.Image" not in sys.modules:
        return

    def remembered(original: Any) -> Any:
        def load(image: Any) -> Any:
            look = _look_of(image) if image.tile and image.mode in MODES else None
            slots = places(look) if look is not None else ()
            if look is None or not slots:
                return original(image)
            found = (shelf.get(slot, look) for slot in slots)
            kept = next((pixels for pixels in found if pixels is not None), None)
            told(kept is not None)
            if kept is None:
                access = original(image)
                any(shelf.put(slot, look, image) for slot in slots)
                return access
            image.im = kept.im
            image.tile = []
            image.readonly = 0
            if image._exclusive_fp and image._close_exclusive_fp_after_loading:
                image.fp.close()
            image.fp = None
            return original(image)

        return load

    plugin = importlib.import_module("PIL.JpegImagePlugin")
    patches.replace(plugin.JpegImageFile, "load", remembered)


def _look_of(image: Any) -> Optional[int]:
    """What tells this image from others: its file, or its bytes, and the scale that was asked for.

    A file is told by its place on the disk, its size and time of change. None for anything else.
    """
    if getattr(image, "is_animated", False):
        return None
    asked = repr((image.mode, image.size, image.decoderconfig)).encode()
    if type(image.fp) is io.BytesIO:
        return look_of(image.fp.getbuffer(), asked)
    if type(image.fp) is not io.BufferedReader or type(image.fp.raw) is not io.FileIO:
        return None  # a part of an archive has the archive's place on the disk
    try:
        status = os.fstat(image.fp.fileno())
    except (OSError, ValueError):
        return None
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return look_of(repr(file).encode(), asked)
