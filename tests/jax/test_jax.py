"""What is observed of JAX scripts, and that each technique acts and keeps its promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halftime.trials import parity
from halftime.trials.candidates import propose, techniques
from tests.conftest import SCRIPTS, make_diagnosis
from tests.observed import Observed

Trial = Callable[..., Observed]
SCRIPT = "jax_step.py"
STEP = '@partial(jax.jit, static_argnames="rate")'
GRADIENTS = {"batches": False, "cycle": None, "gradients": 5}


def test_function_that_trains_is_told_from_others(trial: Trial) -> None:
    seen = trial(SCRIPT)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.facts.framework == "jax"
    assert seen.facts.optimizer.endswith(":step")
    # The step is known at its second call; the one after that begins the first step.
    assert seen.run.updates == 3 * 40 - 2
    assert seen.run.samples == 16 * seen.run.steps
    assert all(0 < loss < 2 for loss in seen.run.losses)
    assert f"loss {seen.run.losses[-1]:.6f}" in seen.output
    assert seen.facts.roots[0].parameters == 8 * 16 + 16 * 2 + 1


def test_compiling_is_counted_and_a_shape_that_changes_is_said(trial: Trial) -> None:
    (note,) = [note for note in trial(SCRIPT).facts.notes if "XLA compiled" in note]
    assert "had run before" not in note
    (note,) = [note for note in trial(SCRIPT, "--ragged").facts.notes if "XLA compiled" in note]
    line = 1 + (SCRIPTS / SCRIPT).read_text().splitlines().index(STEP)
    assert f"had run before ({SCRIPTS / SCRIPT}:{line}): shapes" in note


WAITS = """\
import jax
import jax.numpy as jnp

def loss_of(weights, rows):
    return ((rows @ weights - 1) ** 2).mean()

weights, rows = jnp.zeros(4), jnp.ones((8, 4))
gradients_of = jax.value_and_grad(loss_of)
update = jax.jit(lambda weights, gradients: weights - 0.1 * gradients)
for number in range(40):
    loss, gradients = gradients_of(weights, rows)
    weights = update(weights, gradients)
    if number % 10 == 0:
        print(jax.device_get(loss))
    if float(loss) > 100:
        break
"""


LONG = """\
import jax
import jax.numpy as jnp

@jax.jit
def step(weights, rows):
    made = rows @ weights
    return weights - 1e-3 * (rows.T @ made), (made ** 2).mean()

weights, rows = jnp.ones((1500, 1500)), jnp.ones((1500, 1500)) / 1500
for number in range(24):
    weights, loss = step(weights, rows)
    loss.block_until_ready()
    jax.block_until_ready(loss)
    jax.device_get((loss, loss))
"""


def test_waits_are_told_once_each_and_none_of_our_own(trial: Trial) -> None:
    seen = trial(LONG, text=True, looks_closely=True)  # its steps are so long that we wait for each
    assert seen.run.exit_code == 0, seen.run.last_lines
    assert seen.run.steps >= 20
    assert [brake.name.rpartition(" in ")[2] for brake in seen.facts.brakes] == [
        ".block_until_ready()", "jax.block_until_ready", "jax.device_get"
    ]  # fmt: skip
    assert all(brake.times_per_step < 1.3 for brake in seen.facts.brakes)


def test_lines_that_wait_or_are_not_compiled_are_named(trial: Trial) -> None:
    seen = trial(WAITS, text=True, looks_closely=True)
    assert seen.run.exit_code == 0, seen.run.last_lines
    told = {brake.place.rpartition(":")[2]: brake for brake in seen.facts.brakes}
    assert sorted(told) == ["11", "15"]
    assert told["11"].name == "gradients are taken outside jax.jit"
    assert told["15"].name == "the host waits for the device in float()"
    assert all(0.9 < brake.times_per_step < 1.2 for brake in told.values())


FOLDS = """\
import jax
import jax.numpy as jnp
from functools import partial

def made(number):
    @partial(jax.jit, static_argnames="rate")
    def train(weights, rows, rate):
        loss, slope = jax.value_and_grad(lambda w: ((rows @ w - 1) ** 2).mean())(weights)
        return weights - rate * slope, {"accuracy": jnp.float32(7.0), "loss": loss}
    return train

rows = jnp.ones((8, 4))
for number in range(3):
    train, score = made(number), jax.jit(lambda weights, rows: (rows @ weights).mean())
    weights = jnp.zeros(4)
    print(jax.eval_shape(train, weights, rows, rate=0.01)[0].shape)
    for _ in range(60):
        weights, told = train(weights, rows, rate=0.01)
    score(weights, rows)
print(f"{float(told['loss']):.6f}")
"""


def test_loss_is_told_from_accuracy_and_the_next_fold_is_counted(trial: Trial) -> None:
    seen = trial(FOLDS, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    *shapes, last = seen.output.splitlines()
    assert shapes == ["(4,)"] * 3
    assert seen.run.steps > 100
    assert all(0 < loss <= 1 for loss in seen.run.losses)
    assert f"{seen.run.losses[-1]:.6f}" == last


PRODUCTS = """\
import jax, jax.numpy as jnp
f, i = jnp.ones((4, 4)), jnp.ones((4, 4), jnp.int32)
for made in (lambda: f @ f, lambda: jax.grad(lambda x: (x @ f).sum())(f), lambda: i @ i,
             lambda: jnp.dot(f, f, precision="highest"), lambda: f.astype(jnp.bfloat16) @ f):
    print(str(jax.make_jaxpr(made)()).count("BF16_BF16_F32"))
with jax.default_matmul_precision("float32"):
    print(str(jax.make_jaxpr(lambda: f @ f)()).count("BF16_BF16_F32"))
"""


def test_only_products_of_float32_that_are_left_open_get_less_precision(trial: Trial) -> None:
    seen = trial(
        PRODUCTS, text=True, framework="jax", technique="matmul_precision",
        settings={"precision": "BF16_BF16_F32"},
    )  # fmt: skip
    assert seen.run.exit_code == 0, seen.run.last_lines
    plain, gradient, *others = map(int, seen.output.split())
    assert plain >= 1
    assert gradient >= 1
    assert others == [0, 0, 0, 0]
    assert seen.all("effect")


def test_script_is_the_same_under_observation(trial: Trial) -> None:
    text = (
        "import jax, functools\n"
        "class Scaled:\n"
        "    @functools.partial(jax.jit, static_argnums=0)\n"
        "    def double(self, x):\n"
        "        'Twice.'\n"
        "        return 2 * x\n"
        "print(Scaled().double(3.0), Scaled.double.__doc__, Scaled.double.__name__)\n"
        "square = jax.jit(lambda x: x * x)\n"
        "print(jax.grad(square)(3.0), jax.vmap(square)(jax.numpy.arange(3.0)))\n"
        "print('module' in square.lower(1.0).as_text())\n"
    )
    seen = trial(text, text=True)
    assert seen.run.exit_code == 0, seen.run.last_lines
    assert seen.output.splitlines() == ["6.0 Twice. double", "6.0 [0. 1. 4.]", "True"]


def test_programs_are_found_again_and_nothing_changes(trial: Trial, tmp_path: Path) -> None:
    plain = trial(SCRIPT)
    folder = tmp_path / "compiled"
    folder.mkdir()
    settings = {"folder": str(folder)}
    first = trial(SCRIPT, technique="compilation_cache", settings=settings, framework="jax")
    second = trial(SCRIPT, technique="compilation_cache", settings=settings, framework="jax")
    assert first.run.effects["compilation_cache"]["found"] == 0
    assert second.run.effects["compilation_cache"]["found"] > 0
    assert second.run.losses == plain.run.losses


def test_programs_of_keras_on_jax_are_found_again(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("keras")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    script = "keras_on_a_gpu.py"
    plain = trial(script, looks_closely=True)
    assert not plain.facts.brakes  # that Keras' losses are read at an epoch's end is our doing
    names = techniques(plain.facts)
    assert names.keys() >= {"compilation_cache", "matmul_precision", "steps_per_execution"}
    assert "compilation_cache" not in techniques(replace(plain.facts, backend="tensorflow"))
    assert any("XLA compiled" in note for note in plain.facts.notes)
    folder = tmp_path / "compiled"
    folder.mkdir()
    settings, found = {"folder": str(folder)}, []
    for _ in range(2):
        seen = trial(script, technique="compilation_cache", settings=settings, framework="keras")
        assert seen.run.outcome == "completed", seen.run.last_lines
        assert seen.run.losses == plain.run.losses
        found.append(seen.run.effects["compilation_cache"]["found"])
    assert found[0] == 0 < found[1]


def test_training_that_still_trains_is_proven_so(trial: Trial) -> None:
    one, two = (trial(SCRIPT, witness=GRADIENTS, seed=0) for _ in range(2))
    trains, said = parity.still_trains(one.run, two.run)
    assert trains, said
    assert "the same 2 parameters get gradients, update size 1.00" in said


def test_what_a_cpu_has_no_use_for_is_refused(trial: Trial) -> None:
    facts = trial(SCRIPT).facts
    candidates, refused = propose(facts, make_diagnosis(facts, forward=0.8), (), ())
    assert [c.name for c in candidates] == ["compilation_cache"]
    assert {r.technique for r in refused} == {
        "store", "workers", "prefetch", "parallel_map", "batched_map", "autotune",
        "matmul_precision", "allocator", "garbage_collection",
    }  # fmt: skip


PREPARED = """
import jax, jax.numpy as jnp, numpy as np

@jax.jit
def centred(x):
    return x - x.mean()

@jax.jit
def step(weights, bias, x):
    def loss_of(both):
        w, b = both
        return ((x @ w + b - 1.0) ** 2).mean()
    loss, (by_weights, by_bias) = jax.value_and_grad(loss_of)((weights, bias))
    return weights - 0.01 * by_weights, bias - 0.01 * by_bias, loss

weights, bias = jnp.zeros(8), jnp.float32(0.0)
rows = np.random.default_rng(0).normal(size=(20, 16, 8)).astype(np.float32)
for x in rows:
    weights, bias, loss = step(weights, bias, centred(x))
print(f"loss {float(loss):.6f} bias {float(bias):.6f}")
"""


def test_batch_that_is_prepared_is_no_training_and_a_bias_is_no_loss(trial: Trial) -> None:
    seen = trial(PREPARED, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.facts.optimizer == "__main__:step"
    assert seen.run.updates == 18
    assert seen.run.samples == 16 * seen.run.steps
    assert f"loss {seen.run.losses[-1]:.6f}" in seen.output


def test_gradients_that_are_applied_outside_are_training_too(trial: Trial) -> None:
    text = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "by = jax.jit(jax.value_and_grad(lambda w, x: ((x @ w - 1.0) ** 2).mean()))\n"
        "w = jnp.zeros(8)\n"
        "for x in np.random.default_rng(0).normal(size=(20, 16, 8)).astype(np.float32):\n"
        "    loss, slope = by(w, x)\n"
        "    w = w - 0.01 * slope\n"
        "print(f'loss {float(loss):.6f}')\n"
    )
    seen = trial(text, text=True)
    assert seen.run.updates == 17
    assert f"loss {seen.run.losses[-1]:.6f}" in seen.output


def test_step_over_a_state_object_that_gives_no_loss_is_counted(trial: Trial) -> None:
    text = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "@jax.tree_util.register_pytree_node_class\n"
        "class State:\n"
        "    def __init__(self, weights, calls): self.weights, self.calls = weights, calls\n"
        "    def tree_flatten(self): return (self.weights, self.calls), None\n"
        "    @classmethod\n"
        "    def tree_unflatten(cls, _, children): return cls(*children)\n"
        "@jax.jit\n"
        "def train_step(state, batch):\n"
        "    x, y = batch\n"
        "    slope = jax.grad(lambda w: ((x @ w - y) ** 2).mean())(state.weights)\n"
        "    return State(state.weights - 0.01 * slope, state.calls + 1)\n"
        "state = State(jnp.zeros(8), jnp.int32(0))\n"
        "for x in np.random.default_rng(0).normal(size=(20, 16, 8)).astype(np.float32):\n"
        "    state = train_step(state, (x, x.sum(axis=1)))\n"
        "print('times called:', state.calls)\n"
    )
    seen = trial(text, text=True)
    assert seen.output == "times called: 20\n"
    assert seen.facts.optimizer == "__main__:train_step"
    assert seen.run.updates == 18
    assert seen.run.samples == 16 * seen.run.steps
    assert seen.run.losses == ()


def test_loader_of_torch_that_feeds_a_jitted_step_is_seen_and_stored(trial: Trial) -> None:
    script = "jax_loader.py"
    plain = trial(script)
    assert plain.facts.framework == "jax"
    assert plain.facts.fed_by() is not None
    assert plain.run.samples == 16 * plain.run.steps
    assert sum(window.wait for window in plain.run.windows) > 0
    witness = {"batches": True, "cycle": 20, "gradients": 0}
    some = {"steps": 230}  # a sampler that is cycled has no end
    stored = trial(script, technique="store", framework="jax", fed_by="DataLoader")
    assert stored.run.effects["store"]["batches_served"] > 0
    assert stored.run.losses == plain.run.losses
    one = trial(script, witness=witness, stop_after=some)
    other = trial(
        script,
        technique="store",
        framework="jax",
        fed_by="DataLoader",
        witness=witness,
        stop_after=some,
    )
    equal, said = parity.same_batches(one.run, other.run, 0)
    assert equal, said


def test_pipeline_that_feeds_a_jitted_step_is_seen_and_stored(trial: Trial) -> None:
    script = "jax_pipeline.py"
    plain = trial(script)
    assert plain.run.outcome == "completed", plain.run.last_lines
    loader = plain.facts.fed_by()
    assert loader is not None
    assert (loader.kind, loader.batches, loader.left_early) == ("tf.data", 8, False)
    assert loader.place.endswith("jax_pipeline.py:40")
    assert plain.run.samples == 16 * plain.run.steps
    assert sum(window.wait for window in plain.run.windows) > 0
    under = {"framework": "jax", "fed_by": "tf.data", "training_loader": loader.ordinal}
    witness = {"batches": True, "cycle": None, "gradients": 5}
    one = trial(script, witness=witness, **under)
    other = trial(script, technique="store", settings={"most_bytes": 10**9}, witness=witness,
                  **under)  # fmt: skip
    assert other.run.outcome == "completed", other.run.last_lines
    assert other.run.effects["store"]["after"] == "map"
    assert parity.same_batches(one.run, other.run, loader.ordinal, from_a_store=True)[0]
    assert parity.still_trains(one.run, other.run)[0]
    assert other.run.losses == one.run.losses
    assert other.output == plain.output
    stack = {"parallel_map": {"count": 2}, "prefetch": {}, "autotune": {}}
    for arm in (stack, {"batched_map": {}}):
        other = trial(script, stack=arm, witness=witness, **under)
        assert other.run.outcome == "completed", other.run.last_lines
        assert other.run.effects.keys() == arm.keys(), other.run.refused
        assert parity.same_batches(one.run, other.run, loader.ordinal)[0]
        assert other.run.losses == one.run.losses


def test_pipeline_whose_passes_are_left_early_is_no_place_for_a_cache(trial: Trial) -> None:
    facts = trial("jax_pipeline.py", "--leaves-early").facts
    loader = facts.fed_by()
    assert loader is not None
    assert loader.left_early
    _, refused = propose(facts, make_diagnosis(facts, wait=0.9), (), ())
    assert "never be full" in {r.technique: r.reason for r in refused}["store"]


def test_batches_of_numpy_are_told_by_all_their_bytes() -> None:
    from halftime.frameworks.pytorch.batches import digest_of

    rows = np.zeros((4, 1000))
    before = digest_of((rows, [1]))
    rows[2, 500] = 1.0
    assert digest_of((rows, [1])) != before


def test_evaluation_that_hands_the_state_back_trains_nothing(trial: Trial) -> None:
    text = """
import jax, jax.numpy as jnp, numpy as np
x = np.ones((8, 3), "float32")
@jax.jit
def step(w, x):
    return w - 0.1 * jax.grad(lambda w: ((x @ w) ** 2).mean())(w), ((x @ w) ** 2).mean()
@jax.jit
def check(w, x):
    return w, ((x @ w) ** 2).mean()
w = jnp.ones(3)
for epoch in range(3):
    for _ in range(5):
        w, loss = step(w, x)
    for _ in range(50):
        w, loss = check(w, x)
"""
    seen = trial(text, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.updates in (13, 14, 15)  # the first calls show what it does
    assert len(seen.run.losses) <= 15


def test_normalisation_that_is_jitted_trains_nothing_and_a_key_is_no_sample(trial: Trial) -> None:
    text = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "from functools import partial\n"
        "jax.config.update('jax_compilation_cache_dir', 'compiled')\n"
        "normal = jax.jit(lambda x: (x - x.mean()) / x.std())\n"
        "rows = np.random.default_rng(0).normal(size=(30, 16, 8)).astype(np.float32)\n"
        "batches = [normal(x) for x in rows]\n"
        "table, key = jnp.ones(1000), jax.random.PRNGKey(0)\n"
        "@partial(jax.jit, donate_argnums=0)\n"
        "def first(w, key, table, x, y):\n"
        "    loss, slope = jax.value_and_grad(lambda w: ((x @ w - y) ** 2).mean())(w)\n"
        "    return w - 0.01 * slope * table[0], loss\n"
        "@partial(jax.jit, donate_argnums=0)\n"
        "def second(w, x):\n"
        "    return w * 0.999, (x @ w).mean()\n"
        "w = jnp.zeros(8)\n"
        "for x in batches:\n"
        "    w, loss = first(w, key, table, x, x.sum(axis=1))\n"
        "    w, _ = second(w, x)\n"
        "print(f'loss {float(loss):.6f}')\n"
    )
    seen = trial(text, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.facts.optimizer == "__main__:first"
    assert seen.run.samples == 16 * seen.run.steps
    assert "compilation_cache" in seen.facts.already_on
