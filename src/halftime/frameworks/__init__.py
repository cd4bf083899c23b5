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
DATA_LOADER = "DataLoader"
"""The kind of a loader that torch's techniques act on."""


def technique_modules(framework: str, fed_by: str = "") -> dict[str, str]:
    """The modules of a framework's techniques by name, in the order of the listings.

    fed_by: the kind of what feeds the training; of a DataLoader, torch's stand before others of the
    same name.
    """
    by_import = _SWITCHED_ON.get(framework, {})
    found = {name: module for modules in by_import.values() for name, module in modules.items()}
    return {**found, **by_import.get("torch", {})} if fed_by == DATA_LOADER else found


def techniques_at(imported: str, framework: str, fed_by: str) -> dict[str, str]:
    """The modules of what is switched on at the import of a framework, by name.

    framework: the one that trains. fed_by: the kind of what feeds it.
    """
    acting = technique_modules(framework, fed_by)
    here = _SWITCHED_ON.get(framework, {}).get(imported, {})
    return {name: module for name, module in here.items() if acting[name] == module}
