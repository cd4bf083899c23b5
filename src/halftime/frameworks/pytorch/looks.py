"""What tells a value from another that comes under the same index: 63 bits of its contents."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from typing import Any, Iterator, Optional, Union

from .batches import bytes_of

_MOST_COLOURS, _GRID, _NEAREST = 256, (64, 64), 0
PLAIN = (int, float, complex, bool, str, bytes, type(None))


def look_of(*parts: Union[bytes, memoryview]) -> int:
    """63 bits that tell these bytes from others: of a million samples, no two look alike."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "big") >> 1


def look_of_value(value: Any) -> Optional[int]:
    """The look of an image, tensor, array, number or text, alone or in lists, tuples and dicts.

    An image that is not decoded yet is told by its file, and stays so. None for anything else.
    """
    try:
        return look_of(*_parts_of(value))
    except Exception:  # what has no bytes of its own, or hides them
        return None


def look_of_file(image: Any) -> Optional[int]:
    """What tells a file of PIL's from others: the file, or its bytes, and the scale asked for.

    A file is told by its place on the disk, its size and time of change. None for anything else.
    """
    if getattr(image, "is_animated", False):
        return None
    asked = repr((image.mode, image.size, getattr(image, "decoderconfig", ()))).encode()
    if type(image.fp) is io.BytesIO:
        return look_of(image.fp.getbuffer(), asked)
    if type(image.fp) is not io.BufferedReader or type(image.fp.raw) is not io.FileIO:
        return None  # a part of an archive has the archive's place on the disk
    try:
        return look_of(place_of(os.fstat(image.fp.fileno())), asked)
    except (OSError, ValueError):
        return None


def place_of(file: os.stat_result) -> bytes:
    """What tells a file from others, and from itself after a change."""
    return repr((file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns)).encode()


def is_image(value: Any) -> bool:
    """Whether a value is an image of PIL's."""
    image = sys.modules.get("PIL.Image")
    return image is not None and isinstance(value, image.Image)


def _parts_of(value: Any) -> Iterator[bytes]:
    """What is digested of a value; raises LookupError where it cannot be told from others."""
    if is_image(value):
        yield from _parts_of_image(value)
    elif hasattr(value, "element_size"):
        if value.device.type != "cpu" or not hasattr(value, "stride") or value.is_sparse:
            raise LookupError
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield bytes_of(value)
    elif type(value).__name__ == "ndarray":
        if value.dtype.kind not in "biufcSU":
            raise LookupError
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif type(value) is bytes:
        yield f"bytes{len(value)}".encode()
        yield value
    elif type(value) in PLAIN:
        yield repr(value).encode()
    elif type(value) in (list, tuple):
        yield f"{type(value).__name__}{len(value)}".encode()
        for item in value:
            yield from _parts_of(item)
    elif type(value) is dict:
        yield from _parts_of(list(value))
        yield from _parts_of(list(value.values()))
    else:
        raise LookupError


def _parts_of_image(image: Any) -> Iterator[bytes]:
    if getattr(image, "tile", None):
        # Decoding it here would take its scale from a step that asks for one (draft, thumbnail).
        look = look_of_file(image)
        if look is None:
            raise LookupError
        yield look.to_bytes(8, "big")
        return
    about = (image.mode, image.size, image.getpalette(), image.info.get("transparency"))
    yield repr((about, image.info.get("exif"))).encode()
    # A mask may differ from another anywhere, a photograph does so everywhere; and the bytes of
    # one cost as much as what is saved.
    is_photograph = image.getcolors(_MOST_COLOURS) is None
    yield (image.resize(_GRID, _NEAREST) if is_photograph else image).tobytes()
