"""The step of mnist-keras under stacks put together by hand, and what the end of an epoch costs.

Each arm is a process of its own: the convnet of mnist-keras on cached random images, one `fit` of
four epochs. Printed are the epochs, what `fit` still takes after the last one, and the shortest
step. An arm with the tuner shows epochs rounded up to 10 ms × (2ⁿ − 1).

python benchmarks/keras_by_hand.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import heading

SCRIPT = """
import json, sys, time
import keras, numpy as np, tensorflow as tf
asked = json.loads(sys.argv[1])
sys.path.insert(0, asked["workloads"])
if asked.get("threads"):
    tf.config.threading.set_intra_op_parallelism_threads(asked["threads"])
if asked.get("policy"):
    keras.config.set_dtype_policy(asked["policy"])
import mnist_keras
model = mnist_keras.build()
model.compile(
    "adam", "sparse_categorical_crossentropy", metrics=["accuracy"],
    steps_per_execution=asked.get("steps", 1), jit_compile=asked.get("xla", False))
images = np.random.rand(20_000, 28, 28, 1).astype("float32")
labels = np.random.randint(0, 10, 20_000)
data = tf.data.Dataset.from_tensor_slices((images, labels)).cache().shuffle(20_000).batch(64)
if not asked.get("tuner"):
    options = tf.data.Options()
    options.autotune.enabled = False
    data = data.with_options(options)
class Clock(keras.callbacks.Callback):
    ends = []
    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(time.perf_counter())
start = time.perf_counter()
model.fit(data, epochs=4, verbose=0, callbacks=[Clock()])
after = time.perf_counter() - Clock.ends[-1]
epochs = [end - begin for begin, end in zip([start, *Clock.ends], Clock.ends)]
print(json.dumps([epochs, after]))
"""
ARMS = (
    ("as it is, with the tuner", {"tuner": True}, False),
    ("without the tuner", {}, False),
    ("TensorFlow's Adam kernel", {}, True),
    ("the same, 16 steps an execution", {"steps": 16}, True),
    ("the same on one thread", {"steps": 16, "threads": 1}, True),
    ("bfloat16", {"policy": "mixed_bfloat16"}, False),
    ("bfloat16, Adam kernel, 16 steps", {"policy": "mixed_bfloat16", "steps": 16}, True),
    ("XLA", {"xla": True}, False),
)
PLAN = """
halftime_plan = 1
command = ""
script_digest = ""
framework = "keras"
study = ""
roots = []
notes = []
[gain]
speedup = 1.0
low = 1.0
high = 1.0
[proof]
status = "not proven"
numerics = "rounding"
evidence = []
missing = ""
[machine]
[[technique]]
name = "fused_optimizer"
numerics = "rounding"
settings = {}
"""


def main() -> None:
    import halftime

    workloads = str(Path(halftime.__file__).parent / "workloads")
    heading("mnist-keras by hand")
    with tempfile.TemporaryDirectory() as folder:
        script, plan = Path(folder) / "train.py", Path(folder) / "plan.toml"
        script.write_text(SCRIPT)
        plan.write_text(PLAN)
        for name, asked, fused in ARMS:
            ours = [sys.executable, "-m", "halftime", "run", "-q", "--plan", str(plan)]
            words = json.dumps({**asked, "workloads": workloads})
            command = [*(ours if fused else [sys.executable]), str(script), words]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            epochs, after = json.loads(said.splitlines()[-1])
            told = ", ".join(f"{seconds:.2f}" for seconds in epochs)
            print(
                f"{name}: {min(epochs[1:]) / 313 * 1e3:.1f} ms a step; epochs of {told} s, "
                f"{after:.2f} s after the last"
            )


if __name__ == "__main__":
    main()
