"""What a Keras model makes of the same batches at the same weights (measurement.md §5)."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import os
from typing import Any, Iterable, Iterator, List, Mapping

from ...agent.patches import Patches
from ..tensorflow.pipeline import gives_once
from .trainer import draws_numbers

_MOST_COORDINATES = 1_000_000
_RATES = ("rate", "dropout", "recurrent_dropout", "stddev")


def install(keras: Any, trainer: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Before the first fit, write the gradients of its first batches; then see what it moves.

    settings: {"gradients": number of batches, or 0}. `gradients.f32` gets the same at most
    1,000,000 coordinates of each as float32. Untimed runs.
    """
    recorder = patches.recorder
    seen: List[bool] = []

    def moved(model: Any, before: List[Any], trained: List[int]) -> None:
        if hasattr(model, "jax_state_sync"):
            model.jax_state_sync()  # within an epoch, JAX has the newest weights elsewhere
        say_what_moved(keras, recorder, model.trainable_variables, before, trained)

    def witnessed(original: Any) -> Any:
        bound = inspect.signature(original)

        def fit(self: Any, *args: Any, **named: Any) -> Any:
            if not seen and settings["gradients"]:
                seen.append(True)
                given = bound.bind(self, *args, **named).arguments
                if hasattr(given.get("x"), "__next__"):
                    # A generator cannot be asked twice: what was taken of it comes again.
                    taken = list(itertools.islice(given["x"], settings["gradients"]))
                    args, named = (), {**given, "x": _resumed(taken, given["x"])}
                    self, given = named.pop("self"), {**given, "x": _resumed(taken, ())}
                try:
                    if gives_once(given.get("x")):
                        raise LookupError("its batches come once")
                    trained = _write_gradients(
                        keras, self, given, settings["gradients"], recorder.folder
                    )
                except Exception as error:  # a model that computes its loss in its own way
                    recorder.emit("note", text=f"no gradients were kept: {type(error).__name__}")
                    trained = [len(self.trainable_variables)] * settings["gradients"]
                before = values_of(keras, self.trainable_variables)
                patches.at_exit(lambda: moved(self, before, trained))
            return original(self, *args, **named)

        return fit

    patches.replace(trainer, "fit", witnessed)


def _write_gradients(
    keras: Any, model: Any, given: Mapping[str, Any], count: int, folder: str
) -> List[int]:
    """For each batch, how many variables got a gradient."""
    adapters = importlib.import_module("keras.src.trainers.data_adapters")
    unpack = adapters.data_adapter_utils.unpack_x_y_sample_weight
    names = ("x", "y", "sample_weight", "batch_size")
    data = {name: given[name] for name in names if given.get(name) is not None}
    adapter = adapters.get_data_adapter(shuffle=False, **data)
    gradients_of = _GRADIENTS[keras.backend.backend()]
    numpy = importlib.import_module("numpy")

    def tensor(leaf: Any) -> Any:
        return None if leaf is None else keras.ops.convert_to_tensor(leaf)

    kept: List[Any] = []
    with_gradient = []
    with open(os.path.join(folder, "gradients.f32"), "wb") as file, _without_dropout(model):
        for batch in itertools.islice(adapter.get_numpy_iterator(), count):
            tensors = keras.tree.map_structure(tensor, unpack(batch))
            if not kept:
                model(tensors[0])  # makes the variables
                kept = values_of(keras, model.variables)
            found = [g for g in gradients_of(model, *tensors) if g is not None]
            with_gradient.append(len(found))
            flat = numpy.concatenate([numpy.asarray(g, dtype="float32").ravel() for g in found])
            stride = -(-max(len(flat), 1) // _MOST_COORDINATES)
            file.write(flat[::stride].tobytes())
    for variable, value in zip(model.variables, kept):
        variable.assign(value)
    return with_gradient


def _resumed(taken: List[Any], rest: Iterable[Any]) -> Iterator[Any]:
    """A generator, as Keras asks for one, of what was taken and of what comes after."""
    yield from taken
    yield from rest


@contextlib.contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    """Other kernels and precisions drop others: that is no error of the gradients."""
    dropped = [
        (layer, name, vars(layer)[name])
        for layer in filter(draws_numbers, model._flatten_layers())
        for name in _RATES
        if isinstance(vars(layer).get(name), float)
    ]
    for layer, name, _ in dropped:
        setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, name, rate in dropped:
            setattr(layer, name, rate)


def _by_tensorflow(model: Any, x: Any, y: Any, weight: Any) -> List[Any]:
    tf = importlib.import_module("tensorflow")

    def differentiated(x: Any, y: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    if getattr(model, "jit_compile", False) is True:  # as the training step will be
        differentiated = tf.function(differentiated, jit_compile=True)
    found = differentiated(x, y, weight)
    return [None if g is None else tf.convert_to_tensor(g).numpy() for g in found]


def _by_torch(model: Any, x: Any, y: Any, weight: Any) -> List[Any]:
    model.zero_grad()
    predicted = model(x, training=True)
    model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight).backward()
    found = [variable.value.grad for variable in model.trainable_variables]
    gradients = [None if g is None else g.detach().float().cpu().numpy().copy() for g in found]
    model.zero_grad()
    return gradients


def _by_jax(model: Any, x: Any, y: Any, weight: Any) -> List[Any]:
    jax = importlib.import_module("jax")
    state = [
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.metrics_variables,
            model.optimizer.variables,
        )
    ]
    differentiate = jax.grad(model.compute_loss_and_updates, has_aux=True)
    found, _ = differentiate(*state[:3], x, y, weight, training=True, optimizer_variables=state[3])
    return list(found)


_GRADIENTS = {"tensorflow": _by_tensorflow, "torch": _by_torch, "jax": _by_jax}


def values_of(keras: Any, variables: Any) -> List[Any]:
    """Copies of variables, as NumPy arrays."""
    return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]


def say_what_moved(
    keras: Any, recorder: Any, variables: Any, before: List[Any], trained: List[int]
) -> None:
    """What parity asks of a training that still trains, a note for each count in `trained`."""
    pairs = zip(values_of(keras, variables), before)
    norm = sum(float(((now - value).astype("float64") ** 2).sum()) for now, value in pairs)
    for count in trained:
        recorder.emit(
            "gradients", with_gradient=count, parameters=len(before), update_norm=norm**0.5
        )
