"""Forward, backward and optimizer times: host timers on a CPU, device events on a GPU."""

from __future__ import annotations

from typing import Any, Callable, List, Mapping, Tuple

from ...agent.recorder import Recorder, clock

_LOOKED_AT_FIRST, _UPDATES_PER_EVENT = 8, 7
"""Updates that are all timed, but for the first, which loads kernels; then one in so many.

Seven, so that optimizers that take turns are met in turn.
"""
_LOSSES_ON_DEVICE = 4096


def phases_for(torch: Any, recorder: Recorder) -> Any:
    """Phases that start on the host and move to device events when the device is first used."""
    return _Phases(torch, recorder)


class _Phases:
    """Times between the borders of a step's phases.

    Host times of forward and backward mean nothing under asynchronous execution, so on a GPU
    only events recorded in the stream count, read when the window's edge has drained it.
    Source: measurement.md §3.
    """

    def __init__(self, torch: Any, recorder: Recorder) -> None:
        self._torch = torch
        self._recorder = recorder
        self._device: Any = None
        self._update_started = 0.0
        self._before_update = 0.0
        self._updates = self._updates_in_window = self._timed_in_window = 0
        self._events: List[Tuple[str, Any, Any]] = []
        self._update_event: Any = None
        self._ring: Any = None
        self._ring_keys: List[Tuple[int, int]] = []

    def forward(self, call: Any) -> Any:
        recorder = self._recorder

        def timed(module: Any, *args: Any, **named: Any) -> Any:
            if self._device is not None:
                return self._between("forward", lambda: call(module, *args, **named))
            start = clock()
            output = call(module, *args, **named)
            recorder.forward += clock() - start
            return output

        return timed

    def backward(
        self, call: Any, tensors: Any, args: Tuple[Any, ...], named: Mapping[str, Any]
    ) -> Any:
        if self._device is not None:
            return self._between("backward", lambda: call(tensors, *args, **named))
        start = clock()
        result = call(tensors, *args, **named)
        self._recorder.backward += clock() - start
        return result

    def before_update(self) -> None:
        recorder = self._recorder
        self._update_started = clock()
        self._before_update = recorder.forward + recorder.backward
        if self._device is not None and self._sampled():
            self._update_event = self._event()

    def after_update(self) -> None:
        recorder = self._recorder
        if self._device is None:
            # A closure computes forward and backward within the update: they are counted already.
            inside = recorder.forward + recorder.backward - self._before_update
            recorder.optimizer += clock() - self._update_started - inside
            return
        if self._update_event is not None:
            self._events.append(("optimizer", self._update_event, self._event()))
            self._update_event = None
        self.updated()

    def updated(self) -> None:
        """The weights have moved, by an optimizer or by the script itself."""
        if self._device is not None:
            self._timed_in_window += self._sampled()
            self._updates_in_window += 1
            self._updates += 1

    def loss(self, step: int, order: int, loss: Any) -> None:
        """Keep a loss: its value on a CPU, a copy in a ring on the device otherwise."""
        if getattr(loss, "is_cpu", True):
            # What holds more than one number, or none, is no loss.
            try:  # noqa: SIM105  # contextlib.suppress costs 1 µs a step
                self._recorder.losses.append((step, order, loss.item()))
            except (AttributeError, RuntimeError, ValueError):
                pass
            return
        if loss.numel() != 1:
            return
        if self._device is None:
            self._device = loss.device
            self._ring = self._torch.empty(
                _LOSSES_ON_DEVICE, dtype=self._torch.float32, device=loss.device
            )
            self._recorder.at_edge.append(self._settle)
        if len(self._ring_keys) < _LOSSES_ON_DEVICE:
            place = self._ring[len(self._ring_keys)]
            try:
                place.copy_(loss.detach().reshape(()), non_blocking=True)
            except (RuntimeError, TypeError):  # a loss that is spread over several GPUs
                return
            self._ring_keys.append((step, order))

    def _sampled(self) -> bool:
        updates = self._updates
        return 0 < updates <= _LOOKED_AT_FIRST or updates % _UPDATES_PER_EVENT == 4

    def _event(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._torch.cuda.current_stream(self._device))  # which may not be GPU 0's
        return event

    def _between(self, name: str, call: Callable[[], Any]) -> Any:
        if not self._sampled():
            return call()
        start = self._event()
        try:
            return call()
        finally:
            end = self._event()
            self._events.append((name, start, end))
            if self._update_event is not None:
                # Within a closure: this time is the phase's own and not the optimizer's.
                self._events.append(("optimizer", end, start))

    def _settle(self) -> None:
        """Drain the device at a window's edge; the drain time tells whether the host ran ahead."""
        if self._torch.cuda.is_current_stream_capturing():
            return  # the script records a graph of its own: nothing may be waited for
        start = clock()
        self._torch.cuda.synchronize(self._device)
        drained = clock() - start
        recorder = self._recorder
        # A window of slow steps may hold no update that was timed: they wait for the next.
        if self._timed_in_window:
            stands_for = self._updates_in_window / self._timed_in_window
            for name, begin, end in self._events:
                seconds = begin.elapsed_time(end) / 1000 * stands_for
                setattr(recorder, name, getattr(recorder, name) + seconds)
            self._events, self._updates_in_window, self._timed_in_window = [], 0, 0
        values = self._ring[: len(self._ring_keys)].tolist()
        recorder.losses.extend((*key, value) for key, value in zip(self._ring_keys, values))
        self._ring_keys = []
        recorder.emit(
            "device",
            drain_seconds=drained,
            peak_bytes=self._torch.cuda.max_memory_allocated(self._device),
        )
