"""Photographs that are decoded once: what PIL made of a JPEG file, kept in memory."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Callable, Dict, Optional, Tuple

from ...agent.patches import Patches


class Decoded:
    """Pixels of the JPEG files that were opened while a sample was drawn.

    A file is known by its name, size and time of change. A hit is a copy of the pixels, at the
    moment when PIL would decode; mode, size and metadata are PIL's own, read from the file.
    """

    def __init__(self, room: Callable[[int], bool]) -> None:
        self._room = room
        self._kept: Dict[Optional[Tuple[Any, ...]], Any] = {}
        self.drawing = False
        """Whether a sample is being drawn; nothing else is kept or served."""
        self.hits = self.decoded = 0

    def install(self, patches: Patches) -> bool:
        """Stand before PIL's decoder; False where the script has not imported PIL."""
        if "PIL.Image" not in sys.modules:
            return False
        plugin = importlib.import_module("PIL.JpegImagePlugin")

        def remembered(original: Any) -> Any:
            def load(image: Any) -> Any:
                if not self.drawing or not image.tile:
                    return original(image)
                key = _key_of(image)
                pixels = self._kept.get(key)
                if pixels is not None:
                    self.hits += 1
                    image.im = pixels.copy()
                    image.tile = []
                    image.readonly = 0
                    if image._exclusive_fp and image._close_exclusive_fp_after_loading:
                        image.fp.close()
                    image.fp = None
                    return original(image)
                access = original(image)
                width, height = image.size
                if key is not None and self._room(width * height * len(image.getbands())):
                    self._kept[key] = image.im.copy()
                    self.decoded += 1
                return access

            return load

        patches.replace(plugin.JpegImageFile, "load", remembered)
        return True


def _key_of(image: Any) -> Optional[Tuple[Any, ...]]:
    """What names the pixels of an opened file, at the scale that was asked for; None: nothing."""
    try:
        status = os.fstat(image.fp.fileno())
    except (AttributeError, OSError, ValueError):
        return None  # not a file of the disk
    asked = (image.mode, image.size, repr(image.decoderconfig))
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, *asked)
