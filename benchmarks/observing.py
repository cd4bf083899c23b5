"""What observation costs a step: steps of about 0.7 ms in PyTorch, those of mnist-keras in Keras.

A plain and an observed process of the same script take turns, 100 steps each (Keras: 10) in random
order, on the same core: what the machine does meanwhile meets both. Fresh pairs of processes, since
a process keeps its luck (memory layout) for life. The loop is the script's own, Lightning's, that
of transformers or Keras' fit (pip install lightning, transformers, keras). Beside us runs TraceML
where it is installed (pip install traceml-ai): by `traceml run`, and in a plain loop with the
`init` and `trace_step` that it asks of the script.

python benchmarks/observing.py [plain | lightning | transformers | keras]
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import halftime
from side_by_side import heading

PAIRS, TURNS = 8, 60
STEPS = {"plain": 100, "lightning": 100, "transformers": 100, "keras": 10}
TAKING_TURNS = """
import contextlib, os, sys, time
asked, answered = open(os.environ["ASKED"]), open(os.environ["ANSWERED"], "w")
done, start = 0, time.perf_counter()
def after_a_step():
    global done, start
    done += 1
    if done % STEPS == 0:
        print((time.perf_counter() - start) / STEPS, file=answered, flush=True)
        if not asked.readline():
            os._exit(0)
        start = time.perf_counter()
around = lambda model: contextlib.nullcontext()
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
if os.environ.get("TRACED"):
    import traceml_ai
    traceml_ai.init(mode="auto")
    around = traceml_ai.trace_step
opt = torch.optim.Adam(model.parameters())
for x, y in DataLoader(data, batch_size=16):
    with around(model):
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


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A process that takes turns."""

    process: subprocess.Popen[bytes]
    asked: TextIO
    answered: TextIO

    def turn(self) -> float:
        """Seconds of a step, the mean of so many."""
        self.asked.write("go\n")
        self.asked.flush()
        return float(self.answered.readline())

    def end(self) -> None:
        """End it, and what it started in sessions of their own."""
        self.asked.close()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if self.asked.name.encode() in environment.read_bytes():
                    os.kill(int(environment.parent.name), signal.SIGKILL)
        self.process.wait()


def main() -> None:
    loop = sys.argv[1] if len(sys.argv) > 1 else "plain"
    heading(f"observing, {loop}")
    core = sorted(os.sched_getaffinity(0))[-1]
    order = random.Random(0)
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        known = f"STEPS, WORKLOADS = {STEPS[loop]}, {WORKLOADS!r}"
        script.write_text(known + TAKING_TURNS + SCRIPTS[loop])
        arms = {
            "plain": [sys.executable, str(script)],
            "halftime": [sys.executable, "-m", "halftime", "run", "-q", str(script)],
        }
        if find_spec("traceml_ai") and loop != "keras":
            traceml = str(Path(sys.executable).with_name("traceml"))
            arms["traceml"] = [traceml, "run", "--aggregator-port", "PORT", str(script)]
        costs: dict[str, list[float]] = {name: [] for name in arms if name != "plain"}
        for _ in range(PAIRS):
            live = {name: started(name, arms[name], core, folder) for name in arms}
            seen: dict[str, list[float]] = {name: [] for name in arms}
            for _ in range(TURNS):
                for name in order.sample(list(arms), len(arms)):
                    seen[name].append(live[name].turn())
            for arm in live.values():
                arm.end()
            plain = statistics.fmean(seen["plain"])
            for name, mine in costs.items():
                mine.append((statistics.fmean(seen[name]) - plain) * 1e6)
            steps.append(plain * 1e6)
            said = ", ".join(f"{name} +{mine[-1]:.1f} µs" for name, mine in costs.items())
            print(f"plain {plain * 1e6:.1f} µs, {said}", flush=True)
    target = "1 % of it" if loop == "keras" else "20"
    for name, mine in costs.items():
        half = 2.365 * statistics.stdev(mine) / len(mine) ** 0.5  # t(0.975, 7 degrees of freedom)
        print(
            f"observing with {name} costs {statistics.fmean(mine):.1f} µs (±{half:.1f}, 95 %) of a "
            f"step of {statistics.fmean(steps):.0f} µs"
            + (f"; target {target}" if name == "halftime" else "")
        )


def started(name: str, command: list[str], core: int, folder: str) -> Arm:
    places = [str(Path(folder) / f"{name}-{end}") for end in ("asked", "answered")]
    for place in places:
        Path(place).unlink(missing_ok=True)
        os.mkfifo(place)
    told = {"ASKED": places[0], "ANSWERED": places[1], "TRACED": "1" * (name == "traceml")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [port if word == "PORT" else word for word in command],
        cwd=folder, env={**os.environ, **told}, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    arm = Arm(process=process, asked=Path(places[0]).open("w"), answered=Path(places[1]).open())  # noqa: SIM115
    arm.answered.readline()
    for _ in range(5):
        arm.turn()
    return arm


if __name__ == "__main__":
    main()
