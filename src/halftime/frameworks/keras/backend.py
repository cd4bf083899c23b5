"""The framework that Keras computes with.

Changes: KERAS_BACKEND. Helps: where another framework runs the same model faster on this machine;
JAX compiles the whole step, TensorFlow a graph of it, PyTorch runs operation by operation. May
change: everything that is drawn at random, as the weights that training starts from, and rounding:
it is another training of the same model, so the held-out metric decides. Needs: a script that uses
nothing but Keras, and the other framework installed. Source: keras.io, Getting started, Configuring
your backend.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from typing import TYPE_CHECKING, Any, Iterator, List, Mapping, Sequence, Tuple

from ...agent.patches import Patches
from ...agent.places import files_of_the_user
from ...ideas import BACKEND as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_BACKENDS = ("tensorflow", "jax", "torch")
"""Of Keras; each is the name of its package too."""
_VARIABLE = "KERAS_BACKEND"
_RANDOM = ("random", "numpy.random")
_OF_A_STEP = ("call", "train_step", "compute_loss")


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """Every other backend that is installed; or why the script stays where it is."""
    from ...records import Proposal, Switch

    if facts.bound_to_backend:
        return [Proposal(switch=None, reason=facts.bound_to_backend)]
    if not facts.other_backends:
        missing = " or ".join(name for name in _BACKENDS if name != facts.backend)
        reason = f"no other backend is installed beside {facts.backend} (pip install {missing})"
        return [Proposal(switch=None, reason=reason)]
    return [
        Proposal(
            switch=Switch(
                technique=IDEA.name,
                settings={"name": name, "environment": {_VARIABLE: name}},
                numerics="training",
            ),
            reason=f"the script uses nothing but Keras, and {name} is installed",
        )
        for name in facts.other_backends
    ]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """The variable was set before the script began: see what Keras made of it."""
    now = framework.backend.backend()
    if now == settings["name"]:
        patches.took_effect(IDEA.name, backend=now)
    else:
        patches.refuse(IDEA.name, f"the script itself chooses {now}")


def others_than(backend: str) -> List[str]:
    """The backends that are installed beside the one in use."""
    return [
        name for name in _BACKENDS if name != backend and importlib.util.find_spec(name) is not None
    ]


def why_bound_to(backend: str) -> str:
    """Why the script runs on this backend alone; '' where it uses nothing but Keras."""
    if os.environ.get(_VARIABLE) != _at_the_start(_VARIABLE):
        return f"the script itself chooses {backend}"
    for file in files_of_the_user():
        try:
            with open(file, encoding="utf-8") as source:
                tree = ast.parse(source.read())
        except (OSError, SyntaxError, ValueError):
            continue
        for name, line in _imports(tree):
            if name.split(".", 1)[0] in _BACKENDS and not name.startswith("tensorflow.keras"):
                return f"the script uses {name} itself ({os.path.basename(file)}:{line})"
        if backend == "torch" and (line := _line_of_python_in_a_step(tree)):
            where = f"{os.path.basename(file)}:{line}"
            return f"a step draws or counts in Python ({where}), which others trace but once"
    return ""


def _line_of_python_in_a_step(tree: ast.AST) -> int:
    """Where what Keras calls in a step draws Python's random numbers or sets an attribute; 0."""
    drawn = {name for name, whole in _names_of(tree) if whole in _RANDOM}
    numpys = {("random", name) for name, whole in _names_of(tree) if whole == "numpy"}
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name not in _OF_A_STEP:
            continue
        for node in ast.walk(function):
            stores = isinstance(getattr(node, "ctx", None), ast.Store)
            held = node.value if isinstance(node, ast.Subscript) else node
            sets = stores and _root_of(held) == "self"
            draws = isinstance(node, ast.Name) and node.id in drawn
            of_numpy = isinstance(node, ast.Attribute) and (node.attr, _root_of(node)) in numpys
            if sets or draws or of_numpy:
                return int(getattr(node, "lineno", 0))
    return 0


def _names_of(tree: ast.AST) -> Iterator[Tuple[str, str]]:
    """What a file imports, under which name: the module, or what of which it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = node.module if node.module in _RANDOM else f"{node.module}.{alias.name}"
                yield alias.asname or alias.name, whole


def _root_of(node: ast.AST) -> str:
    """The name that a chain of attributes begins with; '' of a plain name, and of all else."""
    inner = node
    while isinstance(inner, ast.Attribute):
        inner = inner.value
    return inner.id if isinstance(inner, ast.Name) and inner is not node else ""


def _imports(tree: ast.AST) -> Iterator[Tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def _at_the_start(variable: str) -> Any:
    """The value of an environment variable when the process began."""
    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = [line.partition(b"=") for line in file.read().split(b"\0")]
    except OSError:
        return os.environ.get(variable)
    found = {name.decode("utf-8", "replace"): value for name, _, value in pairs}
    return found[variable].decode("utf-8", "replace") if variable in found else None
