"""Lightning's Trainer.

The loop is observed from inside, as any other: optimizer hooks, backward, DataLoaders. Here stands
what only Lightning knows. Source: lightning 2.x, loops/fit_loop.py and loops/evaluation_loop.py.
"""

from __future__ import annotations

import importlib
from typing import Any, Dict, Mapping

from ...agent.patches import Patches
from ...agent.recorder import Recorder
from . import trainers

NAME = "Lightning"
FORM = "Trainer"
FILE = ""


def arguments(technique: str, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """What a technique is called in Trainer's arguments."""
    if technique == "mixed_precision" and settings.get("dtype") == "bfloat16":
        return {"precision": "bf16-mixed"}
    if technique == "cudnn_autotune":
        return {"benchmark": True}
    if technique == "gradient_accumulation":
        return {"accumulate_grad_batches": settings["count"]}
    return {}


def attach(
    package: str, module: Any, recorder: Recorder, patches: Patches, wanted: Mapping[str, Any]
) -> None:
    """Observe what it plans and logs; give it the arguments that the script leaves to it."""
    patches.replace(module.Trainer, "__init__", trainers.given(wanted))
    fit_loop = importlib.import_module(f"{package}.loops.fit_loop")._FitLoop
    evaluation_loop = importlib.import_module(f"{package}.loops.evaluation_loop")._EvaluationLoop

    def begun(original: Any) -> Any:
        def on_run_start(self: Any) -> None:
            trainers.trains("lightning", recorder, _planned(self.trainer))
            original(self)

        return on_run_start

    def evaluated(original: Any) -> Any:
        def run(self: Any, *args: Any, **named: Any) -> Any:
            results = original(self, *args, **named)
            if not self.trainer.sanity_checking:
                for metrics in results or ():
                    trainers.logged(recorder, metrics)
            return results

        return run

    patches.replace(fit_loop, "on_run_start", begun)
    patches.replace(evaluation_loop, "run", evaluated)


def _planned(trainer: Any) -> float | None:
    """Samples of the whole fit, where Lightning knows them."""
    batch = getattr(trainer.train_dataloader, "batch_size", None)
    batches, epochs, steps = trainer.num_training_batches, trainer.max_epochs, trainer.max_steps
    if not batch:
        return None
    planned = [steps * trainer.accumulate_grad_batches] if steps and steps > 0 else []
    if epochs and epochs > 0 and batches != float("inf"):
        planned.append(epochs * batches)
    return min(planned) * float(batch) if planned else None
