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
        "torch": _modules(pytorch, pytorch.OF_LOADERS),
        "tensorflow": _modules(tensorflow, tensorflow.TECHNIQUES),
        "keras": {**_modules(keras, keras.TECHNIQUES), **_PROCESS},
    },
    "jax": {
        "torch": _modules(pytorch, pytorch.OF_LOADERS),
        "tensorflow": _modules(tensorflow, tensorflow.OF_PIPELINES),
        "jax": {**_modules(jax, jax.TECHNIQUES), **_PROCESS},
    },
}
"""The modules of techniques, by the framework that trains and the one whose import lets them act.

Keras may be fed by a DataLoader of torch, and JAX by that or by tf.data.
"""
_OF_BACKENDS = {
    "keras": {
        "jax": _modules(jax, jax.TECHNIQUES),
        "torch": _modules(pytorch, pytorch.OF_A_BACKEND),
    }
}
"""Those that act where Keras computes with that framework, and are switched on at its import."""
DATA_LOADER = "DataLoader"
"""The kind of a loader that torch's techniques act on."""


def technique_modules(framework: str, fed_by: str = "", backend: str = "") -> dict[str, str]:
    """The modules of a framework's techniques by name, in the order of the listings.

    fed_by: the kind of what feeds the training; of a DataLoader, torch's stand before others of the
    same name. backend: with which framework Keras computes.
    """
    by_import = _SWITCHED_ON.get(framework, {})
    found = {name: module for modules in by_import.values() for name, module in modules.items()}
    found.update(by_import.get("torch", {}) if fed_by == DATA_LOADER else {})
    return {**found, **_OF_BACKENDS.get(framework, {}).get(backend, {})}


def techniques_at(imported: str, framework: str, fed_by: str) -> dict[str, str]:
    """The modules of what is switched on at the import of a framework, by name.

    framework: the one that trains. fed_by: the kind of what feeds it.
    """
    acting = technique_modules(framework, fed_by, backend=imported)
    here = [on.get(framework, {}).get(imported, {}) for on in (_SWITCHED_ON, _OF_BACKENDS)]
    return {
        name: module
        for modules in here
        for name, module in modules.items()
        if acting[name] == module
    }
