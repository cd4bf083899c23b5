"""What Keras' trainers have in common, whatever the backend."""

from __future__ import annotations

import importlib
from typing import Any, Dict, Iterable, List, Mapping

_BATCHES = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
_FREQUENCIES = ("save_freq", "update_freq")


def trainer_of(keras: Any) -> Any:
    """The class whose `fit` the backend in use runs."""
    backend = keras.backend.backend()
    module = importlib.import_module(f"keras.src.backend.{backend}.trainer")
    names = {"tensorflow": "TensorFlowTrainer", "torch": "TorchTrainer", "jax": "JAXTrainer"}
    return getattr(module, names[backend])


def has_own_step(keras: Any, model: Any) -> bool:
    """Whether a model trains by a `train_step` of the script's own."""
    return getattr(type(model), "train_step", None) is not trainer_of(keras).train_step


def draws_numbers(layer: Any) -> bool:
    """Whether a layer draws random numbers, as dropout and augmentation do."""
    return bool(getattr(layer, "_seed_generators", ())) or hasattr(layer, "seed_generator")


def limited_steps(given: Mapping[str, Any]) -> Dict[str, int]:
    """How many steps an epoch and an evaluation are to have, where the arguments of fit say so."""
    names = ("steps_per_epoch", "validation_steps")
    return {name: int(given[name]) for name in names if given.get(name)}


def wanting_batches(callbacks: Iterable[Any]) -> List[str]:
    """The callbacks that do something for the script at every batch, or at every n-th."""
    return [type(one).__name__ for one in callbacks if _wants_batches(one)]


def _wants_batches(callback: Any) -> bool:
    if any(name in vars(callback) for name in _BATCHES):  # LambdaCallback, as the script fills it
        return True
    if any(getattr(callback, name, "epoch") != "epoch" for name in _FREQUENCIES):
        return True
    base = importlib.import_module("keras.src.callbacks.callback").Callback
    own = not type(callback).__module__.startswith("keras.")
    return own and any(getattr(type(callback), n, None) is not getattr(base, n) for n in _BATCHES)
