"""How much later `halftime run` starts a script than plain Python; how soon --help answers.

python benchmarks/starting.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import heading, side_by_side


def main() -> None:
    program = str(Path(sys.executable).with_name("halftime"))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text("import time; print(time.perf_counter())")

        def until_first_line(command: list[str]) -> float:
            begun = time.perf_counter()
            said = subprocess.run(command, capture_output=True, text=True, check=True)
            return float(said.stdout.split()[-1]) - begun

        def until_the_end(command: list[str]) -> float:
            begun = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            return time.perf_counter() - begun

        heading("starting")
        seen = side_by_side(
            {
                "plain": lambda: until_first_line([sys.executable, str(script)]),
                "run": lambda: until_first_line(
                    [program, "run", "--python", sys.executable, str(script)]
                ),
                "help": lambda: until_the_end([program, "--help"]),
            },
            rounds=30,
        )
    later = [(b - a) * 1e3 for a, b in zip(seen["plain"].seconds, seen["run"].seconds, strict=True)]
    print(f"halftime run starts a script {statistics.median(later):.0f} ms later; target 50")
    print(f"halftime --help answers in {seen['help'].median * 1e3:.0f} ms; target 150")


if __name__ == "__main__":
    main()
