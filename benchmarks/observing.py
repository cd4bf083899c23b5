"""What observation costs a step, on a script whose steps take about 0.7 ms.

python benchmarks/observing.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import heading, side_by_side

STEPS = 6000
SCRIPT = f"""
import time, torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
data = TensorDataset(torch.randn({STEPS} * 16, 64), torch.randint(0, 10, ({STEPS} * 16,)))
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
                      nn.Linear(128, 10))
opt = torch.optim.Adam(model.parameters())
loader = DataLoader(data, batch_size=16)
def train(steps):
    done = 0
    for x, y in loader:
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        done += 1
        if done == steps:
            break
train(300)
start = time.perf_counter()
train({STEPS})
print((time.perf_counter() - start) / {STEPS})
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(SCRIPT)

        def plain() -> float:
            return run([sys.executable, str(script)])

        def observed() -> float:
            return run([sys.executable, "-m", "halftime", "run", "-q", str(script)])

        heading("observing")
        seen = side_by_side({"plain": plain, "observed": observed}, rounds=10)
    differences = [
        (b - a) * 1e6 for a, b in zip(seen["plain"].seconds, seen["observed"].seconds, strict=True)
    ]
    low, middle, high = statistics.quantiles(differences, n=4)
    print(f"a step: plain {seen['plain'].median * 1e6:.0f} µs, "
          f"observed {seen['observed'].median * 1e6:.0f} µs")  # fmt: skip
    print(f"observing costs {middle:.1f} µs a step (quartiles {low:.1f} to {high:.1f}); target 20")


def run(command: list[str]) -> float:
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(said.stdout.split()[-1])


if __name__ == "__main__":
    main()
