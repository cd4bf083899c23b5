"""Ignite: Engine.

Its update function is the script's own and is observed as any loop. Here stands what only the
engine knows: how long it runs, and the metrics of its evaluators.
Source: pytorch-ignite, engine/engine.py.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ...agent.patches import Patches
from ...agent.recorder import Recorder
from . import trainers

NAME = "Ignite"
FORM = ""
FILE = ""


def arguments(technique: str, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Ignite's engines run the script's own step: there is nothing to set."""
    return {}


def attach(
    package: str, module: Any, recorder: Recorder, patches: Patches, wanted: Mapping[str, Any]
) -> None:
    """Note the epochs of the training engine, and what the others measure."""

    def noted(original: Any) -> Any:
        def run(
            self: Any, data: Any = None, max_epochs: Any = None, *args: Any, **named: Any
        ) -> Any:
            if max_epochs is not None and max_epochs > 1:
                trainers.trains("ignite", recorder, _planned(data, max_epochs))
            state = original(self, data, max_epochs, *args, **named)
            if getattr(state, "max_epochs", None) == 1:
                trainers.logged(recorder, state.metrics)
            return state

        return run

    patches.replace(module.Engine, "run", noted)


def _planned(data: Any, epochs: int) -> float | None:
    try:
        return float(len(data) * data.batch_size * epochs)
    except (AttributeError, TypeError):  # an iterator has no length, a list no batch size
        return None
