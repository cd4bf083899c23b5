"""Held-out quality as the script computes it: losses without gradients, metric functions."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
from typing import Any

from ...agent.imports import call_after_import
from ...agent.patches import Patches
from ...agent.recorder import Recorder

_LOSSES = ("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
           "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits")  # fmt: skip
_SCORES = ("accuracy_score", "balanced_accuracy_score", "f1_score", "roc_auc_score", "log_loss",
           "mean_squared_error", "mean_absolute_error", "r2_score")  # fmt: skip


def install(torch: Any, recorder: Recorder, patches: Patches) -> None:
    """Note each loss computed with gradients off, and what metric functions give."""
    functional = importlib.import_module("torch.nn.functional")
    passes = _Passes(recorder)

    def noted(original: Any) -> Any:
        def loss(input: Any, target: Any, *args: Any, **named: Any) -> Any:
            value = original(input, target, *args, **named)
            if torch.is_grad_enabled() or recorder.off or torch.compiler.is_compiling():
                return value
            # A shape alone, as Keras asks for, or what stands for a value while a graph is traced.
            stands_in = type(value).__name__ in ("FakeTensor", "FunctionalTensor")
            if value.device.type != "meta" and not stands_in:
                # Within vmap there is no value yet, and not every device has float64.
                with contextlib.suppress(RuntimeError, TypeError):
                    passes.add(value, target, summed=named.get("reduction") == "sum")
            return value

        return loss

    for name in _LOSSES:
        patches.replace(functional, name, noted)
    patches.at_exit(passes.close)
    call_after_import("sklearn.metrics", lambda module: _note_scores(module, recorder, patches))
    call_after_import("torchmetrics", lambda module: _note_computed(module, recorder, patches))


class _Passes:
    """Mean loss of each pass of evaluation; a pass ends where training goes on."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._pass: Any = None
        self._total: Any = 0.0
        self._rows = 0

    def add(self, value: Any, target: Any, summed: bool) -> None:
        # Another loader is another set, whose loss is another number.
        now = self._recorder.updates, self._recorder.asked_last
        if self._pass != now:
            self.close()
            self._pass = now
        rows = int(target.shape[0]) if getattr(target, "shape", None) else 1
        # A loss a row or a sum over rows adds up; a mean stands for its rows.
        total = value.detach().double()
        self._total = self._total + (total.sum() if total.ndim or summed else total * rows)
        self._rows += rows

    def close(self) -> None:
        """Write the pass that has ended, if there was one."""
        if self._rows:
            self._recorder.emit(
                "evaluation_loss", value=float(self._total) / self._rows, updates=self._pass[0]
            )
        self._total, self._rows = 0.0, 0


def _note_scores(module: Any, recorder: Recorder, patches: Patches) -> None:
    def noted(original: Any) -> Any:
        def score(*args: Any, **named: Any) -> Any:
            value = original(*args, **named)
            if isinstance(value, float):
                recorder.emit("metric", name=original.__name__, value=float(value))
            return value

        return score

    for name in _SCORES:
        if hasattr(module, name):
            patches.replace(module, name, noted)


def _note_computed(module: Any, recorder: Recorder, patches: Patches) -> None:
    of_thread = threading.local()

    def stepped(original: Any) -> Any:
        def forward(self: Any, *args: Any, **named: Any) -> Any:
            # A metric of this batch: to read it would wait for the device in each step.
            outer, of_thread.steps = getattr(of_thread, "steps", False), True
            try:
                return original(self, *args, **named)
            finally:
                of_thread.steps = outer

        return forward

    def noted(original: Any) -> Any:
        def _wrap_compute(self: Any, compute: Any) -> Any:
            # Each metric has a `compute` of its own, which its constructor hands to this.
            wrapped = original(self, compute)

            @functools.wraps(wrapped)
            def computed(*args: Any, **named: Any) -> Any:
                value = wrapped(*args, **named)
                steps = getattr(of_thread, "steps", False)
                if not steps and getattr(value, "ndim", None) == 0 and "torch" in sys.modules:
                    recorder.emit("metric", name=type(self).__name__, value=float(value))
                return value

            return computed

        return _wrap_compute

    patches.replace(module.Metric, "_wrap_compute", noted)
    patches.replace(module.Metric, "forward", stepped)
