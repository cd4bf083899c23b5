"""What observation costs a step: steps of about 0.7 ms in PyTorch, those of mnist-keras in Keras.

A plain and an observed process of the same script take turns, 100 steps each (Keras: 10) in random
order, on the same core: what the machine does meanwhile meets both. Fresh pairs of processes, since
a process keeps its luck (memory layout) for life. The loop is the script's own, Lightning's, that
of transformers or Keras' fit (pip install lightning, transformers, keras).

python benchmarks/observing.py [plain | lightning | transformers | keras]
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import halftime
from side_by_side import heading

PAIRS, TURNS = 8, 60
STEPS = {"plain": 100, "lightning": 100, "transformers": 100, "keras": 10}
TAKING_TURNS = """
import os, sys, time
done, start = 0, time.perf_counter()
def after_a_step():
    global done, start
    done += 1
    if done % STEPS == 0:
        print((time.perf_counter() - start) / STEPS, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        start = time.perf_counter()
"""
IN_TORCH = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
data = TensorDataset(torch.randn(200_000 * 16, 8), torch.randint(0, 10, (200_000 * 16,)))
model = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
                      nn.Linear(256, 10))
"""
SCRIPTS = {
    "plain": IN_TORCH
    + """
opt = torch.optim.Adam(model.parameters())
for x, y in DataLoader(data, batch_size=16):
    opt.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    after_a_step()
""",
    "lightning": IN_TORCH
    + """
import lightning.pytorch as pl
class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model
    def training_step(self, batch, number):
        x, y = batch
        return F.cross_entropy(self.model(x), y)
    def on_train_batch_end(self, *args):
        after_a_step()
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
           enable_progress_bar=False, enable_model_summary=False).fit(
    Model(), DataLoader(data, batch_size=16))
""",
    "transformers": IN_TORCH
    + """
from transformers import Trainer, TrainerCallback, TrainingArguments
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, x, labels):
        logits = self.model(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}
class Turns(TrainerCallback):
    def on_step_end(self, *args, **named):
        after_a_step()
def collate(rows):
    return {"x": torch.stack([x for x, _ in rows]), "labels": torch.stack([y for _, y in rows])}
Trainer(model=Model(), data_collator=collate, train_dataset=data, callbacks=[Turns()],
        args=TrainingArguments(output_dir="out", num_train_epochs=1, use_cpu=True, report_to=[],
                               per_device_train_batch_size=16, save_strategy="no",
                               logging_strategy="no", disable_tqdm=True,
                               remove_unused_columns=False)).train()
""",
    "keras": """
sys.path.insert(0, WORKLOADS)
import keras, mnist_keras
import numpy as np
import tensorflow as tf
class Turns(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        after_a_step()
images = np.random.default_rng(0).integers(0, 255, (2000, 28, 28)).astype("uint8")
data = tf.data.Dataset.from_tensor_slices((images, images[:, 0, 0] % 10))
data = data.map(mnist_keras.normalised).cache().repeat().batch(64)
model = mnist_keras.build()
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(data, steps_per_epoch=1_000_000, callbacks=[Turns()], verbose=0)
""",
}
WORKLOADS = str(Path(halftime.__file__).parent / "workloads")


def main() -> None:
    loop = sys.argv[1] if len(sys.argv) > 1 else "plain"
    heading(f"observing, {loop}")
    core = sorted(os.sched_getaffinity(0))[-1]
    order = random.Random(0)
    costs: list[float] = []
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        known = f"STEPS, WORKLOADS = {STEPS[loop]}, {WORKLOADS!r}"
        script.write_text(known + TAKING_TURNS + SCRIPTS[loop])
        arms = (
            [sys.executable, str(script)],
            [sys.executable, "-m", "halftime", "run", "-q", str(script)],
        )
        for _ in range(PAIRS):
            pair = [started(command, core) for command in arms]
            seen: tuple[list[float], list[float]] = ([], [])
            for _ in range(TURNS):
                for arm in order.sample((0, 1), 2):
                    seen[arm].append(a_turn(pair[arm]))
            for process in pair:
                process.communicate()
            plain, observed = (statistics.fmean(turns) for turns in seen)
            print(f"plain {plain * 1e6:.1f} µs, observed +{(observed - plain) * 1e6:.1f} µs")
            costs.append((observed - plain) * 1e6)
            steps.append(plain * 1e6)
    half = 2.365 * statistics.stdev(costs) / len(costs) ** 0.5  # t(0.975, 7 degrees of freedom)
    print(
        f"observing costs {statistics.fmean(costs):.1f} µs (±{half:.1f}, 95 %) of a step of "
        f"{statistics.fmean(steps):.0f} µs; target {'1 % of it' if loop == 'keras' else 20}"
    )


def started(command: list[str], core: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(5):
        a_turn(process)
    return process


def a_turn(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


if __name__ == "__main__":
    main()
