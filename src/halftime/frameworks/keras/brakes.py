"""Eager execution left on.

Changes: `run_eagerly` of a Keras model and `tf.config.run_functions_eagerly` stay off, so that a
step is traced once and runs as a graph. Helps: where a debugging aid was left in the script. May
change: rounding. Refused where a step runs Python of the script's own, which a graph does but once:
nobody sees from outside whether it draws, counts or collects.
Source: Keras documentation of `Model.compile`; tensorflow.org, Better performance with tf.function.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...agent.places import place_of_caller
from ...agent.recorder import Recorder
from ...ideas import BRAKES as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_GIVEN_TO_COMPILE = ("_user_loss", "_user_metrics", "_user_weighted_metrics")
_CALLED_BY_A_LAYER = ("function", "activation", "regularizer", "constraint")
_LIBRARIES = ("keras.", "tensorflow.", "jax", "torch.", "builtins", "numpy")
_RELEASABLE = ("run_eagerly", "run_functions_eagerly")


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """One switch for both, where a step may be traced."""
    from ...records import Proposal, Switch

    seen = [brake for brake in facts.brakes if brake.name in _RELEASABLE]
    places = ", ".join(f"{brake.name} at {brake.place}" for brake in seen)
    refusal = ""
    if not seen:
        left = ", ".join(sorted({brake.name for brake in facts.brakes}))
        refusal = "no brake that can be released was seen" + (
            f"; only named: {left}" if left else ""
        )
    elif facts.own_code:
        own = f"a step runs Python of the script's own ({facts.own_code})"
        refusal = f"{places}: {own}, which a graph does but once: try it by hand"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="rounding")
    return [Proposal(switch=switch, reason=places)]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Whatever asks for eager execution is told off."""

    def told_off(name: str, asked: Any) -> bool:
        if asked:
            patches.took_effect(IDEA.name, released=name)
        return False

    def compiled(original: Any) -> Any:
        bound = inspect.signature(original)

        @functools.wraps(original)
        def compile(self: Any, *args: Any, **named: Any) -> Any:
            given = bound.bind(self, *args, **named).arguments
            if "run_eagerly" in given:
                given["run_eagerly"] = told_off("run_eagerly", given["run_eagerly"])
            return original(**given)

        return compile

    def attribute(original: Any) -> Any:
        def set_it(self: Any, value: Any) -> None:
            original.fset(self, told_off("run_eagerly", value))

        return property(original.fget, set_it)

    def run_functions(original: Any) -> Any:
        def run_functions_eagerly(run_eagerly: Any) -> None:
            original(told_off("run_functions_eagerly", run_eagerly))

        return run_functions_eagerly

    trainer = _trainer()
    patches.replace(trainer, "compile", compiled)
    patches.replace(trainer, "run_eagerly", attribute)
    if framework.backend.backend() == "tensorflow":
        config = importlib.import_module("tensorflow").config
        patches.replace(config, "run_functions_eagerly", run_functions)


def observe(keras: Any, recorder: Recorder, patches: Patches) -> None:
    """Note where the script asks for eager execution."""
    backend = keras.backend.backend()

    def note(name: str) -> None:
        recorder.emit("brake", name=name, place=place_of_caller(), times_per_step=1.0)

    def attribute(original: Any) -> Any:
        def set_it(self: Any, value: Any) -> None:
            original.fset(self, value)
            if original.fget(self):  # unless it was released
                note("run_eagerly")

        return property(original.fget, set_it)

    def run_functions(original: Any) -> Any:
        def run_functions_eagerly(run_eagerly: Any) -> None:
            original(run_eagerly)
            if importlib.import_module("tensorflow").config.functions_run_eagerly():
                note("run_functions_eagerly")

        return run_functions_eagerly

    if backend != "torch":  # which runs no other way
        patches.replace(_trainer(), "run_eagerly", attribute)
    if backend == "tensorflow":
        config = importlib.import_module("tensorflow").config
        patches.replace(config, "run_functions_eagerly", run_functions)


def code_of_the_script_in(keras: Any, model: Any) -> str:
    """What a step runs of the script's own, in words; '' where all of it is Keras'."""
    if model is None:
        return "the step"
    layers = list(model._flatten_layers())
    compiled = [getattr(model, name, None) for name in ("_compile_loss", "_compile_metrics")]
    optimizer = getattr(model, "optimizer", None)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    asked = [getattr(one, name, None) for one in compiled for name in _GIVEN_TO_COMPILE]
    asked += [optimizer, inner, getattr(inner, "_learning_rate", None)]
    asked += [
        value for layer in layers for name, value in vars(layer).items()
        if name.lstrip("_").endswith(_CALLED_BY_A_LAYER)
    ]  # fmt: skip
    asked = [one for one in keras.tree.flatten(asked) if not isinstance(one, (str, bool))]
    for part in [model, *layers, *asked]:
        kind = part if hasattr(part, "__name__") else type(part)  # a function as a loss
        if part is not None and not str(getattr(kind, "__module__", "")).startswith(_LIBRARIES):
            return str(getattr(kind, "__name__", kind))
    return ""


def _trainer() -> Any:
    return importlib.import_module("keras.src.trainers.trainer").Trainer
