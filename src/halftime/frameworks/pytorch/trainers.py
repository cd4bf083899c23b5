"""The trainers that people use: whose they are, what they plan and log, and their own switches.

A trainer is a module of this folder with five names: `NAME`; `FORM`, what its arguments are given
to; `FILE`, a file that takes them too, or ''; `attach(package, module, recorder, patches, wanted)`,
which observes it; and `arguments(technique, settings)`, what it calls a technique, empty where it
has no word for it. A plan is told in these words; mixed precision and accumulation are switched on
by them in trials too, where the trainer would undo anything else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, Mapping, Sequence

from ...agent.patches import Patches
from ...agent.recorder import Recorder

if TYPE_CHECKING:
    from ...records import Switch

# Where several take part, the first one is the script's.
NAMES = ("lightning", "fabric", "transformers", "ignite", "accelerate")
PACKAGES = {
    "lightning.pytorch": "lightning",
    "pytorch_lightning": "lightning",
    "lightning.fabric": "fabric",
    "lightning_fabric": "fabric",
    "transformers.trainer_callback": "transformers",
    "transformers.training_args": "transformers",
    "accelerate.accelerator": "accelerate",
    "ignite.engine.engine": "ignite",
}
"""The modules whose import brings a trainer, and the module of this folder that knows it."""


def trainer(name: str) -> Any:
    """The module of the trainer of that name."""
    return importlib.import_module(f"{__package__}.{name}")


def attach(package: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]) -> None:
    """Observe a trainer that the script has imported; give it what the switches are to it."""
    name = PACKAGES[package.__name__]
    one = trainer(name)
    wanted: Dict[str, Any] = {}
    for switch in orders["switches"] if orders["framework"] == "torch" else ():
        wanted.update(one.arguments(switch["technique"], switch["settings"]))
    try:
        one.attach(package.__name__, package, recorder, patches, wanted)
    except (AttributeError, ImportError) as error:
        # The loop inside it is observed as any other.
        recorder.emit("note", text=f"{one.NAME}: a version that halftime does not know ({error})")


def trains(name: str, recorder: Recorder, samples: float | None) -> None:
    """A trainer begins: say which, and how many samples it plans to train on."""
    recorder.emit("trainer", name=name)
    if samples is not None and samples > 0:
        recorder.emit("planned", samples=samples)


def given(wanted: Mapping[str, Any]) -> Any:
    """Wraps the constructor of a trainer: what the script does not set itself is set to this."""

    def make(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            for name, value in wanted.items():
                if named.get(name) is None and not args:
                    named[name] = value
            original(self, *args, **named)

        return __init__

    return make


def logged(recorder: Recorder, metrics: Mapping[str, Any]) -> None:
    """Held-out numbers that a trainer logs; what is no number, or only a speed, is left out."""
    for name, value in metrics.items():
        number = value.item() if getattr(value, "numel", lambda: 0)() == 1 else value
        timing = name.endswith(("runtime", "per_second", "_time")) or name == "epoch"
        if isinstance(number, (int, float)) and not isinstance(number, bool) and not timing:
            recorder.emit("metric", name=str(name), value=float(number))


def spoken(name: str, switches: Sequence[Switch]) -> tuple[Dict[str, Any], list[str]]:
    """The trainer's own arguments for these switches, and the techniques it has no word for."""
    one, arguments, unspoken = trainer(name), {}, []
    for switch in switches:
        words = one.arguments(switch.technique, switch.settings)
        arguments.update(words)
        if not words:
            unspoken.append(switch.technique)
    return arguments, unspoken
