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
