"""Several steps in one execution.

Changes: Keras runs n steps within one call into the compiled graph. Helps: where the Python between
steps is a large share of a short step. May change: rounding; callbacks see every n-th batch, so it
is refused where the script has callbacks of its own for each batch, and where it limits the steps
of an epoch or an evaluation to what no such n divides, since Keras would run more. Source: Keras
documentation of `Model.compile(steps_per_execution=…)`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import STEPS_PER_EXECUTION as IDEA
from .trainer import limited_steps, trainer_of, wanting_batches

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_COUNTS = range(16, 3, -1)
_LONG_STEP = 0.1
_BACKENDS, _UNKNOWN = ("tensorflow", "jax"), "Keras' {} backend does not know it"
_OURS = "_halftime_steps_per_execution"


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """Sixteen steps a call, or the next smaller number that fits, where steps are short."""
    from ...records import Proposal, Switch

    loader, limits = facts.fed_by(), facts.limited_steps
    fitting = [count for count in _COUNTS if not any(steps % count for steps in limits)]
    refusal = ""
    if IDEA.name in facts.already_on:
        refusal = "already on: the script sets it itself"
    elif facts.backend not in _BACKENDS:
        refusal = _UNKNOWN.format(facts.backend)
    elif facts.own_loop:
        refusal = f"the script has a loop of its own ({facts.own_loop})"
    elif facts.batch_callbacks:
        refusal = f"callbacks want every batch: {', '.join(facts.batch_callbacks)}"
    elif (diagnosis.step_seconds or 0) > _LONG_STEP:
        refusal = f"a step of {diagnosis.step_seconds or 0:.2g} s hides the Python between steps"
    elif not fitting:
        asked = ", ".join(map(str, limits))
        refusal = f"no count from 4 to 16 divides the steps that fit is told ({asked})"
    elif loader is not None and loader.batches is not None and loader.batches < 2 * fitting[0]:
        refusal = f"an epoch has only {loader.batches} batches"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={"count": fitting[0]}, numerics="rounding")
    return [Proposal(switch=switch, reason="the step is short")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Give compile the count where the script gives none."""
    count, backend = settings["count"], framework.backend.backend()
    if backend not in _BACKENDS:  # another than the observed one, in a stack
        patches.refuse(IDEA.name, _UNKNOWN.format(backend))
        return

    def compiled(original: Any) -> Any:
        def compile(self: Any, *args: Any, **named: Any) -> Any:
            # What was saved with ours comes back with it.
            if named.get("steps_per_execution", 1) not in (1, count):
                patches.refuse(IDEA.name, "the script sets it itself")
                object.__setattr__(self, _OURS, False)
                return original(self, *args, **named)
            result = original(self, *args, **{**named, "steps_per_execution": count})
            object.__setattr__(self, _OURS, True)
            return result

        return compile

    def fitted(original: Any) -> Any:
        bound = inspect.signature(original)

        @functools.wraps(original)
        def fit(self: Any, *args: Any, **named: Any) -> Any:
            if not getattr(self, _OURS, False):
                return original(self, *args, **named)
            # A later fit than the one that was observed may have others.
            reason = why_not(bound.bind(self, *args, **named).arguments)
            if reason:
                patches.refuse(IDEA.name, reason)
            else:
                patches.took_effect(IDEA.name, count=count)
            set_steps(self, 1 if reason else count)
            return original(self, *args, **named)

        return fit

    def set_steps(model: Any, steps: int) -> None:
        if model.steps_per_execution != steps:
            model.steps_per_execution = steps
            model.train_function = model.test_function = model.predict_function = None

    def why_not(given: Mapping[str, Any]) -> str:
        callbacks = given.get("callbacks") or ()
        listed = getattr(callbacks, "callbacks", callbacks)
        wanting = wanting_batches(listed if isinstance(listed, (list, tuple)) else (listed,))
        if wanting:
            return f"callbacks want every batch: {', '.join(wanting)}"
        limits = limited_steps(given)
        name = next((name for name in limits if limits[name] % count), None)
        return f"{name}={limits[name]} is no multiple of {count}: more would be run" if name else ""

    def limited(function: str) -> Any:
        def make(original: Any) -> Any:
            bound = inspect.signature(original)

            @functools.wraps(original)
            def call(self: Any, *args: Any, **named: Any) -> Any:
                steps = bound.bind(self, *args, **named).arguments.get("steps")
                ours, before = getattr(self, _OURS, False), self.steps_per_execution
                if not ours or before == 1 or not (steps or 0) % count:
                    return original(self, *args, **named)
                self.steps_per_execution = 1
                setattr(self, function, None)
                try:
                    return original(self, *args, **named)
                finally:
                    self.steps_per_execution = before
                    setattr(self, function, None)

            return call

        return make

    trainer = importlib.import_module("keras.src.trainers.trainer").Trainer
    patches.replace(trainer, "compile", compiled)
    patches.replace(trainer_of(framework), "fit", fitted)
    patches.replace(trainer_of(framework), "evaluate", limited("test_function"))
    patches.replace(trainer_of(framework), "predict", limited("predict_function"))
