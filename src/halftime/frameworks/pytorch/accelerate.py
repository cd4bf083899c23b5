"""Hugging Face Accelerate.

The script keeps its own loop, which is observed as any other; only mixed precision has a switch
from outside, an environment variable that yields to the script's own argument.
Source: accelerate, accelerator.py and state.py.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Mapping

from ...agent.patches import Patches
from ...agent.recorder import Recorder
from . import trainers

NAME = "Accelerate"
FORM = "Accelerator"
FILE = "its configuration file (accelerate config)"


def arguments(technique: str, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """What a technique is called in Accelerator's arguments and in its configuration file."""
    if technique == "mixed_precision" and settings.get("dtype") == "bfloat16":
        return {"mixed_precision": "bf16"}
    if technique == "compilation":
        return {"dynamo_backend": "inductor"}
    return {}


def attach(
    package: str, module: Any, recorder: Recorder, patches: Patches, wanted: Mapping[str, Any]
) -> None:
    """Note that the script prepares its objects by Accelerate; set what the script leaves."""
    if "mixed_precision" in wanted:
        os.environ.setdefault("ACCELERATE_MIXED_PRECISION", wanted["mixed_precision"])

    def prepared(original: Any) -> Any:
        def prepare(self: Any, *args: Any, **named: Any) -> Any:
            trainers.trains("accelerate", recorder, None)
            return original(self, *args, **named)

        return prepare

    patches.replace(module.Accelerator, "prepare", prepared)
