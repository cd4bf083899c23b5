"""What is read of a tf.data pipeline: where a cache may stand; nothing random is ever frozen."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf: Any = pytest.importorskip("tensorflow")
keras: Any = pytest.importorskip("keras")

from halftime.agent.patches import Patches  # noqa: E402
from halftime.agent.recorder import Recorder  # noqa: E402
from halftime.frameworks.keras.backend import (  # noqa: E402
    _line_of_python_in_a_step as line_of_python,
)
from halftime.frameworks.keras.fused_optimizer import install as fuse  # noqa: E402
from halftime.frameworks.keras.mixed_precision import (  # noqa: E402
    _output_layers as output_layers,
)
from halftime.frameworks.tensorflow import pipeline  # noqa: E402
from halftime.frameworks.tensorflow.parallel_map import install as in_parallel  # noqa: E402
from halftime.frameworks.tensorflow.seeds import OpSeeds  # noqa: E402

IMAGES = tf.data.Dataset.from_tensor_slices(np.zeros((20, 8, 8, 3), dtype="float32"))
NUMBERS = tf.random.Generator.from_seed(1)
NUMBERED = tf.data.Dataset.range(8)
HALVED = [1.0, 1.5, 1.5, 1.0]
SEEDS = keras.random.SeedGenerator(1)
Change = Callable[[Any], Any]


def test_order_that_options_leave_to_chance_is_none() -> None:
    options = tf.data.Options()
    options.deterministic = False
    loose = IMAGES.with_options(options)
    assert pipeline.why_not_repeatable(loose.map(lambda x: x, num_parallel_calls=2))
    kept = loose.map(lambda x: x, num_parallel_calls=2, deterministic=True)
    assert pipeline.why_not_repeatable(kept) == ""
    assert pipeline.why_not_repeatable(loose.map(lambda x: x)) == ""


class Attached(keras.Model):  # type: ignore[misc]
    """Its last layer is not the one that gives its output."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.drop = keras.layers.Dense(1, "sigmoid"), keras.layers.Dropout(0.5)

    def call(self, x: Any) -> Any:
        return self.head(self.drop(x))


def test_layer_that_gives_the_output_is_not_guessed() -> None:
    assert output_layers(Attached()) == []
    unbuilt = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    assert output_layers(unbuilt) == [unbuilt.layers[-1]]


STEPS = """
import random as chance
import numpy as np
from keras import random
class Layer(keras.layers.Layer):
    def build(self, shape): self.kernel = 1
    def call(self, x): {}
"""


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ("return x + random.normal(())", False),
        ("return x if chance.random() < 0.5 else -x", True),
        ("return x + np.random.rand()", True),
        ("self.n += 1; return x", True),
        ("self.a, self.b = 1, 2; return x", True),
        ("self.seen[0] = 1; return x", True),
        ("y = self.kernel * x; return y", False),
    ],
)
def test_python_in_a_step_binds_a_script_to_its_backend(body: str, bound: bool) -> None:
    assert bool(line_of_python(ast.parse(STEPS.format(body)))) is bound


@pytest.mark.filterwarnings("ignore:The `deterministic` argument")
def test_interleaving_that_may_race_has_no_order() -> None:
    patches: Any = Patches(Recorder(folder="", window_seconds=1.0, stop_after=None, in_trial=True))
    original = tf.data.Dataset.interleave
    pipeline.remember_what_ops_forget(tf, patches)
    try:
        for asked, repeatable in [(False, False), (True, True), (None, True)]:
            one = IMAGES.interleave(
                tf.data.Dataset.from_tensors, num_parallel_calls=2, deterministic=asked
            )
            assert (pipeline.why_not_repeatable(one) == "") is repeatable
            assert pipeline.runs_in_parallel(one) is not bool(asked)
        in_order = IMAGES.interleave(tf.data.Dataset.from_tensors, deterministic=False)
        assert pipeline.why_not_repeatable(in_order) == ""
        table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 1.0)
        steady = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer([1], [2.0], tf.int64, tf.float32), 0.0
        )
        rows = tf.data.Dataset.range(4)
        assert "table" in pipeline.why_not_repeatable(rows.map(table.lookup))
        assert "table" in pipeline.why_not_repeatable(rows.map(lambda i: _insert(table, i)))
        assert pipeline.why_not_repeatable(rows.map(steady.lookup)) == ""
    finally:
        tf.data.Dataset.interleave = original


def _insert(table: Any, key: Any) -> Any:
    table.insert(key, 1.0)
    return key


def test_order_that_is_drawn_once_is_not_made_again() -> None:
    once = IMAGES.shuffle(20, reshuffle_each_iteration=False).map(STEADY_OPS["scale"])
    assert "shuffle comes first" in pipeline.why_no_cache(once)
    assert pipeline.why_no_cache(IMAGES.shuffle(20).map(STEADY_OPS["scale"])) == ""


def test_size_of_text_is_not_known() -> None:
    texts = tf.data.Dataset.from_tensor_slices(["one", "two"])
    assert pipeline.bytes_of_element(texts) is None


def next_seed() -> Any:
    """Another seed for each call of an op that is stateless by itself."""
    return tf.cast(NUMBERS.make_seeds(1)[:, 0], tf.int32)


RANDOM_OPS: dict[str, Change] = {
    "normal": lambda x: x + tf.random.normal(tf.shape(x)),
    "truncated_normal": lambda x: x + tf.random.truncated_normal(tf.shape(x)),
    "uniform": lambda x: x + tf.random.uniform(tf.shape(x)),
    "gamma": lambda x: x + tf.random.gamma([], 1.0),
    "poisson": lambda x: x + tf.random.poisson([], 1.0),
    "categorical": lambda x: x + tf.cast(tf.random.categorical([[0.5, 0.5]], 1)[0, 0], tf.float32),
    "shuffle": lambda x: tf.random.shuffle(x),
    "generator": lambda x: x + NUMBERS.normal([]),
    "random_brightness": lambda x: tf.image.random_brightness(x, 0.3),
    "random_contrast": lambda x: tf.image.random_contrast(x, 0.5, 1.5),
    "random_crop": lambda x: tf.image.random_crop(x, (4, 4, 3)),
    "random_flip_left_right": tf.image.random_flip_left_right,
    "random_flip_up_down": tf.image.random_flip_up_down,
    "random_hue": lambda x: tf.image.random_hue(x, 0.3),
    "random_saturation": lambda x: tf.image.random_saturation(x, 0.5, 1.5),
    "random_jpeg_quality": lambda x: tf.image.random_jpeg_quality(x, 50, 95),
    "sample_distorted_bounding_box": lambda x: tf.image.sample_distorted_bounding_box(
        tf.shape(x), tf.zeros((1, 0, 4)), use_image_if_no_bounding_boxes=True
    )[0],
    "seeds_of_a_generator": lambda x: x + tf.random.stateless_normal([], next_seed()),
    "generator_uniform": lambda x: x + NUMBERS.uniform([]),
    "generator_truncated": lambda x: x + NUMBERS.truncated_normal([]),
    "generator_binomial": lambda x: x + tf.cast(NUMBERS.binomial([], 3.0, 0.5), tf.float32),
    "generator_full_int": lambda x: x + tf.cast(
        NUMBERS.uniform_full_int([], dtype=tf.int32), tf.float32
    ),
    "global_generator": lambda x: x + tf.random.get_global_generator().normal([]),
    "uniform_candidate_sampler": lambda x: x + tf.cast(tf.random.uniform_candidate_sampler(
        tf.constant([[1]], tf.int64), 1, 1, False, 9)[0][0], tf.float32),
    "log_uniform_candidate_sampler": lambda x: x + tf.cast(tf.random.log_uniform_candidate_sampler(
        tf.constant([[1]], tf.int64), 1, 1, False, 9)[0][0], tf.float32),
    "learned_unigram_candidate_sampler": lambda x: x + tf.cast(
        tf.random.learned_unigram_candidate_sampler(
            tf.constant([[1]], tf.int64), 1, 1, False, 9)[0][0], tf.float32),
    "fixed_unigram_candidate_sampler": lambda x: x + tf.cast(
        tf.random.fixed_unigram_candidate_sampler(
            tf.constant([[1]], tf.int64), 1, 1, False, 9, unigrams=[1.0] * 9)[0][0], tf.float32),
    "all_candidate_sampler": lambda x: x + tf.cast(tf.random.all_candidate_sampler(
        tf.constant([[1]], tf.int64), 1, 1, False)[0][0], tf.float32),
    "nn_dropout": lambda x: tf.nn.dropout(x, 0.5),
    "general_dropout": lambda x: tf.nn.experimental.general_dropout(
        x, 0.5, lambda shape, dtype: tf.random.uniform(shape, dtype=dtype)
    ),
    "fractional_max_pool": lambda x: tf.nn.fractional_max_pool(x[tf.newaxis], HALVED)[0],
    "fractional_avg_pool": lambda x: tf.nn.fractional_avg_pool(x[tf.newaxis], HALVED)[0],
    "within_a_function": tf.function(lambda x: x + tf.random.normal([])),
    "within_a_branch": lambda x: tf.cond(
        tf.reduce_sum(x) > 0, lambda: x + tf.random.normal([]), lambda: x
    ),
    "within_a_switch": lambda x: tf.switch_case(
        tf.constant(1), [lambda: x, lambda: x + tf.random.normal([])]
    ),
    "within_map_fn": lambda x: tf.map_fn(lambda row: row + tf.random.normal([]), x),
    "time_as_seed": lambda x: x + tf.random.stateless_normal(
        [], tf.cast([tf.timestamp(), 0.0], tf.int64)
    ),
    "numpy": lambda x: tf.numpy_function(lambda a: a + np.random.rand(), [x], tf.float32),
    "python": lambda x: tf.py_function(lambda a: a, [x], tf.float32),
    **{f"keras_random_{name}": draw for name, draw in {
        "normal": lambda x: x + keras.random.normal((8, 8, 3)),
        "truncated_normal": lambda x: x + keras.random.truncated_normal((8, 8, 3)),
        "uniform": lambda x: x + keras.random.uniform((8, 8, 3)),
        "randint": lambda x: x + keras.ops.cast(keras.random.randint((), 0, 9), "float32"),
        "categorical": lambda x: x + keras.ops.cast(
            keras.random.categorical(keras.ops.ones((1, 2)), 1)[0, 0], "float32"),
        "gamma": lambda x: x + keras.random.gamma((), 1.0),
        "binomial": lambda x: x + keras.random.binomial((), 3.0, 0.5),
        "beta": lambda x: x + keras.random.beta((), 1.0, 1.0),
        "dropout": lambda x: keras.random.dropout(x, 0.5),
        "shuffle": keras.random.shuffle,
        "of_a_seed_generator": lambda x: x + keras.random.normal((), seed=SEEDS),
    }.items()},
    **{f"stateless_{name}": lambda x, op=op: op(x, next_seed()) for name, op in {
        "brightness": lambda x, seed: tf.image.stateless_random_brightness(x, 0.3, seed),
        "contrast": lambda x, seed: tf.image.stateless_random_contrast(x, 0.5, 1.5, seed),
        "crop": lambda x, seed: tf.image.stateless_random_crop(x, (4, 4, 3), seed),
        "flip_left_right": tf.image.stateless_random_flip_left_right,
        "flip_up_down": tf.image.stateless_random_flip_up_down,
        "hue": lambda x, seed: tf.image.stateless_random_hue(x, 0.3, seed),
        "saturation": lambda x, seed: tf.image.stateless_random_saturation(x, 0.5, 1.5, seed),
        "jpeg_quality": lambda x, seed: tf.image.stateless_random_jpeg_quality(x, 50, 95, seed),
        "distorted_box": lambda x, seed: x + tf.cast(
            tf.image.stateless_sample_distorted_bounding_box(
                (8, 8, 3), tf.zeros((1, 0, 4)), seed, use_image_if_no_bounding_boxes=True
            )[0][0], tf.float32),
        "dropout": lambda x, seed: tf.nn.experimental.stateless_dropout(x, 0.5, seed),
    }.items()},
}  # fmt: skip
STEADY_OPS: dict[str, Change] = {
    "scale": lambda x: x / 255.0,
    "stateless_uniform": lambda x: x + tf.random.stateless_uniform([], seed=(1, 2)),
    "stateless_random_crop": lambda x: tf.image.stateless_random_crop(x, (4, 4, 3), (1, 2)),
    "resize": lambda x: tf.image.resize(x, (4, 4)),
    "flip": tf.image.flip_left_right,
}


def random_layers() -> dict[str, Any]:
    """Every layer of Keras that draws numbers while it trains, made with as little as it takes."""
    needed = {
        "RandomCrop": {"height": 4, "width": 4}, "RandomHeight": {"factor": 0.2},
        "RandomWidth": {"factor": 0.2}, "RandomPosterization": {"factor": 4},
        "RandomColorJitter": {"brightness_factor": 0.2},
    }  # fmt: skip
    names = [
        name
        for name in dir(keras.layers)
        if name.startswith(("Random", "RandAug", "AugMix", "MixUp", "CutMix"))
        or ("Dropout" in name or name in ("GaussianNoise", "Solarization"))
    ]
    found = {}
    for name in names:
        cls = getattr(keras.layers, name)
        takes = inspect.signature(cls.__init__).parameters
        settings: dict[str, Any] = needed.get(name, {})
        for argument in ("rate", "factor", "stddev", "height_factor", "width_factor"):
            if argument in takes and takes[argument].default is inspect.Parameter.empty:
                settings = {argument: 0.2, **settings}
        if "value_range" in takes:
            settings = {**settings, "value_range": (0.0, 1.0)}
        found[name] = cls(**settings)
    flip = keras.layers.RandomFlip
    return {
        **found,
        "Pipeline": keras.layers.Pipeline([flip(), keras.layers.RandomContrast(0.2)]),
        "Sequential": keras.Sequential([keras.Input((8, 8, 3)), flip()]),
    }


LAYERS = random_layers()
SHAPES = {"SpatialDropout1D": (4, 8, 24), "SpatialDropout3D": (4, 8, 4, 2, 3)}


@pytest.mark.parametrize("name", RANDOM_OPS)
def test_no_cache_stands_behind_a_random_op(name: str) -> None:
    assert pipeline.why_not_repeatable(IMAGES.map(RANDOM_OPS[name]))


@pytest.mark.parametrize("name", LAYERS)
def test_no_cache_stands_behind_a_random_layer(name: str) -> None:
    layer = LAYERS[name]
    shape = SHAPES.get(name, (4, 8, 8, 3))
    rows = IMAGES.batch(4).map(lambda x: layer(tf.reshape(x, shape), training=True))
    assert pipeline.why_not_repeatable(rows)


def test_all_random_layers_that_keras_names_are_tried() -> None:
    assert len(LAYERS) >= 20
    assert {"RandomFlip", "RandomRotation", "RandomZoom", "Dropout", "GaussianNoise"} <= set(LAYERS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: IMAGES.shuffle(20),
        lambda: tf.data.Dataset.random(seed=1).take(5),
        lambda: tf.data.Dataset.sample_from_datasets([IMAGES, IMAGES]),
        lambda: tf.data.Dataset.from_generator(lambda: iter([1, 2]), output_types=tf.int32),
        lambda: IMAGES.map(lambda x: x + 1, num_parallel_calls=2, deterministic=False),
        lambda: tf.data.TextLineDataset(tf.data.Dataset.list_files(f"{__file__}*")),
        lambda: tf.data.FixedLengthRecordDataset(tf.data.Dataset.list_files(f"{__file__}*"), 8),
        lambda: tf.data.TFRecordDataset(tf.data.Dataset.list_files(f"{__file__}*")),
        lambda: tf.data.Dataset.random(seed=1, rerandomize_each_iteration=True).take(5),
        lambda: tf.data.Dataset.choose_from_datasets(
            [IMAGES, IMAGES], tf.data.Dataset.range(2).shuffle(2)
        ),
        lambda: NUMBERED.rejection_resample(lambda n: tf.cast(n % 2, tf.int32), [0.5, 0.5]),
        lambda: IMAGES.apply(tf.data.experimental.shuffle_and_repeat(4, 2)),
        lambda: IMAGES.batch(2, num_parallel_calls=2, deterministic=False),
        lambda: NUMBERED.interleave(lambda n: NUMBERED.shuffle(4)),
        lambda: NUMBERED.flat_map(
            lambda n: NUMBERED.map(lambda m: m + tf.random.uniform([], 0, 9, tf.int64))
        ),
        lambda: NUMBERED.interleave(
            lambda n: NUMBERED.map(abs, num_parallel_calls=2, deterministic=False)
        ),
        lambda: NUMBERED.interleave(
            lambda n: tf.data.Dataset.from_generator(lambda: [1], output_types=tf.int32)
        ),
        lambda: IMAGES.filter(lambda x: tf.random.uniform([]) < 0.5),
    ],
    ids=[
        "shuffle",
        "random",
        "sample",
        "generator",
        "sloppy",
        "lines of files",
        "records of files",
        "tfrecords of files",
        "random anew",
        "choice",
        "resample",
        "shuffle and repeat",
        "sloppy batch",
        "shuffle within",
        "map within",
        "sloppy within",
        "generator within",
        "random filter",
    ],
)
def test_no_cache_stands_behind_an_order_that_changes(make: Callable[[], Any]) -> None:
    assert pipeline.why_not_repeatable(make())


@pytest.mark.parametrize("name", STEADY_OPS)
def test_cache_may_stand_behind_what_gives_the_same(name: str) -> None:
    rows = IMAGES.map(STEADY_OPS[name])
    assert pipeline.why_not_repeatable(rows) == ""
    assert pipeline.is_serial(rows)
    assert pipeline.place_of_cache(rows.batch(4)) == "batch"
    later = "shuffle gives another order each time"
    assert pipeline.place_of_cache(rows.shuffle(20).batch(4)) == f"map; not later, since {later}"
    augmented = rows.shuffle(20).map(RANDOM_OPS["uniform"])
    place = pipeline.place_of_cache(augmented)
    assert place == f"map; not later, since {later} and the function of map uses RandomUniform"


def test_pass_that_ends_before_a_part_of_it_leaves_a_cache_unfinished() -> None:
    part = IMAGES.map(tf.nn.relu)
    batches = part.batch(4)
    unfinished = [
        batches.take(2),
        tf.data.Dataset.zip((batches, tf.data.Dataset.range(3))),
        batches.take_while(lambda x: True),
        part.shuffle(20).batch(4).repeat().take(3),
    ]
    whole = [
        batches.take(5),
        tf.data.Dataset.zip((batches, tf.data.Dataset.range(5))),
        part.repeat().batch(4).take(50),
        batches.prefetch(1),
    ]
    for dataset in unfinished:
        assert pipeline.may_leave_unfinished(dataset, part), pipeline.operations(dataset)
    for dataset in whole:
        assert not pipeline.may_leave_unfinished(dataset, part), pipeline.operations(dataset)


def test_why_no_cache_may_stand_anywhere() -> None:
    assert "lie in memory" in pipeline.why_no_cache(IMAGES.shuffle(20).batch(4))
    assert "already on" in pipeline.why_no_cache(IMAGES.map(tf.nn.relu).cache().batch(4))
    assert "Random" in pipeline.why_no_cache(IMAGES.map(RANDOM_OPS["uniform"]).batch(4))
    moved = IMAGES.shuffle(20).map(tf.nn.relu)
    assert pipeline.place_of_cache(moved) == "map, which moves before the shuffle"


def test_interleave_of_files_runs_in_parallel_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("map", "interleave"):
        monkeypatch.setattr(tf.data.Dataset, name, getattr(tf.data.Dataset, name))

    def make() -> Any:
        rows = tf.data.Dataset.range(6).interleave(
            lambda n: tf.data.Dataset.range(n * 10, n * 10 + n).map(lambda m: m + 1), 3, 2
        )
        return rows.interleave(tf.data.Dataset.from_tensors).batch(4)

    plain = make()
    assert pipeline.serial_maps_in(plain) == 1  # of the other TensorFlow chooses how many
    recorder = Recorder(folder=str(tmp_path), window_seconds=1.0, stop_after=None, in_trial=True)
    patches: Any = Patches(recorder)
    in_parallel(tf, {"count": 2}, patches)
    seen = make()
    assert pipeline.serial_maps_in(seen) == 0
    patches.feed(seen, 0, True)
    assert patches._effects["parallel_map"] == {"maps": 1, "count": 2}
    rows = [batch.numpy().tolist() for batch in plain]
    assert sum(map(len, rows)) == 15
    assert [batch.numpy().tolist() for batch in seen] == rows


def test_what_a_zip_joins_is_listed_beside_it() -> None:
    joined = tf.data.Dataset.zip((IMAGES, NUMBERED.map(lambda n: n + 1), NUMBERED)).batch(2)
    assert pipeline.operations(joined) == ("from_tensor_slices", "zip", "batch")
    assert pipeline.beside_of(joined) == ["", "range → map and range", ""]


def test_map_that_is_parallel_already_is_not_serial() -> None:
    rows = IMAGES.map(tf.nn.relu, num_parallel_calls=2).map(tf.nn.relu)
    assert pipeline.serial_maps_in(rows.batch(4)) == 1
    assert pipeline.operations(rows.batch(4)) == ("from_tensor_slices", "map", "map", "batch")


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: keras.optimizers.SGD(0.1),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.5)),
    ],
    ids=["Adam", "AdamW", "SGD", "nesterov", "schedule"],
)
def test_fused_optimizer_makes_the_same_steps(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")

    def trained() -> Any:
        weights, optimizer = keras.Variable(np.ones(5, dtype="float32")), make()
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient)], [weights])
        return weights.numpy()

    plain = trained()
    effects: list[str] = []

    def replace(owner: Any, name: str, made: Any) -> None:
        monkeypatch.setattr(owner, name, made(getattr(owner, name)))

    patches: Any = SimpleNamespace(
        replace=replace, took_effect=lambda name, **evidence: effects.append(name)
    )
    fuse(keras, {}, patches)
    assert np.allclose(trained(), plain, rtol=1e-5, atol=1e-6)
    assert effects


def test_op_is_built_anew_where_the_script_sets_no_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = OpSeeds()
    monkeypatch.delattr(seeds._context, "_rng", raising=False)
    with seeds.under(seeds.now()):
        shuffled = IMAGES.shuffle(20)
    assert len(list(shuffled)) == 20
