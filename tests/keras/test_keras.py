"""What is observed of Keras and tf.data, and that each technique acts and keeps its promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halftime.measure.diagnose import explain
from halftime.trials import parity
from halftime.trials.candidates import propose
from tests.conftest import make_diagnosis
from tests.observed import Observed

Trial = Callable[..., Observed]
SCRIPT = "keras_pipeline.py"
WITNESS = {"batches": True, "cycle": None, "gradients": 5}


def under(trial: Trial, technique: str, *arguments: str, **settings: object) -> Observed:
    return trial(SCRIPT, *arguments, technique=technique, settings=settings, framework="keras")


def refusals(seen: Observed) -> dict[str, str]:
    _, refused = propose(seen.facts, make_diagnosis(seen.facts, wait=0.5), (), ())
    return {refusal.technique: refusal.reason for refusal in refused}


def test_steps_samples_losses_and_metrics_of_fit_are_seen(trial: Trial) -> None:
    seen = trial(SCRIPT)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.facts.framework == "keras"
    assert seen.facts.backend == "tensorflow"
    assert not [note for note in seen.facts.notes if "Strategy" in note]
    assert seen.run.samples == 300  # the last batch of each epoch has four
    assert seen.run.updates == 21
    assert len(seen.run.losses) == 21
    assert all(0 < loss < 5 for loss in seen.run.losses)
    assert len(seen.run.evaluations) == 3  # the last one and that after fit follow each other
    names = [name for name, _ in seen.run.reported_metrics]
    assert names.count("val_accuracy") == 3
    assert names[-1] in ("accuracy", "loss")
    assert seen.facts.planned_samples == 3 * 7 * 16
    loader = seen.facts.fed_by()
    assert loader is not None
    assert loader.kind == "tf.data"
    assert loader.pipeline == ("from_tensor_slices", "map", "shuffle", "batch")
    assert (loader.batch_size, loader.batches, loader.dataset_length) == (16, 7, 100)
    assert loader.sample_bytes == 6 * 6 * 4 + 8
    assert loader.place.split(":")[0].endswith(SCRIPT)


def test_running_mean_of_the_loss_is_undone(trial: Trial) -> None:
    text = (
        "import keras, numpy as np\n"
        "keras.utils.set_random_seed(0)\n"
        "model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])\n"
        "model.compile(keras.optimizers.SGD(0.0), 'mse')\n"
        "model.layers[0].kernel.assign([[0.0]])\n"
        "y = np.repeat(np.arange(4.0), 5).astype('float32')\n"
        "model.fit(np.ones((20, 1)), y, batch_size=5, epochs=2, shuffle=False, verbose=0)\n"
    )
    seen = trial(text, text=True)
    assert np.allclose(seen.run.losses, [0, 1, 4, 9] * 2, atol=1e-5)


@pytest.mark.parametrize("order", ["map-shuffle", "shuffle-map"])
def test_store_acts_and_batches_and_losses_are_the_same(trial: Trial, order: str) -> None:
    plain = trial(SCRIPT, "--order", order, witness=WITNESS)
    seen = trial(
        SCRIPT, "--order", order, technique="store", settings={"most_bytes": 10**9},
        framework="keras", witness=WITNESS,
    )  # fmt: skip
    assert seen.run.effects["store"]["bytes"] == 100 * (6 * 6 * 4 + 8)
    assert seen.digests == plain.digests
    assert len(plain.digests[0]) == 30 * 7
    equal, said = parity.same_batches(plain.run, seen.run, 0)
    assert equal, said
    assert seen.run.losses == plain.run.losses
    assert not seen.run.refused


def test_random_map_is_neither_kept_nor_run_on_whole_batches(trial: Trial) -> None:
    plain = trial(SCRIPT, "--order", "random")
    assert "RandomStandardNormal" in refusals(plain)["store"]
    assert refusals(plain).keys() >= {"parallel_map", "batched_map"}
    stack = {"store": {"most_bytes": 10**9}, "batched_map": {}}
    seen = trial(SCRIPT, "--order", "random", stack=stack, framework="keras")
    assert not seen.run.effects
    assert seen.run.losses == plain.run.losses


def test_store_stands_before_a_random_map_and_after_the_one_that_is_not(trial: Trial) -> None:
    plain = trial(SCRIPT, "--order", "map-random")
    _, refused = propose(plain.facts, make_diagnosis(wait=0.5), (), ())
    assert "store" not in [refusal.technique for refusal in refused]
    seen = under(trial, "store", "--order", "map-random", most_bytes=10**9)
    assert seen.run.effects["store"]["after"] == "map"
    assert len(set(seen.run.losses)) == 21


def test_store_of_a_bounded_trial_is_filled_before_its_window_and_read_by_the_next(
    trial: Trial, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    plain = trial(SCRIPT)
    written = []
    for _ in range(2):
        seen = under(trial, "store", most_bytes=10**9, folder=str(tmp_path / "store"))
        assert seen.run.losses == plain.run.losses
        assert seen.run.set_aside_seconds > 0
        written.append((tmp_path / "store" / "elements-0.index").stat().st_mtime_ns)
    assert written[0] == written[1]


def test_store_that_a_run_left_unfinished_is_begun_anew(trial: Trial, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "elements-0_0.lockfile").write_text("")
    (folder / "elements-0_0.data-00000-of-00001").write_bytes(b"half")
    settings = {"most_bytes": 10**9, "folder": str(folder)}
    seen = trial(SCRIPT, technique="store", settings=settings, framework="keras")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["store"]["samples"] == 100


def test_store_over_the_memory_share_is_left_out(trial: Trial) -> None:
    seen = under(trial, "store", most_bytes=1000)
    assert "store" not in seen.run.effects
    assert "over the memory share" in seen.run.refused[0][1]


def test_exact_techniques_act_together_and_hand_out_the_same(trial: Trial) -> None:
    plain = trial(SCRIPT, witness=WITNESS)
    assert "by itself" in refusals(plain)["prefetch"]
    loader = plain.facts.fed_by()
    assert loader is not None
    assert loader.serial_maps == 1
    stack = {"autotune": {}, "prefetch": {}, "allocator": {}, "parallel_map": {"count": 2}}
    seen = trial(SCRIPT, stack=stack, framework="keras", witness=WITNESS)
    assert seen.run.effects["autotune"]["enabled"] is False
    assert seen.run.effects["prefetch"]["by_itself"] is True
    assert seen.run.effects["allocator"]
    assert seen.run.effects["parallel_map"] == {"maps": 1, "count": 2}
    assert seen.digests == plain.digests
    assert seen.run.losses == plain.run.losses


def test_pipeline_of_arrays_without_its_tuner_gives_the_same_losses(trial: Trial) -> None:
    seen = under(trial, "autotune", "--feed", "arrays")
    assert seen.run.effects["autotune"]["enabled"] is False
    assert seen.run.losses == trial(SCRIPT, "--feed", "arrays").run.losses


def test_what_the_script_chose_itself_stays(trial: Trial) -> None:
    chosen = ("--order", "tuned", "--policy", "mixed_bfloat16", "--optimizer", "Nadam()")
    plain = trial(SCRIPT, *chosen)
    assert "already on" in refusals(plain)["autotune"]
    assert "mixed_precision" in plain.facts.already_on
    assert "Nadam has no kernel" in refusals(plain)["fused_optimizer"]
    chosen = ("--order", "tuned", "--policy", "float32", "--optimizer", "Adam(amsgrad=True)")
    stack = {"autotune": {}, "mixed_precision": {"policy": "mixed_bfloat16"}, "fused_optimizer": {}}
    seen = trial(SCRIPT, *chosen, stack=stack, framework="keras")
    assert not seen.run.effects
    assert "the script sets dtypes itself" in dict(seen.run.refused)["mixed_precision"]


def test_mixed_precision_acts_and_leaves_the_last_layer_in_float32(trial: Trial) -> None:
    plain = trial(SCRIPT, witness=WITNESS)
    seen = trial(
        SCRIPT, technique="mixed_precision", settings={"policy": "mixed_bfloat16"},
        framework="keras", witness=WITNESS,
    )  # fmt: skip
    assert seen.run.effects["mixed_precision"]["dtype"] == "bfloat16"
    assert "last layer float32 <dtype: 'float32'>" in seen.output
    share, _ = parity.gradient_witness(plain.run, seen.run)
    assert share is not None
    assert 0 < share < 1
    assert parity.still_trains(plain.run, seen.run)[0]


def test_mixed_precision_acts_on_pytorch(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    settings = {"policy": "mixed_bfloat16"}
    short = ("keras_on_a_gpu.py", "--epochs", "1", "--samples", "64", "--width", "16")
    seen = trial(*short, technique="mixed_precision", settings=settings, framework="keras")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["mixed_precision"] == {"layer": "Conv2D", "dtype": "bfloat16"}
    assert not seen.run.refused


def test_fused_optimizer_and_several_steps_in_one_execution_are_the_same_training(
    trial: Trial,
) -> None:
    plain = trial(SCRIPT)
    stack = {"fused_optimizer": {}, "steps_per_execution": {"count": 4}}
    seen = trial(SCRIPT, stack=stack, framework="keras")
    assert seen.run.effects["fused_optimizer"]["optimizer"] == "Adam"
    assert seen.run.effects["steps_per_execution"]["count"] == 4
    assert (seen.run.samples, seen.run.updates) == (plain.run.samples, plain.run.updates)
    assert dict(seen.run.reported_metrics) == pytest.approx(
        dict(plain.run.reported_metrics), rel=1e-3
    )


def test_accumulation_makes_fewer_updates_of_the_same_samples(trial: Trial) -> None:
    seen = under(trial, "gradient_accumulation", count=4)
    assert seen.run.effects["gradient_accumulation"]["count"] == 4
    assert (seen.run.samples, seen.run.updates) == (300, 21 // 4)


@pytest.mark.parametrize(
    ("feed", "kind", "samples"),
    [
        ("arrays", "arrays in memory", 300),
        ("PyDataset", "a PyDataset", 300),
        ("generator", "a generator", 336),
    ],
)
def test_other_feeds_are_observed_and_named(
    trial: Trial, feed: str, kind: str, samples: int
) -> None:
    seen = trial(SCRIPT, "--feed", feed)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.samples == samples
    loader = seen.facts.fed_by()
    assert loader is not None
    assert loader.kind == kind
    assert f"fed by {kind}" in refusals(seen)["store"]


def test_eager_execution_left_on_is_a_brake(trial: Trial) -> None:
    text = (
        "import keras, numpy as np\n"
        "model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])\n"
        "model.compile('sgd', 'mse', run_eagerly=True)\n"
        "model.fit(np.ones((64, 1)), np.ones(64), epochs=3, verbose=0)\n"
    )
    seen = trial(text, text=True)
    assert [brake.name for brake in seen.facts.brakes] == ["run_eagerly"]
    assert seen.facts.brakes[0].place.endswith("train.py:3")


EAGER = """
import keras, numpy as np, tensorflow as tf
{before}
keras.utils.set_random_seed(0)
class Layer(keras.layers.Dense):
    def call(self, x):
        return super().call(x)
def own_loss(wanted, given):
    return (wanted - given) ** 2
def own(x):
    return x * np.random.normal()
model = keras.Sequential([keras.Input((1,)), {layer}(1)])
model.compile('sgd', {loss}{how})
{after}
model.fit(np.ones((64, 1)), np.ones(64), epochs=3, verbose=0)
"""
PLAIN = {"before": "", "how": "", "after": "", "layer": "keras.layers.Dense", "loss": "'mse'"}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("run_eagerly", {"how": ", run_eagerly=True"}),
        ("run_eagerly", {"after": "model.run_eagerly = True"}),
        ("run_functions_eagerly", {"before": "tf.config.run_functions_eagerly(True)"}),
    ],
)
def test_eager_execution_is_released(trial: Trial, name: str, where: dict[str, str]) -> None:
    text = EAGER.format(**{**PLAIN, **where})
    plain = trial(text, text=True, witness=WITNESS)
    assert [brake.name for brake in plain.facts.brakes] == [name]
    (arm,), _ = propose(plain.facts, make_diagnosis(plain.facts), ("brakes",), ())
    assert arm.numerics == "rounding"
    seen = trial(text, text=True, technique="brakes", framework="keras", witness=WITNESS)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["brakes"]["released"] == name
    assert not seen.facts.brakes
    assert np.allclose(plain.run.losses, seen.run.losses, atol=1e-6)


@pytest.mark.parametrize(
    "own",
    [{"layer": "Layer"}, {"loss": "own_loss"}, {"layer": "(lambda n: keras.layers.Lambda(own))"}],
)
def test_step_with_code_of_the_scripts_own_stays_eager(trial: Trial, own: dict[str, str]) -> None:
    seen = trial(EAGER.format(**{**PLAIN, "how": ", run_eagerly=True", **own}), text=True)
    assert "a step runs Python of the script's own (" in refusals(seen)["brakes"]


def test_keras_2_is_named_and_left_alone(trial: Trial) -> None:
    text = (
        "import pathlib, sys\n"
        "pathlib.Path('tf_keras.py').write_text('__version__ = \"2.19.0\"')\n"
        "sys.path.insert(0, '.')\n"
        "import tf_keras\n"
    )
    seen = trial(text, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert any("Keras 2.19.0" in event["text"] for event in seen.all("note"))


def test_xla_acts_where_the_script_leaves_it_to_keras(trial: Trial) -> None:
    plain = trial(SCRIPT)
    assert "xla" not in plain.facts.already_on
    candidates, _ = propose(plain.facts, make_diagnosis(plain.facts, forward=0.8), (), ())
    (switch,) = [s for c in candidates for s in c.switches if s.technique == "compilation"]
    seen = under(trial, "compilation", **switch.settings)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["compilation"]["jit_compile"] is True
    assert "xla" in seen.facts.already_on
    assert seen.run.losses == pytest.approx(plain.run.losses, rel=1e-3)


@pytest.mark.parametrize("way", ["function", "trace", "eager", "on_batch"])
def test_loop_of_the_scripts_own_is_counted(trial: Trial, way: str) -> None:
    seen = trial("keras_loop.py", "--way", way)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.updates, seen.run.samples) == (20, 20, 320)
    assert len(seen.run.losses) == 20
    if way != "on_batch":  # Keras prints the running mean, which we undo
        assert f"loss {seen.run.losses[-1]:.6f}" in seen.output
    assert len(seen.run.evaluations) == 2
    assert seen.facts.framework == "keras"
    assert seen.facts.optimizer == "Adam"
    loader = seen.facts.fed_by()
    assert loader is not None
    assert loader.pipeline == ("from_tensor_slices", "map", "shuffle", "batch")
    assert sum(window.wait for window in seen.run.windows) > 0
    assert [brake.name for brake in seen.facts.brakes] == ["eager_step"] * (way == "eager")
    assert not [note for note in seen.facts.notes if "traced" in note and "times" in note]


def test_phases_of_an_eager_step_are_told_apart(trial: Trial) -> None:
    seen = trial("keras_loop.py", "--way", "eager")
    shares = explain(seen.run.windows, seen.facts, seen.run)
    parts = (shares.forward_share, shares.backward_share, shares.optimizer_share)
    assert all(share is not None and share > 0.02 for share in parts)
    assert sum(share or 0.0 for share in parts) < 1
    compiled = trial("keras_loop.py", "--way", "function")
    shares = explain(compiled.run.windows, compiled.facts, compiled.run)
    assert (shares.forward_share, shares.backward_share, shares.optimizer_share) == (None,) * 3
    assert shares.idle_share is not None
    assert shares.idle_share < 1


def test_step_that_is_traced_again_and_again_is_said(trial: Trial) -> None:
    seen = trial("keras_loop.py", "--ragged")
    (note,) = [note for note in seen.facts.notes if "was traced" in note and "times" in note]
    assert int(note.split("traced ")[1].split()[0]) >= 10
    assert "keras_loop.py:" in note


def test_store_serves_a_loop_of_the_scripts_own(trial: Trial) -> None:
    plain = trial("keras_loop.py")
    assert refusals(plain).keys() >= {"compilation", "steps_per_execution", "mixed_precision"}
    seen = trial(
        "keras_loop.py", technique="store", settings={"most_bytes": 10**9}, framework="keras",
        training_loader=plain.facts.training_loader,
    )  # fmt: skip
    assert seen.run.effects["store"]["bytes"] == 160 * (8 * 4 + 8)
    assert seen.run.losses == plain.run.losses


def test_pipeline_that_is_read_before_the_training_is_not_taken_for_it(trial: Trial) -> None:
    fit = trial(SCRIPT, "--peek")
    loader = fit.facts.fed_by()
    assert loader is not None
    assert loader.pipeline == ("from_tensor_slices", "map", "shuffle", "batch")
    looped = trial("keras_loop.py", "--peek")
    loader = looped.facts.fed_by()
    assert loader is not None
    assert (loader.batches, loader.pipeline[-2:]) == (10, ("shuffle", "batch"))
    ablation = {"batches": 4, "drain_seconds": 0.5}
    seen = trial(
        "keras_loop.py", "--peek", ablation=ablation, stop_after={"seconds": 1.0},
        training_loader=looped.facts.training_loader,
    )  # fmt: skip
    assert seen.run.outcome == "window", seen.run.last_lines
    assert "rows" in seen.output
    facts_of_loader, _ = seen.all("loader_facts")
    assert facts_of_loader["ordinal"] == looped.facts.training_loader
    stored = trial(
        "keras_loop.py", "--peek", technique="store", settings={"most_bytes": 10**9},
        framework="keras", training_loader=looped.facts.training_loader,
    )  # fmt: skip
    assert stored.run.effects["store"]["after"] == "map"
    assert stored.run.losses == looped.run.losses


@pytest.mark.parametrize("way", ["own-step", "weights", "loader"])
def test_ways_to_write_a_training_are_counted_alike(trial: Trial, way: str) -> None:
    seen = trial("keras_shapes.py", "--way", way)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.samples, seen.run.updates) == (320, 20)
    assert "batches 20" in seen.output
    assert seen.facts.batch_callbacks == ("Watcher",)
    assert seen.facts.planned_samples == 320
    last = float(seen.output.split()[-1])
    assert np.mean(seen.run.losses[10:]) == pytest.approx(last, rel=1e-5)


RECORDS = """
import os, sys, keras, numpy as np, tensorflow as tf
path = os.path.join(os.getcwd(), "rows.tfrecord")
with tf.io.TFRecordWriter(path) as file:
    for row in np.random.default_rng(0).normal(size=(100, 4)).astype("float32"):
        file.write(row.tobytes())
keras.utils.set_random_seed(0)
decoded = lambda record: tf.reshape(tf.io.decode_raw(record, tf.float32), (4,))
rows = tf.data.TFRecordDataset(path).map(decoded)
train = rows.map(lambda row: (row, tf.reduce_sum(row))).shuffle(100).batch(10)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(train, epochs=3, verbose=0)
"""


def test_cache_whose_size_nobody_knows_beforehand_is_counted(trial: Trial) -> None:
    plain = trial(RECORDS, text=True)
    few, many = (
        trial(RECORDS, text=True, technique="store", settings={"most_bytes": most},
              framework="keras")
        for most in (1000, 100 * (16 + 4))
    )  # fmt: skip
    assert many.run.outcome == "completed", many.run.last_lines
    assert many.run.effects["store"]["bytes"] is None
    assert many.run.losses == plain.run.losses
    assert few.run.outcome == "failed"
    assert "the store would take more than" in few.run.last_lines


@pytest.mark.parametrize(
    ("held_out", "known"),
    [
        ("tf.data.Dataset.from_tensor_slices((['a', 'b'] * 8, [0.0, 1.0] * 8)).batch(4)", True),
        ("tf.data.Dataset.from_tensors(0.0).repeat().map(lambda y: ('a', y)).batch(4)", False),
    ],
)
def test_held_out_rows_are_summed_up_whatever_they_are(
    trial: Trial, held_out: str, known: bool
) -> None:
    text = (
        "import keras, numpy as np, tensorflow as tf\n"
        "layer = keras.layers.StringLookup(vocabulary=['a', 'b'], output_mode='one_hot')\n"
        "parts = [keras.Input((), dtype='string'), layer, keras.layers.Dense(1)]\n"
        "model = keras.Sequential(parts)\n"
        "model.compile('sgd', 'mse')\n"
        "train = tf.data.Dataset.from_tensor_slices((['a', 'b'] * 8, [0.0, 1.0] * 8)).batch(4)\n"
        f"model.fit(train, verbose=0, validation_data={held_out}, validation_steps=2)\n"
    )
    seen = trial(text, text=True, fingerprint_evaluation=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert len(seen.run.evaluation_fingerprints) == known


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_are_observed_alike(
    trial: Trial, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    seen = trial(SCRIPT, "--feed", "arrays")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.facts.framework, seen.facts.backend) == ("keras", backend)
    assert (seen.run.samples, seen.run.updates) == (300, 21)
    assert len(seen.run.losses) == 21
    assert all(0 < loss < 5 for loss in seen.run.losses)


def test_loop_within_a_graph_is_counted_by_its_updates(trial: Trial) -> None:
    seen = trial("keras_loop.py", "--way", "in_graph", "--epochs", "4")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.updates) == (30, 31)
    assert "makes 10 updates in one call" in " ".join(seen.facts.notes)


def test_train_on_batch_is_counted_on_another_backend(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    seen = trial("keras_loop.py", "--way", "on_batch")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.updates, seen.run.samples) == (20, 20, 320)
    assert (seen.facts.framework, seen.facts.own_loop) == ("keras", "train_on_batch")
    assert seen.facts.kind_of_feed == "tf.data"
    assert len(seen.run.losses) == 20


def test_replay_trains_on_kept_batches_and_says_what_each_op_takes(trial: Trial) -> None:
    ablation = {"batches": 4, "drain_seconds": 0.5}
    seen = trial(SCRIPT, ablation=ablation, stop_after={"seconds": 1.0})
    assert seen.run.outcome == "window"
    assert seen.run.steps == seen.run.updates
    loader = seen.facts.fed_by()
    assert loader is not None
    assert len(loader.op_seconds) == len(loader.pipeline)
    assert sum(loader.op_seconds) > 0
    assert loader.cache_after == "map; not later, since shuffle gives another order each time"


def test_py_dataset_is_replayed_and_looked_at(trial: Trial) -> None:
    ablation = {"batches": 4, "drain_seconds": 0.5}
    seen = trial(SCRIPT, "--feed", "PyDataset", ablation=ablation, stop_after={"seconds": 1.0})
    loader = seen.facts.fed_by()
    assert loader is not None
    assert (loader.kind, loader.batches, loader.batch_size) == ("a PyDataset", 7, 16)
    assert loader.deterministic, loader.randomness
    assert loader.alone_samples_per_second
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.updates == 21


def test_threads_fetch_the_batches_of_a_py_dataset_in_their_order(trial: Trial) -> None:
    how = (SCRIPT, "--feed", "PyDataset", "--epochs", "6")
    plain = trial(*how, witness=WITNESS)
    seen = trial(
        *how, technique="workers", settings={"count": 2}, framework="keras", witness=WITNESS
    )
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["workers"] == {"threads": 2}
    (expected,), (served,) = plain.digests, seen.digests
    assert len(expected) > 6 * 7
    assert served == expected
    assert seen.run.losses == plain.run.losses


@pytest.mark.parametrize(
    ("drawn", "why"),
    [("np.random.normal()", "changed"), ("self.own.normal()", "of its own"), ("0", "")],
)
def test_random_batches_of_a_py_dataset_are_known(trial: Trial, drawn: str, why: str) -> None:
    text = f"""
import keras, numpy as np
class Rows(keras.utils.PyDataset):
    own = np.random.default_rng(0) if "own" in {drawn!r} else None
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return np.full((4, 1), index + {drawn}), np.ones(4)
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile('sgd', 'mse')
model.fit(Rows(), epochs=2, verbose=0)
"""
    ablation = {"batches": 4, "drain_seconds": 0.5}
    loader = trial(text, text=True, ablation=ablation).facts.fed_by()
    assert loader is not None
    assert loader.deterministic is not bool(why)
    assert why in loader.randomness


def test_py_dataset_is_known_on_a_backend_without_tensorflow(trial: Trial) -> None:
    text = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
class Rows(keras.utils.PyDataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return np.ones((4, 1), "float32"), np.ones(4, "float32")
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile('sgd', 'mse')
model.fit(Rows(), epochs=2, verbose=0)
"""
    loader = trial(text, text=True).facts.fed_by()
    assert loader is not None
    assert (loader.kind, loader.batches) == ("a PyDataset", 8)


def test_threads_leave_a_dataset_alone_that_an_epoch_takes_a_part_of(trial: Trial) -> None:
    text = """
import keras, numpy as np
class Rows(keras.utils.PyDataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return np.full((4, 1), index), np.ones(4)
rows = Rows()
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile('sgd', 'mse')
model.fit(rows, epochs=2, verbose=0)
model.fit(rows, epochs=2, steps_per_epoch=3, verbose=0)
print(rows.workers)
"""
    seen = trial(text, text=True, technique="workers", settings={"count": 2}, framework="keras")
    assert seen.output == "1\n", seen.run.last_lines
    assert "workers" in seen.run.effects
    assert "steps_per_epoch=3 is not the length" in dict(seen.run.refused)["workers"]


def test_update_is_timed_alone_once_the_observation_is_over(trial: Trial) -> None:
    seen = trial(SCRIPT, looks_closely=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert 0 < (seen.facts.optimizer_seconds or 0) < 0.1
    assert 0 < seen.facts.optimizer_tracing_seconds < 10
    plain = trial(SCRIPT)
    assert plain.facts.optimizer_seconds is None
    assert (seen.run.updates, seen.run.losses) == (plain.run.updates, plain.run.losses)


def test_ops_of_a_pipeline_whose_length_nobody_knows_are_timed(trial: Trial) -> None:
    text = """
import keras, tensorflow as tf
rows = tf.data.Dataset.range(400).filter(lambda n: n < 300)
rows = rows.map(lambda n: (tf.cast([n], "float32"), 1.0))
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile('sgd', 'mse')
model.fit(rows.batch(5), epochs=3, verbose=0)
"""
    ablation = {"batches": 4, "drain_seconds": 0.5}
    seen = trial(text, text=True, ablation=ablation, stop_after={"seconds": 1.0})
    assert seen.run.outcome == "window", seen.run.last_lines
    loader = seen.facts.fed_by()
    assert loader is not None
    assert len(loader.op_seconds) == len(loader.pipeline)


@pytest.mark.parametrize("order", ["map-shuffle", "shuffle-map"])
def test_map_on_whole_batches_gives_the_same(trial: Trial, order: str) -> None:
    plain = trial(SCRIPT, "--order", order, witness=WITNESS)
    loader = plain.facts.fed_by()
    assert loader is not None
    assert loader.batchable_maps == 1
    seen = trial(
        SCRIPT, "--order", order, technique="batched_map", framework="keras", witness=WITNESS
    )
    assert seen.run.effects["batched_map"] == {"maps": 1}
    assert not seen.run.refused
    assert seen.digests == plain.digests
    assert seen.run.losses == plain.run.losses


def test_threads_are_set_where_the_script_leaves_them_to_tensorflow(trial: Trial) -> None:
    seen = under(trial, "threads", count=1)
    assert seen.run.effects["threads"] == {"threads": 1}
    assert seen.run.losses == pytest.approx(trial(SCRIPT).run.losses, rel=1e-4)


def test_operations_run_one_at_a_time_and_give_the_same(trial: Trial) -> None:
    seen = under(trial, "threads", name="one operation at a time", scope="inter")
    assert seen.run.effects["threads"] == {"threads": 1}
    assert seen.run.losses == pytest.approx(trial(SCRIPT).run.losses, rel=1e-4)


ALONE = (
    "import os\n{first}import keras, numpy as np\n"
    "keras.utils.set_random_seed(1)\n"
    "x = np.random.default_rng(0).normal(size=(320, 8)).astype('float32')\n"
    "y = (x.sum(1) > 0).astype('float32')\n"
    "model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation='relu'),\n"
    "    keras.layers.BatchNormalization(), keras.layers.Dropout(0.1), keras.layers.Dense(1)])\n"
    "model.compile('adam', keras.losses.BinaryCrossentropy(from_logits=True))\n"
    "model.fit(x, y, batch_size=16, epochs=2, verbose=0)\n"
)


def test_script_that_uses_keras_alone_runs_on_another_backend(trial: Trial) -> None:
    text = ALONE.format(first="")
    plain = trial(text, text=True, witness=WITNESS)
    assert plain.facts.bound_to_backend == ""
    candidates, _ = propose(plain.facts, make_diagnosis(plain.facts), ("backend",), ())
    assert [candidate.name for candidate in candidates] == ["backend(jax)", "backend(torch)"]
    for candidate in candidates:
        (switch,) = candidate.switches
        seen = trial(
            text, text=True, technique="backend", settings=switch.settings, framework="keras",
            witness=WITNESS,
        )  # fmt: skip
        assert seen.run.outcome == "completed", seen.run.last_lines
        assert seen.run.effects["backend"] == {"backend": switch.settings["name"]}
        assert (seen.run.updates, len(seen.run.losses)) == (40, 40)
        trains, said = parity.still_trains(plain.run, seen.run)
        assert trains, said


def test_script_that_needs_its_backend_stays_there(trial: Trial) -> None:
    assert "uses tensorflow itself (keras_pipeline.py:7)" in refusals(trial(SCRIPT))["backend"]
    chosen = trial(ALONE.format(first="os.environ['KERAS_BACKEND'] = 'torch'\n"), text=True)
    assert "the script itself chooses torch" in refusals(chosen)["backend"]


def test_everything_that_a_pipeline_can_hold_trains_the_same_from_the_store(trial: Trial) -> None:
    plain = trial("keras_inputs.py")
    assert plain.run.outcome == "completed", plain.run.last_lines
    trained = [event for event in plain.all("loader") if event["ordinal"] == 0]
    ragged, sparse, named, generator, endless, counted, once, eager = trained
    for loader in (ragged, sparse, named, endless, eager):
        assert loader["deterministic"], loader["randomness"]
        assert loader["cache_after"].startswith("map")
    assert "generator" in generator["randomness"] or "flatmap" in generator["randomness"]
    assert "AssignAddVariableOp" in counted["randomness"]
    assert once["kind"] != "tf.data"
    for technique in ("store", "batched_map"):
        seen = trial(
            "keras_inputs.py", technique=technique, settings={"most_bytes": 10**9},
            framework="keras",
        )  # fmt: skip
        assert seen.run.outcome == "completed", seen.run.last_lines
        assert technique in seen.run.effects
        assert seen.output == plain.output


DISTRIBUTED = """
import keras, tensorflow as tf
cpus = tf.config.list_physical_devices('CPU')
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
rows = tf.data.Dataset.from_tensor_slices((tf.ones((64, 3)), tf.ones(64))).shuffle(64).batch(8)
with strategy.scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)
def on_each(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x)[:, 0] - y) ** 2)
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(grads, model.trainable_variables)
    return loss
@tf.function
def step(batch):
    losses = strategy.run(on_each, args=batch)
    return strategy.reduce('MEAN', losses, axis=None)
parts = strategy.experimental_distribute_dataset(rows)
for epoch in range(4):
    for batch in parts:
        loss = step(batch)
"""


def test_loop_of_a_strategy_is_timed_and_its_batches_are_counted_whole(trial: Trial) -> None:
    seen = trial(DISTRIBUTED, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.samples) == (32, 256)
    loader = seen.facts.fed_by()
    assert loader is not None
    assert loader.kind == "a distributed pipeline"
    assert sum(window.wait for window in seen.run.windows) > 0
    assert "MirroredStrategy with 2 replicas" in " ".join(seen.facts.notes)
    assert "fed by a distributed pipeline" in refusals(seen)["store"]


def test_strategy_of_several_replicas_is_counted_and_named(trial: Trial) -> None:
    seen = trial("keras_inputs.py", "--replicas", "2")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.samples, seen.run.updates) == (192, 12)
    (note,) = [note for note in seen.facts.notes if "MirroredStrategy" in note]
    assert "2 replicas" in note


def test_policy_that_comes_after_the_layers_is_said(trial: Trial) -> None:
    seen = trial("keras_inputs.py", "--late-policy")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert "mixed_precision" not in seen.facts.already_on
    assert any("after its layers are made" in note for note in seen.facts.notes)


def test_witness_reads_no_weight_while_a_step_is_traced(trial: Trial) -> None:
    plain = trial("keras_loop.py", witness=WITNESS)
    assert plain.run.outcome == "completed", plain.run.last_lines
    again = trial("keras_loop.py", witness=WITNESS)
    trains, said = parity.still_trains(plain.run, again.run)
    assert trains, said
