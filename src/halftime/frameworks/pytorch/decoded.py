"""Photographs that are decoded once: what PIL made of a JPEG file, kept on a shelf."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Callable, Sequence

from ...agent.patches import Patches
from .looks import look_of_file
from .shelf import MODES, Shelf

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
            look = look_of_file(image) if image.tile and image.mode in MODES else None
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
