"""Text for the bundled scripts: classics where they are, else what comes with Python."""

from __future__ import annotations

import os
import random
from pathlib import Path


def _shared(name: str) -> Path:
    return Path(os.environ.get("HALFTIME_DATA", "/nowhere")) / name


def play(data_dir: str | None) -> tuple[str, str]:
    """A long text, and where it comes from: --data-dir, Shakespeare, or Python's own pages."""
    if data_dir is not None:
        path = Path(data_dir) / "input.txt"
        if not path.exists():
            raise SystemExit(f"--data-dir {data_dir}: no input.txt in it")
        return path.read_text("utf-8"), f"text from {path}"
    path = _shared("tinyshakespeare") / "input.txt"
    if path.exists():
        return path.read_text("utf-8"), "tiny Shakespeare from HALFTIME_DATA"
    return "\n".join(_pages().values()), "the reference pages that come with Python"


def sentences() -> tuple[list[tuple[str, int]], str]:
    """(sentence, class 0 or 1) in a fixed order, and where they come from."""
    folder = _shared("rt_polarity")
    files = [sorted(folder.glob(pattern)) for pattern in ("*neg*", "*pos*")]
    found = []
    if all(files):
        source = "film reviews from HALFTIME_DATA"
        for label, (path, *_) in enumerate(files):
            lines = path.read_text("latin-1").splitlines()
            found += [(line.strip(), label) for line in lines if line.strip()]
    else:
        source = "sentences of the reference pages that come with Python, by the half of the index"
        pages = _pages()
        names = sorted(pages)
        for number, name in enumerate(names):
            text = " ".join(pages[name].split())
            found += [(part, int(2 * number >= len(names))) for part in text.split(". ") if part]
    random.Random(0).shuffle(found)
    return found, source


def _pages() -> dict[str, str]:
    from pydoc_data.topics import topics

    return dict(topics)
