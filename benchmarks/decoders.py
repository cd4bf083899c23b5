"""How fast decoders of JPEG are beside Pillow, and whether they give the same bytes.

The photographs of HALFTIME_DATA; whichever of OpenCV, torchvision and simplejpeg is installed.

python benchmarks/decoders.py
"""

from __future__ import annotations

import importlib.util
import io
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from side_by_side import heading, paired_ratio, side_by_side

PHOTOGRAPHS, ROUNDS = 200, 7
Decoder = Callable[[bytes], Any]


def main() -> None:
    heading("decoders of JPEG")
    folder = Path(os.environ["HALFTIME_DATA"]) / "flowers"
    files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:PHOTOGRAPHS]]
    decoders = {"Pillow": by_pillow, **others()}
    expected = [by_pillow(file) for file in files]
    seen = side_by_side({name: partial(a_photograph, of, files) for name, of in decoders.items()},
                        ROUNDS)  # fmt: skip
    for name, decode in decoders.items():
        same = sum(np.array_equal(decode(f), e) for f, e in zip(files, expected, strict=True))
        ratio, low, high = paired_ratio(seen["Pillow"], seen[name])
        print(
            f"{name}: {seen[name].median * 1e3:.2f} ms a photograph, {ratio:.2f} times as fast as "
            f"Pillow (quartiles {low:.2f} to {high:.2f}); {same} of {len(files)} the same"
        )


def a_photograph(decode: Decoder, files: list[bytes]) -> float:
    start = time.perf_counter()
    for file in files:
        decode(file)
    return (time.perf_counter() - start) / len(files)


def by_pillow(file: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def others() -> dict[str, Decoder]:
    found: dict[str, Decoder] = {}
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda file: cv2.imdecode(
            np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR
        )[:, :, ::-1]
    if importlib.util.find_spec("torchvision"):
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        torch.set_num_threads(1)
        found["torchvision.io"] = lambda file: (
            decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8), ImageReadMode.RGB)
            .permute(1, 2, 0)
            .numpy()
        )
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = simplejpeg.decode_jpeg
    return found


if __name__ == "__main__":
    main()
