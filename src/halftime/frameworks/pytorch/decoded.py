"""Photographs that are decoded once: what a library made of an image file, kept on a shelf."""

from __future__ import annotations

import enum
import functools
import io
import os
import threading
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Optional, Protocol, Tuple

from ...agent.imports import call_after_import
from ...agent.patches import Patches
from .looks import look_of, look_of_file, look_of_value, place_of
from .shelf import MODES

_FUNCTIONS = {
    "cv2": ("imread", "imdecode"),
    "torchvision.io.image": ("read_image", "decode_image", "decode_jpeg", "decode_png"),
    "imageio.v3": ("imread",),
}
"""What gives the same array each time for the same file, or the same bytes of one."""
_JPEG = "PIL.JpegImagePlugin"


class Files(Protocol):
    """Keeps what was made of image files."""

    def find(self, look: int) -> Optional[Any]:
        """A copy of what was made of the file of that look; None where that is not kept."""

    def keep(self, look: int, pixels: Any) -> None:
        """Keep it, where there is room."""


class Readers:
    """Stands before what decodes image files, from when the script imports it on.

    Nothing changes but while samples are drawn `with readers.keeping(files)`, on that thread.
    """

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._of_thread = threading.local()
        for name, functions in _FUNCTIONS.items():
            call_after_import(name, functools.partial(self._stand_before, functions))
        call_after_import(_JPEG, self._stand_before_jpeg)

    @contextmanager
    def keeping(self, files: Files) -> Iterator[None]:
        """What is decoded here comes from `files`, or goes there."""
        outer = self._files()
        self._of_thread.files = files
        try:
            yield
        finally:
            self._of_thread.files = outer

    def _files(self) -> Optional[Files]:
        return getattr(self._of_thread, "files", None)

    def _stand_before(self, names: Tuple[str, ...], module: Any) -> None:
        for name in names:
            if hasattr(module, name):
                self._patches.replace(module, name, functools.partial(self._remembered, name))

    def _remembered(self, name: str, original: Any) -> Any:
        def read(*args: Any, **named: Any) -> Any:
            files = self._files()
            look = None if files is None else _look_of_call(name, args, named)
            if files is None or look is None:
                return original(*args, **named)
            pixels = files.find(look)
            if pixels is None:
                self._of_thread.files = None  # one function may call the other
                try:
                    pixels = original(*args, **named)
                finally:
                    self._of_thread.files = files
                if getattr(pixels, "is_cpu", True):
                    files.keep(look, pixels)
            return pixels

        return read

    def _stand_before_jpeg(self, plugin: Any) -> None:
        """PIL decodes later than it opens: mode, size and metadata are its own each time."""
        self._patches.replace(plugin.JpegImageFile, "load", self._loaded)

    def _loaded(self, original: Callable[[Any], Any]) -> Any:
        def load(image: Any) -> Any:
            files = self._files()
            if files is None or not image.tile or image.mode not in MODES:
                return original(image)
            look = look_of_file(image)
            if look is None:
                return original(image)
            kept = files.find(look)
            if kept is None:
                access = original(image)
                files.keep(look, image)
                return access
            image.im = kept.im
            image.tile = []
            image.readonly = 0
            if image._exclusive_fp and image._close_exclusive_fp_after_loading:
                image.fp.close()
            image.fp = None
            return original(image)

        return load


def _look_of_call(name: str, args: Tuple[Any, ...], named: Dict[str, Any]) -> Optional[int]:
    """What tells this call from others: the file or the bytes it decodes, and how it is asked to.

    None where the first argument is neither, or another is more than a number, a word or a choice.
    """
    if not args:
        return None
    how = [*args[1:], *named.values()]
    if not all(isinstance(x, (int, float, str, enum.Enum, type(None))) for x in how):
        return None
    asked = repr((name, args[1:], sorted(named.items()))).encode()
    source = args[0]
    if isinstance(source, (str, os.PathLike)):
        try:
            return look_of(place_of(os.stat(source)), asked)
        except (OSError, ValueError):
            return None
    given = look_of_value(source.getvalue() if type(source) is io.BytesIO else source)
    return None if given is None else look_of(given.to_bytes(8, "big"), asked)
