"""What a Keras model makes of the same batches at the same weights (measurement.md §5)."""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
from typing import Any, List, Mapping

from ...agent.patches import Patches

_MOST_COORDINATES = 1_000_000


def install(keras: Any, trainer: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Before the first fit, write the gradients of its first batches; then see what it moves.

    settings: {"gradients": number of batches, or 0}. `gradients.f32` gets the same at most
    1,000,000 coordinates of each as float32. Untimed runs, TensorFlow backend.
    """
    recorder = patches.recorder
    seen: List[bool] = []

    def witnessed(original: Any) -> Any:
        bound = inspect.signature(original)

        def fit(self: Any, *args: Any, **named: Any) -> Any:
            if not seen and settings["gradients"] and keras.backend.backend() == "tensorflow":
                seen.append(True)
                given = bound.bind(self, *args, **named).arguments
                trained = _write_gradients(self, given, settings["gradients"], recorder.folder)
                before = [variable.numpy() for variable in self.trainable_variables]
                patches.at_exit(lambda: _say_what_moved(recorder, self, before, trained))
            return original(self, *args, **named)

        return fit

    patches.replace(trainer, "fit", witnessed)


def _write_gradients(model: Any, given: Mapping[str, Any], count: int, folder: str) -> List[int]:
    """For each batch, how many variables got a gradient."""
    tf = importlib.import_module("tensorflow")
    adapters = importlib.import_module("keras.src.trainers.data_adapters")
    unpack = adapters.data_adapter_utils.unpack_x_y_sample_weight
    names = ("x", "y", "sample_weight", "batch_size")
    data = {name: given[name] for name in names if given.get(name) is not None}
    if hasattr(data["x"], "__next__"):
        return []  # a generator cannot be asked twice
    adapter = adapters.get_data_adapter(shuffle=False, **data)
    kept: List[Any] = []
    with_gradient = []
    with open(os.path.join(folder, "gradients.f32"), "wb") as file:
        for batch in itertools.islice(adapter.get_numpy_iterator(), count):
            x, y, weight = unpack(batch)
            with tf.GradientTape() as tape:
                predicted = model(x, training=True)
                loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight)
            kept = kept or [variable.numpy() for variable in model.variables]
            gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
            found = [tf.convert_to_tensor(g) for g in gradients if g is not None]
            with_gradient.append(len(found))
            flat = tf.concat([tf.reshape(tf.cast(g, tf.float32), [-1]) for g in found], 0).numpy()
            stride = -(-max(len(flat), 1) // _MOST_COORDINATES)
            file.write(flat[::stride].tobytes())
    for variable, value in zip(model.variables, kept):
        variable.assign(value)
    return with_gradient


def _say_what_moved(recorder: Any, model: Any, before: List[Any], trained: List[int]) -> None:
    pairs = zip(model.trainable_variables, before)
    norm = sum(float(((v.numpy() - value).astype("float64") ** 2).sum()) for v, value in pairs)
    for count in trained:
        recorder.emit(
            "gradients", with_gradient=count, parameters=len(before), update_norm=norm**0.5
        )
