"""An image folder through the plain DataLoader, under the store, and by tf.data, Grain and SPDL.

300 photographs of about 500 x 375, resized and cropped to 224 x 224; batches of 25. Each drain is a
process of its own; the first pass and the mean of the four after it are told apart. Grain and SPDL
where they are installed (pip install grain spdl).

python benchmarks/image_folder.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import halftime
from side_by_side import Timing, heading, show, side_by_side, store_plan

SCRIPT = """
import json, random, sys, time
sys.path.insert(0, sys.argv[2])
import numpy as np
import photographs
kind = sys.argv[1]
side, batch = 224, 25
folder = photographs.find(None).train
files = sorted(folder.glob("*/*.jpg"))
names = sorted(path.name for path in folder.iterdir())
labels = [names.index(path.parent.name) for path in files]
def drain(batches):
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return (time.perf_counter() - start) / count
if kind in ("fixed", "random"):
    import torch
    from resnet_pytorch import (CenterCrop, Compose, ImageFolder, Normalise, RandomCrop,
                                RandomFlip, Resize)
    middle = [RandomCrop(side), RandomFlip()] if kind == "random" else [CenterCrop(side)]
    data = ImageFolder(folder, Compose([Resize(side * 9 // 8), *middle, Normalise()]))
    make = lambda: torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True)
    loader = make()
elif kind == "tf.data":
    import tensorflow as tf
    def decoded(path, label):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.resize(image, (side, side))
        return (image / 255.0 - 0.45) / 0.25, label
    data = tf.data.Dataset.from_tensor_slices(([str(p) for p in files], labels))
    loader = data.map(decoded, num_parallel_calls=tf.data.AUTOTUNE).cache()
    loader = loader.shuffle(300).batch(batch).prefetch(tf.data.AUTOTUNE)
else:
    from PIL import Image
    def load(index):
        image = Image.open(files[index]).convert("RGB").resize((side, side))
        return (np.asarray(image, dtype=np.float32) / 255 - 0.45) / 0.25, labels[index]
    if kind == "grain":
        import grain
        source = grain.MapDataset.source(range(len(files))).shuffle(seed=0).map(load)
        loader = source.to_iter_dataset().batch(batch)
    else:
        from spdl.pipeline import PipelineBuilder
        class Passes:
            def __iter__(self):
                order = random.sample(range(len(files)), len(files))
                pipeline = (PipelineBuilder().add_source(iter(order)).pipe(load, concurrency=2)
                            .aggregate(batch).add_sink(4).build(num_threads=2))
                with pipeline.auto_stop():
                    yield from pipeline
        loader = Passes()
first = drain(loader)
print(json.dumps([sum(drain(loader) for _ in range(4)) / 4, first]))
"""


def main() -> None:
    workloads = str(Path(halftime.__file__).parent / "workloads")
    first: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "drain.py"
        script.write_text(SCRIPT)
        plan = Path(folder) / "plan.toml"

        def drained(name: str, kind: str, stored: bool) -> float:
            plan.write_text(store_plan(script, kind, workloads))
            ours = [sys.executable, "-m", "halftime", "run", "-q", "--plan", str(plan)]
            command = [*(ours if stored else [sys.executable]), str(script), kind, workloads]
            said = subprocess.run(command, capture_output=True, text=True, check=True)
            again, at_first = json.loads(said.stdout.splitlines()[-1])
            first.setdefault(name, []).append(at_first)
            return float(again)

        arms = {
            "plain": ("fixed", False),
            "store": ("fixed", True),
            "plain, random crops": ("random", False),
            "store, random crops": ("random", True),
        }
        others = {"tf.data": "tensorflow", "grain": "grain", "spdl": "spdl"}
        arms |= {name: (name, False) for name, package in others.items() if find_spec(package)}
        heading("image folder")
        seen = side_by_side(
            {name: lambda n=name, a=arm: drained(n, *a) for name, arm in arms.items()}, rounds=5
        )
    for name, timing in seen.items():
        middle = sorted(first[name])[len(first[name]) // 2]
        print(f"{name}: {timing.median * 1e3:.2f} ms a batch, {middle * 1e3:.1f} in the first pass")
    show("store over plain", seen["plain"], seen["store"], "at least 20")
    random_arms = seen["plain, random crops"], seen["store, random crops"]
    show("same, random crops", *random_arms, "what the random steps leave")
    opening = [Timing(seconds=tuple(first[name])) for name in ("store", "plain")]
    show("first pass, store over plain", *opening, "at most 1.1")
    for name in set(others) & set(seen):
        show(f"{name} over store", seen[name], seen["store"], "at least 1")


if __name__ == "__main__":
    main()
