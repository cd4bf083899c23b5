"""Everything that knows a framework; the framework is handed in, never imported."""

from __future__ import annotations

from types import ModuleType
from typing import Sequence

from . import jax, keras, process, pytorch, tensorflow


def _modules(package: ModuleType, names: Sequence[str]) -> dict[str, str]:
    return {name: f"{package.__name__}.{name}" for name in names}


_PROCESS = _modules(process, process.TECHNIQUES)
_SWITCHED_ON = {
    "torch": {"torch": {**_modules(pytorch, pytorch.TECHNIQUES), **_PROCESS}},
    "keras": {
        "tensorflow": _modules(tensorflow, tensorflow.TECHNIQUES),
        "keras": {**_modules(keras, keras.TECHNIQUES), **_PROCESS},
    },
    "jax": {
        "torch": _modules(pytorch, pytorch.OF_LOADERS),
        "jax": {**_modules(jax, jax.TECHNIQUES), **_PROCESS},
    },
}
"""The modules of techniques, by the framework that trains and the one whose import lets them act.

A script that trains with JAX may be fed by a DataLoader of torch.
"""


def technique_names(framework: str) -> dict[str, str]:
    """The modules of a framework's techniques by name, in the order of the listings."""
    by_import = _SWITCHED_ON.get(framework, {})
    return {name: module for modules in by_import.values() for name, module in modules.items()}


def techniques_at(imported: str, framework: str) -> dict[str, str]:
    """The modules of what is switched on at the import of a framework, by name.

    framework: the one that trains.
    """
    return _SWITCHED_ON.get(framework, {}).get(imported, {})
