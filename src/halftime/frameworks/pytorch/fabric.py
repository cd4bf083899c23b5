"""Lightning's Fabric.

The script keeps its own loop, which is observed as any other; only mixed precision has a word.
Source: lightning 2.x, fabric/fabric.py.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ...agent.patches import Patches
from ...agent.recorder import Recorder
from . import trainers

NAME = "Fabric"
FORM = "Fabric"
FILE = ""


def arguments(technique: str, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """What a technique is called in Fabric's arguments."""
    if technique == "mixed_precision" and settings.get("dtype") == "bfloat16":
        return {"precision": "bf16-mixed"}
    return {}


def attach(
    package: str, module: Any, recorder: Recorder, patches: Patches, wanted: Mapping[str, Any]
) -> None:
    """Note that the script sets its objects up by Fabric; give it what the script leaves to it."""

    def set_up(original: Any) -> Any:
        def setup(self: Any, *args: Any, **named: Any) -> Any:
            trainers.trains("fabric", recorder, None)
            return original(self, *args, **named)

        return setup

    patches.replace(module.Fabric, "__init__", trainers.given(wanted))
    patches.replace(module.Fabric, "setup", set_up)
