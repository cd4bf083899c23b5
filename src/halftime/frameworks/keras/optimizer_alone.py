"""Optimizer alone: what one update takes of a step that TensorFlow runs as one graph.

Nobody sees into a compiled step from outside. Once the observed run is over, the same update is
made several times within one call, with gradients of zero.
"""

from __future__ import annotations

from typing import Any, Callable, List

from ...agent.recorder import Recorder, clock

_UPDATES, _MOST_SECONDS, _MOST_CALLS = 4, 0.5, 25


def report(tf: Any, model: Any, applied: str, recorder: Recorder) -> None:
    """Write how many seconds an update takes: the median of calls with several updates each.

    And how many its tracing took, which every run pays once.

    applied: the class of the optimizer that was seen to move weights; a train_step of the script's
    own may have others than the model's. Not timed beside an embedding, whose gradient is sparse.
    """
    optimizer, variables = model.optimizer, model.trainable_variables
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    sparse = any(type(layer).__name__ == "Embedding" for layer in model._flatten_layers())
    # A GPU goes on when the call has returned.
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    if applied not in (type(optimizer).__name__, type(inner).__name__) or sparse or on_gpu:
        return
    try:
        call = _updates(tf, optimizer, variables, bool(model.jit_compile))
        before = clock()
        call()
        first, seconds = clock() - before, _median_seconds(call)
    except Exception as error:  # an optimizer of the script's own may want more than gradients
        text = f"what the optimizer takes is not known: {type(error).__name__}"
        recorder.emit("note", text=text)
        return
    recorder.emit("optimizer_alone", seconds=seconds / _UPDATES, tracing=max(first - seconds, 0.0))


def _updates(tf: Any, optimizer: Any, variables: Any, jit_compile: bool) -> Callable[[], Any]:
    """Several updates within one call, as that call itself costs what a small update does."""
    zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]

    def update(done: Any) -> Any:
        optimizer.apply(zeros, variables)
        return (done + 1,)

    def loop() -> Any:
        return tf.while_loop(lambda done: done < _UPDATES, update, (tf.constant(0),))

    made: Callable[[], Any] = tf.function(loop, autograph=False, jit_compile=jit_compile)
    return made


def _median_seconds(call: Callable[[], Any]) -> float:
    began = clock()
    taken: List[float] = []
    while not taken or (clock() - began < _MOST_SECONDS and len(taken) < _MOST_CALLS):
        before = clock()
        call()
        taken.append(clock() - before)
    return sorted(taken)[len(taken) // 2]
