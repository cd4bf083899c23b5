"""The store against the plain DataLoader and a raw gather: 60,000 images of 28x28, batches of 64.

python benchmarks/store.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import heading, show, side_by_side, store_plan

SCRIPT = """
import json, numpy, resource, sys, time, torch
from torch.utils.data import DataLoader, Dataset, Sampler
torch.manual_seed(0)
images = torch.randint(0, 256, (60000, 28, 28), dtype=torch.uint8)
labels = torch.randint(0, 10, (60000,))
class Images(Dataset):
    def __len__(self): return 60000
    def __getitem__(self, i):
        return normalize(to_tensor(images[i].numpy())), int(labels[i])
# The tensor operations that torchvision's ToTensor and Normalize make for one gray image.
def to_tensor(pixels):
    image = torch.from_numpy(numpy.array(pixels, copy=True)).view(28, 28, 1)
    return image.permute((2, 0, 1)).contiguous().to(dtype=torch.get_default_dtype()).div(255)
def normalize(image):
    image = image.clone()
    mean = torch.as_tensor((0.1307,), dtype=image.dtype, device=image.device)
    deviation = torch.as_tensor((0.3081,), dtype=image.dtype, device=image.device)
    return image.sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1))
class Own(Sampler):
    def __iter__(self): return iter(torch.randperm(60000).tolist())
    def __len__(self): return 60000
def drain(batches):
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return (time.perf_counter() - start) / count
def raw():
    order = torch.randperm(60000)
    for at in range(0, 60000, 64):
        rows = order[at : at + 64]
        yield fields[rows], labels[rows]
kind = sys.argv[1]
if kind == "raw":
    fields = ((images.float() / 255 - 0.1307) / 0.3081).unsqueeze(1)
    torch.set_num_threads(1)
    drain(raw())
    print(json.dumps([drain(raw())]))
else:
    loader = DataLoader(Images(), batch_size=64, **(
        {"sampler": Own()} if kind == "own sampler" else {"shuffle": True}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = drain(loader)
    again = drain(loader)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([again, first, taken]))
"""
STORED_BYTES = 60000 * (28 * 28 * 4 + 8)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "drain.py"
        script.write_text(SCRIPT)
        plan = Path(folder) / "plan.toml"
        memory: list[int] = []
        first: list[float] = []

        def drained(kind: str, stored: bool) -> float:
            plan.write_text(store_plan(script, kind))
            ours = [sys.executable, "-m", "halftime", "run", "-q", "--plan", str(plan)]
            command = [*(ours if stored else [sys.executable]), str(script), kind]
            said = subprocess.run(command, capture_output=True, text=True, check=True)
            seen = json.loads(said.stdout)
            if stored and kind == "torch sampler":
                memory.append(seen[2] * 1024)
                first.append(seen[1])
            return float(seen[0])

        heading("store")
        seen = side_by_side(
            {
                "plain DataLoader": lambda: drained("torch sampler", stored=False),
                "store, torch's samplers": lambda: drained("torch sampler", stored=True),
                "store, another sampler": lambda: drained("own sampler", stored=True),
                "raw gather": lambda: drained("raw", stored=False),
            },
            rounds=7,
        )
    for name, timing in seen.items():
        print(f"{name}: {timing.median * 1e6:.1f} µs a batch, {1 / timing.median:,.0f} batches/s")
    show(
        "store over plain", seen["plain DataLoader"], seen["store, torch's samplers"], "at least 20"
    )
    show(
        "store's batch over raw", seen["store, torch's samplers"], seen["raw gather"], "at most 1.5"
    )
    show("same, another sampler", seen["store, another sampler"], seen["raw gather"], "at most 2.5")
    taken = sorted(memory)[len(memory) // 2]
    print(f"memory: {taken / STORED_BYTES:.2f} of the stored fields; target at most 1.1")


if __name__ == "__main__":
    main()
