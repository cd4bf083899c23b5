"""Everything that knows a framework; the framework is handed in, never imported."""

from __future__ import annotations

from . import jax, keras, process, pytorch, tensorflow

PACKAGES = {
    "torch": (pytorch, process),
    "keras": (tensorflow, keras, process),
    "jax": (jax, process),
}
"""The packages whose techniques act on a script, by the framework that trains it."""


def technique_names(framework: str) -> dict[str, str]:
    """The modules of a framework's techniques by name, in the order of the listings."""
    return {
        name: f"{package.__name__}.{name}"
        for package in PACKAGES.get(framework, ())
        for name in package.TECHNIQUES
    }
