"""Deterministic kernels, where a training does not reproduce itself (measurement.md §5, exact)."""

from __future__ import annotations

from typing import Any

from .imports import call_after_import


def ask_for_deterministic_ones() -> None:
    """Ask PyTorch and TensorFlow for them; where there is none, the usual one runs.

    What the libraries below want to be told is in the environment that the script starts with.
    """

    def on_torch(torch: Any) -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True

    def on_tensorflow(tensorflow: Any) -> None:
        tensorflow.config.experimental.enable_op_determinism()

    call_after_import("torch", on_torch)
    call_after_import("tensorflow", on_tensorflow)
