"""Deterministic kernels, where a training does not reproduce itself (measurement.md §5, exact)."""

from __future__ import annotations

from typing import Any

from .imports import call_after_import
from .recorder import Recorder


def ask_for_deterministic_ones(recorder: Recorder) -> None:
    """Ask PyTorch and TensorFlow for them.

    Where there is none, PyTorch runs the usual one, and TensorFlow ends the script with an error.

    What the libraries below want to be told is in the environment that the script starts with.
    """

    def on_torch(torch: Any) -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True

    def on_tensorflow(tensorflow: Any) -> None:
        tensorflow.config.experimental.enable_op_determinism()

    def asking(ask: Any) -> Any:
        def asked(framework: Any) -> None:
            try:
                ask(framework)
            except Exception as error:  # of a version that knows them by another name
                recorder.report_failure("asking for deterministic kernels", error)

        return asked

    call_after_import("torch", asking(on_torch))
    call_after_import("tensorflow", asking(on_tensorflow))
