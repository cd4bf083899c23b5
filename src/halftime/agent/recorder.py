"""Step marks, waits, losses and facts, written to a file at window edges, cheaply."""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Set, Tuple

clock = time.perf_counter

TRAINING, EVALUATION, OTHERS = 0, 1, 2
"""Loaders of a trainer that counts its own batches; what a script reads itself follows them."""
_BY_UPDATES = -1
_CHANGES_THAT_ARE_TURNS = 3
WITHOUT_GRADIENTS = -1000
"""From here on, downwards: loaders that are gone through without gradients, each by its number."""
_UPDATES_WITHOUT_A_REQUEST = 64
_MOST_UNCLAIMED = 64
_THIRD = 3
_MOST_PUT_BY = 4096


class Recorder:
    """The notes of one process: what happened between two requests for a batch.

    A step runs from "batch requested" to "next batch requested", so that waiting for data is
    inside; where no loader feeds the updates, from update to update. Source: measurement.md §3.
    The file is `events-<pid>.jsonl` in the run's folder, one JSON object a line; all times are
    seconds of `time.perf_counter`, which on Linux all processes share.
    """

    def __init__(
        self,
        folder: str,
        window_seconds: float,
        stop_after: Optional[Dict[str, float]],
        in_trial: bool,
        now: Callable[[], float] = clock,
    ) -> None:
        self.folder = folder
        self._window_seconds = window_seconds
        self._stop_steps = (stop_after or {}).get("steps", float("inf"))
        self._stop_samples = (stop_after or {}).get("samples", float("inf"))
        self._stop_seconds = (stop_after or {}).get("seconds", float("inf"))
        self.in_trial = in_trial
        self._now = now
        self.at_edge: List[Callable[[], None]] = []
        self.at_third_update: List[Callable[[], None]] = []
        """Called once, when what the script needs for a step is there."""
        self.at_evaluation_with_gradients: Callable[[], None] = lambda: None
        self.pauses_when_done = in_trial
        os.register_at_fork(after_in_child=self._forget)
        self._forget()

    def _forget(self) -> None:
        """Start from nothing: in a new process, and in a child that was forked."""
        self.off = False
        self.settles = False
        """Whether it is us, at a window's edge, who wait for the device."""
        self.fetches_inside = False
        """Whether a trainer that counts its own batches is at work: its loaders are not asked."""
        self._file: Optional[int] = None
        self._finish: Optional[Callable[[], None]] = None
        self._pid = os.getpid()
        self._training: Optional[int] = None
        self._companions: Set[int] = set()
        self._taking_turns: Set[int] = set()
        """Loaders that feed the training by turns, as of several tasks."""
        self._changes: Dict[int, int] = {}
        """How often a loader became the one that trains."""
        self._is_exhausted = False
        self._over: Set[int] = set()
        """The loaders that came to their end before the first update."""
        self._companion_hits: Dict[int, int] = {}
        self._leader: Optional[int] = None
        self.by_updates = True
        self._last_requested: Optional[int] = None
        self._asked = 0.0
        self._unclaimed: Deque[Tuple[int, float, float, int]] = deque(maxlen=_MOST_UNCLAIMED)
        self._training_was_asked = False
        self._updates_since_request = 0
        self._training_start = self._step_start = self._window_start = 0.0
        self._last_update = 0.0
        self._in_step = False
        self._evaluation_start: Optional[float] = None
        self._evaluation_end = 0.0
        self._evaluation_loader = -1
        self._evaluation_batches = 0
        self._faults = 0
        self.steps = self.samples = self.updates = 0
        self._put_by: List[Tuple[int, Any]] = []
        self._clear_window()

    def _clear_window(self) -> None:
        self._window_steps, self._window_samples = self.steps, self.samples
        self._window_updates = self.updates
        self._durations: List[float] = []
        self.losses: List[Any] = []
        self.wait = self.forward = self.backward = self.optimizer = 0.0
        self._evaluation = 0.0

    @property
    def evaluates(self) -> bool:
        """Whether the last batch came from a loader that does not train."""
        return self._evaluation_start is not None

    @property
    def asked_last(self) -> Optional[int]:
        """The loader that was asked for a batch last."""
        return self._last_requested

    def evaluated_since(self, time: float) -> bool:
        """Whether batches of an evaluation were asked for, or came, since `time`."""
        return self.evaluates or self._evaluation_end > time

    @contextmanager
    def trainer_at_work(self) -> Iterator[None]:
        """For a call into a trainer that counts its own batches."""
        outer, self.fetches_inside = self.fetches_inside, True
        try:
            yield
        finally:
            self.fetches_inside = outer

    @contextmanager
    def settling(self) -> Iterator[None]:
        """For what we wait for the device: no line of the script's does."""
        outer, self.settles = self.settles, True
        try:
            yield
        finally:
            self.settles = outer

    def trains_from(self, loader: int) -> bool:
        """Whether the training is fed by this loader, by what is known so far."""
        return loader == self._training or loader in self._taking_turns

    # What the hooks call, at every batch and update.

    def put_by(self, loss: Any) -> None:
        """Keep a loss of this step that may not be computed yet; it is read at the window's edge.

        What does not turn out to be one number is dropped.
        """
        if len(self._put_by) < _MOST_PUT_BY:
            self._put_by.append((self.steps, loss))

    def _settle(self) -> None:
        """Drain the device, and read what was put by."""
        with self.settling():
            for settle in self.at_edge:
                settle()
            self._read_what_was_put_by()

    def _read_what_was_put_by(self) -> None:
        put_by, self._put_by = self._put_by, []
        for step, loss in put_by:
            try:
                self.losses.append((step, 0, float(loss)))
            except Exception:  # a loss for each row, a symbol of a trace, a donated buffer
                continue

    def iterates(self, loader: int) -> None:
        """A new pass over `loader` begins: what no update has used of it was only looked at."""
        self._over.discard(loader)
        if self._unclaimed:
            kept = [batch for batch in self._unclaimed if batch[0] != loader]
            self._unclaimed = deque(kept, maxlen=_MOST_UNCLAIMED)

    def requested(self, loader: int, now: float) -> None:
        """The script asks `loader` for its next batch at `now`."""
        if self._last_requested is None:
            self.emit("first_request", time=now)
        self._last_requested = loader
        self._updates_since_request = 0
        if self.trains_from(loader):
            self._training_was_asked = True
            if self._evaluation_start is not None:
                self._end_evaluation()
            self._boundary(now)
        elif self._training is None:
            self._asked = now
        elif loader not in self._companions and self._evaluation_start is None:
            self._evaluation_start = now
            self._evaluation_loader, self._is_exhausted = loader, False

    def received(self, loader: int, asked: float, now: float, samples: int) -> None:
        """`loader` gave a batch of `samples` samples at `now`, asked for at `asked`."""
        if self.trains_from(loader):
            self.wait += now - asked
            self.samples += samples
        elif self._training is None:
            self._unclaimed.append((loader, asked, now - asked, samples))
        elif loader in self._companions:
            self.wait += now - asked
        else:
            self._evaluation_end = now
            self._evaluation_batches += 1
            self._unclaimed.append((loader, asked, now - asked, samples))

    def exhausted(self, loader: int, now: float) -> None:
        """`loader` had no batch left: what follows is no step until the next request."""
        if self._training is None:
            self._over.add(loader)
        if self.trains_from(loader):
            self._in_step = self._training_was_asked = False
            self._step_start = now
        elif self._evaluation_start is not None:
            self._is_exhausted = True
            self._evaluation_end = now
            self._evaluation_batches += 2  # a whole pass, and no companion

    def updated(self, optimizer: int, now: float, samples: int = 0, count: int = 1) -> None:
        """An optimizer has changed the weights, `count` times.

        samples: of a batch that no loader gave.
        """
        self.updates += count
        self._last_update = now
        if self.updates >= _THIRD and self.at_third_update:
            due, self.at_third_update = self.at_third_update, []
            for act in due:
                act()
        if self._training is None:
            self._begin(optimizer, now)
        elif self._training == _BY_UPDATES:
            if optimizer == self._leader:
                self.samples += samples
                self._boundary(now)
        elif not self._training_was_asked:
            self._notice_another_source(optimizer, now)
        elif self._is_exhausted:
            pass  # a whole pass of evaluation within the step
        elif self._evaluation_start is not None and self._last_requested is not None:
            self._notice_companion(self._last_requested)
            if self._last_requested in self._companions:
                self._evaluation_start, self._evaluation_batches = None, 0
        self._training_was_asked = False

    def _begin(self, optimizer: int, now: float) -> None:
        if self._last_requested is None:
            self._training, self._leader = _BY_UPDATES, optimizer
            start = now
            # What led to this update lies before the first step.
            self.forward = self.backward = self.optimizer = 0.0
        else:
            self._training = self._source()
            self.by_updates = False
            start = self._claim()
        self._in_step = True
        self._faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self._training_start = self._window_start = start
        self._step_start = start if self.by_updates else self._step_start
        self.emit("training", loader=self._training, time=start)

    def _source(self) -> Optional[int]:
        """The loader that fed the first update: a pass that is over was an evaluation within it."""
        going_on = [batch[0] for batch in self._unclaimed if batch[0] not in self._over]
        over = self._last_requested in self._over
        return going_on[-1] if over and going_on else self._last_requested

    def _claim(self) -> float:
        """The batches of this pass of the loader that turned out to train.

        Gives when the first of them was asked for. There are several where the script, or we,
        accumulate gradients over batches, and where a trainer asks for one batch ahead.
        """
        own = [batch for batch in self._unclaimed if batch[0] == self._training]
        own = own or [(-1, self._asked, 0.0, 0)]
        self._unclaimed.clear()
        for batch, after in zip(own, own[1:]):  # noqa: RUF007  # Python 3.9 has no pairwise
            self.steps += 1
            self._durations.append(after[1] - batch[1])
        self.wait += sum(batch[2] for batch in own)
        self.samples += sum(batch[3] for batch in own)
        self._step_start = own[-1][1]
        return own[0][1]

    def _notice_another_source(self, optimizer: int, now: float) -> None:
        """The updates go on without the loader that fed them: who feeds them now?"""
        if self._last_requested != self._training and self._evaluation_start is not None:
            # A loader made anew each epoch: what looked like evaluation was its first fetch.
            before, self._training = self._training, self._last_requested
            if self._training is not None and before is not None:
                changes = self._changes.get(self._training, 0) + 1
                self._changes[self._training] = changes
                if changes >= _CHANGES_THAT_ARE_TURNS:
                    self._taking_turns |= {before, self._training}
            self._claim()
            self._in_step = True
            self._evaluation_start, self._evaluation_batches = None, 0
            self.emit("training", loader=self._training, time=now)
            return
        self._updates_since_request += 1
        if self._updates_since_request > _UPDATES_WITHOUT_A_REQUEST:
            self._training, self._leader = _BY_UPDATES, optimizer
            self.by_updates = True
            self.emit("training", loader=self._training, time=now)

    def _notice_companion(self, loader: int) -> None:
        """A second loader that is asked within the step, as by zip, three times running."""
        self._companion_hits[loader] = self._companion_hits.get(loader, 0) + 1
        if self._companion_hits[loader] >= 3:
            self._companions.add(loader)

    def _end_evaluation(self) -> None:
        start = self._evaluation_start or 0.0
        if self._evaluation_batches == 1:
            self._notice_companion(self._evaluation_loader)
        self._evaluation_batches = 0
        self._unclaimed.clear()
        self._evaluation += self._evaluation_end - start
        self.emit(
            "evaluation", start=start, end=self._evaluation_end, loader=self._evaluation_loader
        )
        self._evaluation_start = None

    def _boundary(self, now: float) -> None:
        if self._in_step:
            self.steps += 1
            self._durations.append(now - self._step_start)
            if self.steps == 1:
                self._training_start = now  # the first step traces, compiles, warms up
        self._step_start = now
        self._in_step = True
        done = (
            self.steps >= self._stop_steps
            or (self.samples or self.steps) >= self._stop_samples
            or now - self._training_start >= self._stop_seconds
        )
        if done or now - self._window_start >= self._window_seconds:
            self._close_window(now)
        if done:
            self.end("window")

    def _close_window(self, now: float, drains: bool = True) -> None:
        if drains and (self.at_edge or self._put_by) and self.steps > self._window_steps:
            self._settle()
            # The device was drained: the window, and the next step, count from here.
            now = self._now()
            self._step_start = now
        usage = resource.getrusage(resource.RUSAGE_SELF)
        faults, self._faults = usage.ru_minflt - self._faults, usage.ru_minflt
        self.emit(
            "window",
            start=self._window_start,
            end=now,
            steps=self.steps - self._window_steps,
            samples=self.samples - self._window_samples,
            updates=self.updates - self._window_updates,
            wait=self.wait,
            forward=self.forward,
            backward=self.backward,
            optimizer=self.optimizer,
            evaluation=self._evaluation,
            durations=[round(seconds, 7) for seconds in self._durations],
            losses=self.losses,
            peak_bytes=usage.ru_maxrss * 1024,
            page_faults=faults,
        )
        self._window_start = now
        self._clear_window()

    # The file, and the end of the observation.

    def emit(self, event: str, **fields: Any) -> None:
        """Write one line; a disk that is full ends the observation, not the script."""
        if self.off:
            return
        line = json.dumps({"event": event, **fields}, default=str) + "\n"
        try:
            if self._file is None:
                name = os.path.join(self.folder, f"events-{self._pid}.jsonl")
                self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(self._file, line.encode("utf-8", "replace"))
        except OSError:
            self.off = True

    def watch_exit(self, patches: Any) -> None:
        """See to it that the last window is written, whichever way the script leaves."""
        self._finish = patches.finish
        pid = self._pid
        atexit.register(self.end, "exit")
        leave = os._exit

        def leave_after_flush(status: int) -> None:
            if os.getpid() == pid:
                self.end("os._exit")
            leave(status)

        os._exit = leave_after_flush  # type: ignore[assignment]

    def end(self, reason: str) -> None:
        """Flush everything and stop observing; a bounded trial also stops this process."""
        if self.off or os.getpid() != self._pid:
            return
        if reason != "window" and self._training is not None:
            if self._evaluation_start is not None:
                self._end_evaluation()
            by_loader = self._training != _BY_UPDATES
            if by_loader and self._in_step and self._last_update > self._step_start:
                self.steps += 1
                self._durations.append(self._last_update - self._step_start)
                self._step_start = self._last_update
            if self.steps > self._window_steps:
                # What the script does after its training is none of the last window.
                self._settle()
                self._close_window(max(self._step_start, self._evaluation_end), drains=False)
            else:
                # A trainer that asks one batch ahead ends its last step before the update.
                self._settle()
        if self._finish is not None:
            try:
                self._finish()
            except Exception as error:
                self.report_failure("collecting the last evidence", error)
        self.emit(
            "end",
            reason=reason,
            time=self._now(),
            training_end=max(self._last_update, self._step_start),
            steps=self.steps,
            samples=self.samples,
            updates=self.updates,
            late_updates=self.updates - self._window_updates,
            late_losses=self.losses,
            children_peak_bytes=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        )
        self.off = True
        if reason == "window" and self.pauses_when_done:
            # Nothing more of the script may run; the keeper ends it from outside.
            os.kill(self._pid, signal.SIGSTOP)

    def report_failure(self, during: str, error: BaseException) -> None:
        """Ours went wrong: in a trial this fails the trial, in a plain run we step aside."""
        self.emit("agent_failure", during=during, error=f"{type(error).__name__}: {error}")
        self.off = True
        self.say(
            f"stopped observing ({during}: {type(error).__name__}: {error}); "
            "the script goes on as without halftime"
        )

    def say(self, text: str) -> None:
        """Tell the user of a plain run, on stderr, prefixed."""
        if not self.in_trial:
            sys.stderr.write(f"halftime: {text}\n")
