"""Keras scripts that real projects have, of each of which we once said what is not so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halftime.trials import parity
from tests.observed import Observed

Trial = Callable[..., Observed]
HEAD = """
import keras, numpy as np
keras.utils.set_random_seed(0)
numbers = np.random.default_rng(0)
x = numbers.normal(size=(64, 8)).astype("float32")
y = (x.sum(axis=1) > 0).astype("float32")
"""
MODEL = """
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"),
                          keras.layers.Dropout(0.5), keras.layers.Dense(1)])
model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
"""
OWN_STEP = """
import tensorflow as tf
class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer, self.mine = keras.layers.Dense(1), keras.metrics.Mean(name="mine")
        self.moving = keras.optimizers.Adam()
    def call(self, x): return self.layer(x)
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x)[:, 0] - y) ** 2)
        trained = self.trainable_variables
        self.moving.apply(tape.gradient(loss, trained), trained)
        self.mine.update_state(loss)
        return {"loss": self.mine.result()}
model = Model()
model.compile("sgd")
"""


def ended_well(seen: Observed) -> Observed:
    assert seen.run.outcome in ("completed", "window"), seen.run.last_lines
    return seen


def test_samples_are_counted_where_no_metric_counts_them(trial: Trial) -> None:
    text = HEAD + OWN_STEP + "model.fit(x, y, batch_size=16, epochs=3, initial_epoch=1, verbose=0)"
    seen = ended_well(trial(text, text=True))
    assert (seen.run.steps, seen.run.samples) == (8, 128)
    assert seen.facts.optimizer == "Adam"
    assert seen.facts.planned_samples == 128
    bounded = ended_well(trial(text, text=True, stop_after={"samples": 48}))
    assert bounded.run.outcome == "window"


def test_length_of_a_training_that_goes_on_in_another_fit_is_not_known(trial: Trial) -> None:
    text = HEAD + MODEL + "for _ in range(3): model.fit(x, y, batch_size=16, verbose=0)\n"
    seen = ended_well(trial(text, text=True))
    assert seen.run.samples == 3 * 64
    assert seen.facts.planned_samples is None


CALLBACKS = """
calls = []
hook = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: calls.append(batch))
saver = keras.callbacks.ModelCheckpoint("kept.keras", save_freq=30)
quiet = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)
"""


def test_callbacks_that_want_batches_are_seen_and_get_them(trial: Trial) -> None:
    fit = "model.fit(x, y, batch_size=1, verbose=0, callbacks=[{}])\n"
    text = HEAD + MODEL + CALLBACKS + fit.format("quiet, hook, saver")
    assert ended_well(trial(text, text=True)).facts.batch_callbacks == (
        "LambdaCallback",
        "ModelCheckpoint",
    )
    later = HEAD + MODEL + CALLBACKS + fit.format("quiet") + fit.format("[hook]"[1:-1])
    seen = trial(
        later + "print(len(calls))", text=True, technique="steps_per_execution",
        settings={"count": 16}, framework="keras",
    )  # fmt: skip
    assert ended_well(seen).output == "64\n"
    assert "LambdaCallback" in dict(seen.run.refused)["steps_per_execution"]


@pytest.mark.parametrize("end", ["inner", "ops"])
def test_what_a_model_gives_stays_in_float32(trial: Trial, end: str) -> None:
    text = HEAD + (
        "inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, activation='relu'),\n"
        "    keras.layers.Dense(1, activation='sigmoid')])\n"
        "given = keras.Input((8,)); hidden = keras.layers.Dense(8)(given)\n"
        "if END == 'inner': out = inner(hidden)\n"
        "else: out = keras.ops.sigmoid(keras.layers.Dense(1)(hidden))\n"
        "model = keras.Model(given, out); model.compile('sgd', 'binary_crossentropy')\n"
        "model.fit(x, y, verbose=0); print(keras.backend.standardize_dtype(model(x).dtype))\n"
    ).replace("END", repr(end))
    seen = trial(
        text, text=True, technique="mixed_precision", settings={"policy": "mixed_bfloat16"},
        framework="keras",
    )  # fmt: skip
    assert ended_well(seen).output == "float32\n"
    assert ("mixed_precision" in seen.run.effects) is (end == "inner")


def test_xla_is_witnessed_by_xla_and_dropout_is_no_error(trial: Trial) -> None:
    text = HEAD + MODEL + "model.fit(x, y, batch_size=16, verbose=0)\n"
    witness = {"batches": False, "cycle": None, "gradients": 4}
    plain = trial(text, text=True, witness=witness)
    seen = trial(
        text, text=True, witness=witness, technique="compilation", settings={"jit_compile": True},
        framework="keras",
    )  # fmt: skip
    assert seen.run.effects["compilation"]["jit_compile"]
    assert plain.facts.random_layers
    share, said = parity.gradient_witness(plain.run, seen.run)
    assert share is not None, said
    assert 0 < share < 0.01, said
    # The dropout of the training itself is back.
    assert len(set(seen.run.losses)) == 4


SLICES = """
import tensorflow as tf
slices = tf.data.Dataset.from_tensor_slices((x, y))
"""
GRADIENTS = {"batches": False, "cycle": None, "gradients": 4}


def test_no_more_steps_are_run_than_the_script_asks_for(trial: Trial) -> None:
    text = (
        HEAD
        + MODEL
        + SLICES
        + (
            "endless = slices.batch(4).repeat()\n"
            "model.fit(endless, steps_per_epoch=17, epochs=2, verbose=0)\n"
            "few = model.predict(endless, steps=5, verbose=0)\n"
            "print(int(model.optimizer.iterations), few.shape)\n"
            "model.fit(endless, steps_per_epoch=16, validation_data=endless, validation_steps=3,"
            " verbose=0)\n"
            "print(int(model.optimizer.iterations))\n"
        )
    )
    seen = trial(
        text, text=True, technique="steps_per_execution", settings={"count": 16},
        framework="keras",
    )  # fmt: skip
    assert ended_well(seen).output == "34 (20, 1)\n50\n"
    assert "steps_per_execution" not in seen.run.effects
    assert "no multiple of 16" in dict(seen.run.refused)["steps_per_execution"]


def test_generator_and_a_loss_for_each_row_are_witnessed_and_seen(trial: Trial) -> None:
    text = HEAD + (
        "class Model(keras.Model):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = keras.layers.Dense(1)\n"
        "    def call(self, x): return self.layer(x)\n"
        "    def train_step(self, data):\n"
        "        told = super().train_step(data)\n"
        "        return {'loss': keras.ops.ones((16,)) * told['loss']}\n"
        "def batches():\n"
        "    while True:\n"
        "        for i in range(0, 64, 16): yield x[i:i + 16], y[i:i + 16, None]\n"
        "model = Model(); model.compile('sgd', 'mse')\n"
        "model.fit(batches(), steps_per_epoch=6, epochs=2, verbose=0)\n"
        "print(int(model.optimizer.iterations))\n"
    )
    seen = ended_well(trial(text, text=True, witness=GRADIENTS))
    assert (seen.output, seen.run.steps) == ("12\n", 12)
    assert len(seen.all("gradients")) == 4
    assert parity.shows_updates(seen.run)
    share, said = parity.gradient_witness(seen.run, seen.run)
    assert share == 0, said


UNKNOWN_LENGTH = """
import keras, numpy as np, tensorflow as tf
keras.utils.set_random_seed(0)
rows = tf.data.Dataset.range(40).filter(lambda n: n < 30)
rows = rows.map(lambda n: (tf.cast([n], "float32"), 1.0))
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile('sgd', 'mse')
model.fit(rows.batch(5), epochs=3, verbose=0)
"""


@pytest.mark.parametrize("at_once", [1, 4])
def test_epochs_whose_length_nobody_knows_have_no_step_too_many(trial: Trial, at_once: int) -> None:
    several = f"compile('sgd', 'mse', steps_per_execution={at_once})"
    seen = trial(UNKNOWN_LENGTH.replace("compile('sgd', 'mse')", several), text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.updates, seen.run.samples) == (18, 18, 90)


ENDLESS = """
import keras, numpy as np, tensorflow as tf
keras.utils.set_random_seed(0)
x = np.arange(64, dtype="float32").reshape(64, 1)
rows = tf.data.Dataset.from_tensor_slices((x, x)).map(lambda a, b: (a / 64, b / 64))
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile('sgd', 'mse')
model.fit(rows.shuffle(64).batch(8).repeat(), epochs=2, steps_per_epoch=8, verbose=0)
"""


def test_store_of_an_endless_pipeline_is_looked_at_until_it_serves(trial: Trial) -> None:
    witness = {"batches": True, "cycle": None, "gradients": 5}
    plain = trial(ENDLESS, text=True, witness=witness)
    seen = trial(ENDLESS, text=True, technique="store", settings={"most_bytes": 10**9},
                 framework="keras", witness=witness)  # fmt: skip
    assert seen.run.outcome == "completed", seen.run.last_lines
    equal, said = parity.same_batches(plain.run, seen.run, 0, from_a_store=True)
    assert equal, said
    (looked,) = seen.all("batches")
    assert looked["served"]
    assert len(looked["digests"]) > 26 * 8


def test_loader_of_torch_that_feeds_keras_is_the_one_that_is_replayed(trial: Trial) -> None:
    text = """
import keras, torch
from torch.utils.data import DataLoader, TensorDataset
def rows(count):
    return TensorDataset(torch.ones(count, 1), torch.ones(count, 1))
held_out = DataLoader(rows(20), batch_size=10)
train = DataLoader(rows(64), batch_size=8)
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile('sgd', 'mse')
model.fit(train, validation_data=held_out, epochs=2, verbose=0)
"""
    loader = trial(text, text=True).facts.fed_by()
    assert loader is not None
    assert (loader.kind, loader.batch_size, loader.batches) == ("DataLoader", 8, 8)
    assert loader.place.endswith("train.py:7")


def test_sparse_matrix_of_scipy_is_trained_on_as_ever(trial: Trial) -> None:
    text = (
        HEAD
        + MODEL
        + "import scipy.sparse\nmodel.fit(scipy.sparse.csr_matrix(x), y, epochs=2, verbose=0)\n"
    )
    seen = ended_well(trial(text, text=True))
    assert seen.run.updates == 4
    loader = seen.facts.fed_by()
    assert loader is not None
    assert loader.kind == "arrays in memory"


def test_technique_of_one_backend_leaves_a_stack_with_another(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    text = (
        "import keras, numpy as np\n"
        "class Rows(keras.utils.PyDataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, place): return np.ones((4, 8)), np.ones((4, 1))\n"
        + MODEL
        + "model.fit(Rows(), epochs=1, verbose=0)\n"
    )
    stack = {"workers": {"count": 2}, "steps_per_execution": {"count": 4}}
    seen = ended_well(trial(text, text=True, stack=stack, framework="keras"))
    assert "mixes up" in dict(seen.run.refused)["workers"]
    assert "does not know it" in dict(seen.run.refused)["steps_per_execution"]


def test_script_without_a_seed_trains_under_deterministic_kernels(trial: Trial) -> None:
    text = HEAD.replace("keras.utils.set_random_seed(0)", "") + MODEL
    text += (
        "from tensorflow.python.framework import config\n"
        "model.fit(x, y, batch_size=8, epochs=2, verbose=0)\n"
        "print(config.is_op_determinism_enabled())\n"
    )
    seen = ended_well(trial(text, text=True, deterministic=True))
    assert seen.output == "True\n"


def test_samples_of_an_evaluation_within_an_epoch_are_not_counted(trial: Trial) -> None:
    text = (
        HEAD
        + MODEL
        + (
            "class Every(keras.callbacks.Callback):\n"
            "    def on_train_batch_end(self, batch, logs=None):\n"
            "        if batch == 4: self.model.evaluate(x[:40], y[:40], verbose=0)\n"
            "model.fit(x[:60], y[:60], batch_size=8, epochs=2, verbose=0, callbacks=[Every()])\n"
        )
    )
    seen = ended_well(trial(text, text=True))
    assert (seen.run.steps, seen.run.samples) == (16, 120)
    assert len(seen.run.losses) == 14
    assert all(0 < loss < 3 for loss in seen.run.losses)


def test_pipelines_of_one_line_are_told_apart(trial: Trial) -> None:
    text = (
        HEAD
        + MODEL
        + SLICES
        + (
            "other = slices.skip(32).batch(16)\n"
            "@tf.function\n"
            "def step(x, y):\n"
            "    with tf.GradientTape() as tape: loss = keras.ops.mean((model(x)[:, 0] - y) ** 2)\n"
            "    model.optimizer.apply(tape.gradient(loss, model.trainable_variables),\n"
            "                          model.trainable_variables)\n"
            "    return {'accuracy': loss * 0 + 100.0, 'loss': loss}\n"
            "def go(rows, trains):\n"
            "    for x, y in rows: (step if trains else model)(*((x, y) if trains else (x,)))\n"
            "for _ in range(3): go(slices.batch(16), True); go(other, False)\n"
            "for (x, y), _ in zip(slices.batch(16), slices.batch(16)): step(x, y)\n"
            "for x, y in slices.batch(16).as_numpy_iterator(): step(x, y)\n"
        )
    )
    seen = ended_well(trial(text, text=True))
    # A loop on another line is another source: its first step belongs to the change.
    assert seen.run.samples == 20 * 16
    assert seen.run.steps in (19, 20)
    assert all(0 < loss < 50 for loss in seen.run.losses)


def test_pipeline_whose_generator_is_used_up_is_not_looked_at_beforehand(trial: Trial) -> None:
    text = """
import keras, numpy as np, tensorflow as tf
keras.utils.set_random_seed(0)
def rows():
    for n in range(24):
        yield np.full(3, n / 24, "float32"), np.float32(n)
once, held_out = rows(), rows()
like = (tf.TensorSpec((3,)), tf.TensorSpec(()))
def dataset(rows):
    return tf.data.Dataset.from_generator(lambda: rows, output_signature=like).batch(4)
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
history = model.fit(dataset(once), validation_data=dataset(held_out), verbose=0)
print(*(len(values) for values in history.history.values()))
"""
    plain = trial(text, text=True)
    assert (plain.run.updates, plain.output) == (6, "1 1\n")
    witness = {"batches": True, "cycle": None, "gradients": 4}
    seen = trial(text, text=True, witness=witness, fingerprint_evaluation=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.losses == plain.run.losses
    assert seen.output == plain.output
    assert seen.digests == [[]]
    assert any("gives its elements once" in note for note in seen.facts.notes)
    ablation = {"batches": 4, "drain_seconds": 0.5}
    replay = trial(text, text=True, ablation=ablation, stop_after={"seconds": 0.5})
    assert replay.run.outcome == "window", replay.run.last_lines
    assert replay.run.updates > 6
