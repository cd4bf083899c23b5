"""Hugging Face transformers: Trainer.

The loop is observed from inside, as any other. Here stands what only its Trainer knows.
Source: transformers, trainer_callback.py (CallbackHandler) and training_args.py.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ...agent.patches import Patches
from ...agent.recorder import Recorder
from . import trainers

NAME = "transformers.Trainer"
FORM = "TrainingArguments"
FILE = ""


def arguments(technique: str, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """What a technique is called in TrainingArguments."""
    if technique == "mixed_precision" and settings.get("dtype") == "bfloat16":
        return {"bf16": True}
    if technique == "workers":
        return {"dataloader_num_workers": settings["count"]}
    if technique == "matmul_precision":
        return {"tf32": True}
    if technique == "gradient_accumulation":
        return {"gradient_accumulation_steps": settings["count"]}
    if technique == "compilation":
        return {"torch_compile": True, "torch_compile_mode": settings["mode"]}
    if technique == "pinned_memory":
        return {"dataloader_pin_memory": True}
    if technique == "activation_checkpointing":
        return {"gradient_checkpointing": True}
    return {}


def attach(
    package: str, module: Any, recorder: Recorder, patches: Patches, wanted: Mapping[str, Any]
) -> None:
    """Observe what it plans and logs; give it the arguments that the script leaves to it."""
    if package.endswith("training_args"):
        patches.replace(module.TrainingArguments, "__post_init__", _with(wanted))
        return

    def begun(original: Any) -> Any:
        def on_train_begin(self: Any, args: Any, state: Any, control: Any) -> Any:
            # A step of state.max_steps is one update.
            batch = args.train_batch_size * args.gradient_accumulation_steps  # of one process
            trainers.trains("transformers", recorder, state.max_steps * float(batch))
            return original(self, args, state, control)

        return on_train_begin

    def evaluated(original: Any) -> Any:
        def on_evaluate(self: Any, args: Any, state: Any, control: Any, metrics: Any) -> Any:
            trainers.logged(recorder, metrics or {})
            return original(self, args, state, control, metrics)

        return on_evaluate

    patches.replace(module.CallbackHandler, "on_train_begin", begun)
    patches.replace(module.CallbackHandler, "on_evaluate", evaluated)


def _with(wanted: Mapping[str, Any]) -> Any:
    def make(original: Any) -> Any:
        def __post_init__(self: Any) -> None:
            if "bf16" in wanted and not (self.fp16 or self.bf16):
                self.bf16 = True
            accumulates = wanted.get("gradient_accumulation_steps")
            if accumulates and self.gradient_accumulation_steps == 1:
                self.gradient_accumulation_steps = accumulates
            original(self)

        return __post_init__

    return make
