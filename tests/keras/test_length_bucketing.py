"""Rows of like length in a batch: each comes once a pass, and less of a batch is padding."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf: Any = pytest.importorskip("tensorflow")

from halftime.agent.patches import Patches  # noqa: E402
from halftime.agent.recorder import Recorder  # noqa: E402
from halftime.frameworks.tensorflow.length_bucketing import install, padding_of  # noqa: E402
from halftime.trials.candidates import propose  # noqa: E402
from tests.conftest import make_diagnosis, make_facts, make_loader  # noqa: E402
from tests.observed import Observed  # noqa: E402

LENGTHS = np.random.default_rng(0).integers(1, 40, 200)
ROWS = [np.full(length, 1 + number) for number, length in enumerate(LENGTHS)]
TEXT = [" ".join(["word"] * length) for length in LENGTHS]


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The technique, switched on with pools of five batches."""
    for name in ("batch", "padded_batch"):
        monkeypatch.setattr(tf.data.Dataset, name, getattr(tf.data.Dataset, name))
    recorder = Recorder(folder=str(tmp_path), window_seconds=1.0, stop_after=None, in_trial=True)
    made: Any = Patches(recorder)
    install(tf, {"batches": 5}, made)
    return made


def rows_of(make: Callable[[Any], Any], spec: Any) -> Any:
    def generate() -> Iterator[Any]:
        yield from map(make, ROWS)

    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def whole(rows: Any) -> Any:
    return rows


def number_of(row: Any) -> int:
    return int(np.asarray(row).ravel()[0])


ONE = tf.TensorSpec((None,), tf.int64)
PIPELINES: dict[str, tuple[Callable[[Any], Any], Any, Callable[[Any], Any]]] = {
    "one tensor": (whole, ONE, whole),
    "a pair": (lambda r: (r, r[0]), (ONE, tf.TensorSpec((), tf.int64)), lambda b: b[0]),
    "a dictionary": (
        lambda r: {"label": r[0], "words": r},
        {"label": tf.TensorSpec((), tf.int64), "words": ONE},
        lambda b: b["words"],
    ),
    "frames": (
        lambda r: (np.repeat(r[:, None], 3, axis=1), r),
        (tf.TensorSpec((None, 3), tf.int64), ONE),
        lambda b: b[0],
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_each_row_comes_once_a_pass_with_others_of_its_length(name: str, patches: Any) -> None:
    make, spec, rows_in = PIPELINES[name]
    rows = rows_of(make, spec)
    plain = rows.padded_batch(8)
    apart = rows.shuffle(200, seed=1).padded_batch(8)
    assert apart.element_spec == plain.element_spec
    passes = [[rows_in(batch).numpy() for batch in apart] for _ in range(2)]
    for batches in passes:
        assert [len(batch) for batch in batches].count(8) == 25
        assert sorted(number_of(row) for batch in batches for row in batch) == [*range(1, 201)]
        for batch in batches:
            for row in batch:
                assert np.count_nonzero(row.reshape(len(row), -1)[:, 0]) == LENGTHS[row.max() - 1]
    assert [number_of(batch[0]) for batch in passes[0]] != [number_of(b[0]) for b in passes[1]]
    held = sum(batch[..., 0].size if batch.ndim == 3 else batch.size for batch in passes[0])
    assert held < 1.35 * LENGTHS.sum()
    patches.feed(apart, 0, True)
    assert patches._effects["length_bucketing"] == {"batches_a_pool": 5}


def test_text_that_is_cut_later_is_sorted_by_its_letters(patches: Any) -> None:
    def padding(rows: Any) -> float:
        cut = rows.batch(8, drop_remainder=True).map(
            lambda text, label: (tf.strings.split(text).to_tensor(), label)
        )
        assert int(cut.cardinality()) == 25
        share = padding_of(tf, cut)
        assert share is not None
        return share[0]

    rows = tf.data.Dataset.from_tensor_slices((TEXT, np.arange(200)))
    assert padding(rows) > 0.35
    assert padding(rows.shuffle(200)) < 0.2


def test_padding_is_measured_as_it_is_and_as_it_could_be() -> None:
    rows = rows_of(whole, ONE)
    lengths = LENGTHS.reshape(25, 8)
    share = padding_of(tf, rows.padded_batch(8))
    assert share is not None
    assert share[0] == pytest.approx(1 - LENGTHS.sum() / (8 * lengths.max(axis=1).sum()))
    together = np.sort(LENGTHS).reshape(25, 8)
    assert share[1] == pytest.approx(1 - LENGTHS.sum() / (8 * together.max(axis=1).sum()))
    of_one_shape = tf.data.Dataset.from_tensor_slices(np.ones((20, 3))).batch(4)
    assert padding_of(tf, of_one_shape) is None


def test_order_that_the_script_does_not_shuffle_stays(patches: Any) -> None:
    rows = rows_of(whole, ONE)
    found = [number_of(row) for batch in rows.padded_batch(8) for row in batch.numpy()]
    assert found == [*range(1, 201)]
    numbers = tf.data.Dataset.range(20).shuffle(20)  # of one shape
    before = len(patches._effects)
    patches.feed(numbers.batch(4), 0, True)
    assert len(patches._effects) == before
    assert ("length_bucketing", "no batch of shuffled rows of uneven length was found") in (
        patches._refused
    )


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({}, ""),
        ({"padding_share": None}, "no batches were seen that are padded"),
        ({"padding_share_sorted": 0.38}, "little of it is saved"),
        ({"pipeline": ("from_tensor_slices", "batch")}, "not shuffled"),
        ({"batches": 7}, "only 7 batches"),
        ({"kind": "arrays in memory"}, "not fed by a tf.data pipeline"),
    ],
)
def test_it_is_proposed_where_sorting_saves_padding(known: dict[str, Any], why: str) -> None:
    fields = {
        "kind": "tf.data", "pipeline": ("from_tensor_slices", "shuffle", "batch"), "batches": 40,
        "padding_share": 0.4, "padding_share_sorted": 0.1, **known,
    }  # fmt: skip
    facts = make_facts(make_loader(**fields), framework="keras", backend="tensorflow")
    only = ["length_bucketing"]
    candidates, refusals = propose(facts, make_diagnosis(facts, wait=0, forward=0.9), only, ())
    if why:
        assert why in next(r.reason for r in refusals if r.technique == "length_bucketing")
    else:
        (candidate,) = candidates
        assert candidate.switches[0].settings == {"batches": 10}
        assert candidate.switches[0].numerics == "training"


SCRIPT = """
import keras, numpy as np, tensorflow as tf
keras.utils.set_random_seed(0)
numbers = np.random.default_rng(0)
lengths = numbers.integers(1, 60, 320)
rows = [" ".join(["good" if n % 2 else "bad"] * k) for n, k in enumerate(lengths)]
labels = [n % 2 for n in range(320)]
split = keras.layers.TextVectorization(10)
split.adapt(rows)
train = tf.data.Dataset.from_tensor_slices((rows, labels)).shuffle(320).batch(16)
train = train.map(lambda text, label: (split(text), label))
layers = [keras.Input((None,), dtype="int64"), keras.layers.Embedding(10, 4)]
layers += [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
model = keras.Sequential(layers)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(train, validation_data=train.take(2), epochs=2, verbose=0)
"""


def test_script_trains_on_the_same_rows_in_as_many_steps(
    trial: Callable[..., Observed],
) -> None:
    ablation = {"batches": 8, "drain_seconds": 0.5}
    replay = trial(SCRIPT, text=True, ablation=ablation, stop_after={"seconds": 0.5})
    loader = replay.facts.fed_by()
    assert loader is not None
    assert loader.padding_share is not None
    assert loader.padding_share_sorted is not None
    assert loader.padding_share > 0.3 > 0.15 > loader.padding_share_sorted
    seen = trial(
        SCRIPT, text=True, technique="length_bucketing", settings={"batches": 5}, framework="keras"
    )
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["length_bucketing"] == {"batches_a_pool": 5}
    assert (seen.run.samples, seen.run.updates) == (640, 40)
    assert len(seen.run.losses) == 40
    assert seen.facts.planned_samples == 640
