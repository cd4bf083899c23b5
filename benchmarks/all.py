"""Every benchmark of this folder, one after the other, on an otherwise idle machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ORDER = ("starting.py", "observing.py", "store.py", "image_folder.py", "verdicts.py",
         "exhaustive.py", "exhaustive.py resnet-keras", "bottlenecks.py",
         "workloads.py")  # fmt: skip

if __name__ == "__main__":
    for name, *arguments in map(str.split, ORDER):
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name(name)), *arguments], check=True
        )
