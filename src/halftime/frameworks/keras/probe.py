"""Observes Keras 3: the steps, losses and metrics of fit, evaluations, and what is compiled.

Loops of the script's own are observed by `loops`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import weakref
from typing import Any, Callable, List, Mapping, Optional, Tuple

from ...agent.patches import Patches
from ...agent.recorder import EVALUATION, TRAINING, Recorder, clock
from .. import techniques_at
from ..pytorch.loading import number_loader
from ..tensorflow import pipeline
from ..tensorflow.probe import describing
from . import brakes, loops, optimizer_alone, py_dataset, witness
from .trainer import limited_steps, trainer_of, wanting_batches

_OPTIMIZER = 0
_KERAS_BATCH = 32


def attach(keras: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]) -> None:
    """Techniques first; then the trainer's data, and the calls that every callback list makes.

    The methods of CallbackList are wrapped, and no callback is added: Keras may call callbacks in
    a thread of its own, later than the step.
    """
    if keras.__version__.startswith("2."):
        text = (
            f"Keras {keras.__version__} is left alone: halftime knows Keras 3 (pip install keras)"
        )
        recorder.emit("note", text=text)
        return
    techniques = techniques_at("keras", orders["framework"], orders["fed_by"])
    patches.switch_on(orders, techniques, keras)
    trainer = trainer_of(keras)
    if orders["witness"]:
        witness.install(keras, trainer, orders["witness"], patches)
    fit = Fit(keras, recorder)
    if "tensorflow" not in sys.modules:
        patches.feeders.append(describing(None, recorder))
    _feed(trainer, patches, fit)
    _observe_compile(keras, recorder, patches)
    brakes.observe(keras, recorder, patches)
    py_dataset.observe(keras, recorder, patches, orders)
    fit.loop = loops.observe(keras, trainer, recorder, patches, orders)
    if orders["looks_closely"] and keras.backend.backend() == "tensorflow":
        patches.at_exit(fit.time_the_optimizer)
    _observe_calls(keras, fit, patches)


def _feed(trainer: Any, patches: Patches, observed: Fit) -> None:
    """Hand the data of fit and evaluate through whoever wants to see or change it."""

    def fed_fit(original: Any) -> Any:
        bound = inspect.signature(original)

        @functools.wraps(original)
        def fit(self: Any, *args: Any, **named: Any) -> Any:
            given = bound.bind(self, *args, **named).arguments
            observed.batch_size = _batch_size_of(given)
            observed.first_epoch = given.get("initial_epoch") or 0
            if limits := limited_steps(given):
                patches.recorder.emit("limited_steps", counts=list(limits.values()))
            fed_with = given.get("x")
            if given.get("x") is not None:
                number_loader(given["x"], TRAINING)
                given["x"] = patches.feed(given["x"], TRAINING, trains=True)
            held_out = given.get("validation_data")
            if type(held_out) is tuple:
                patches.feed(held_out[0], EVALUATION, trains=False)
            elif held_out is not None:
                if held_out is not fed_with:
                    number_loader(held_out, EVALUATION)
                given["validation_data"] = patches.feed(held_out, EVALUATION, trains=False)
            return within(original, **given)

        return fit

    def fed_evaluate(original: Any) -> Any:
        @functools.wraps(original)
        def evaluate(self: Any, x: Any = None, *args: Any, **named: Any) -> Any:
            if x is not None and not named.get("_use_cached_eval_dataset"):
                number_loader(x, EVALUATION)
                x = patches.feed(x, EVALUATION, trains=False)
            return within(original, self, x, *args, **named)

        return evaluate

    def predicted(original: Any) -> Any:
        @functools.wraps(original)
        def predict(self: Any, *args: Any, **named: Any) -> Any:
            return within(original, self, *args, **named)

        return predict

    def within(original: Any, *args: Any, **named: Any) -> Any:
        with patches.recorder.trainer_at_work():
            return original(*args, **named)

    patches.replace(trainer, "fit", fed_fit)
    patches.replace(trainer, "evaluate", fed_evaluate)
    patches.replace(trainer, "predict", predicted)


class Fit:
    """What the calls of a callback list tell of the training that goes on."""

    def __init__(self, keras: Any, recorder: Recorder) -> None:
        self._keras = keras
        self._recorder = recorder
        self._pending: List[Tuple[int, int, Any, bool]] = []
        self._mean_so_far = 0.0
        self._counted = 0
        self._settled_count = 0
        self.batch_size: Optional[int] = None
        """Of the data that fit was given, where that tells."""
        self.first_epoch = 0
        self.loop: Any = None
        self._fits = 0
        self._epoch_is_open = self._is_tracked = self._in_batch = False
        self._batch = self._counted_before = 0
        self._samples_a_count = 1
        self._batches_of_epoch = 0
        self._last_execution = 1
        self._training = False
        self._begun = 0.0
        self._first_step = 0.0
        self._described = False
        self._updates = 0
        self._trained: Callable[[], Any] = lambda: None
        recorder.at_edge.append(self._settle)

    def train_begins(self, calls: Any) -> None:
        self._training = True
        self._fits += 1
        if self._fits == 2:
            # How many more there are, nobody knows.
            self._recorder.emit("planned", samples=None)
        self._recorder.iterates(TRAINING)  # what was looked at before was no training

    def epoch_begins(self, calls: Any) -> None:
        self._settle()
        self._mean_so_far, self._counted, self._settled_count = 0.0, 0, 0
        self._batches_of_epoch = 0

    def batch_begins(self, calls: Any, batch: int) -> None:
        self._begun = clock()
        self._in_batch = True
        self._recorder.requested(TRAINING, self._begun)

    def batch_ends(self, calls: Any, batch: int, logs: Any) -> None:
        recorder, now = self._recorder, clock()
        self._in_batch = False
        if recorder.off:
            return
        # The last of several steps in one execution may be past the end of the epoch.
        seen = min(batch + 1, calls.params.get("steps") or batch + 1)
        batches = max(seen - self._batches_of_epoch, 1)
        self._batches_of_epoch, self._last_execution = seen, batches
        recorder.steps += batches - 1
        goes_on = not self._epoch_is_open and seen > batches
        if not self._epoch_is_open:
            self._epoch_is_open = True
            # The running mean of the loss has counted the samples of what it has seen.
            tracked = self._count(calls.model)
            self._is_tracked = tracked > 0
            if goes_on:
                # After an evaluation within the epoch, which has counted its own.
                self._counted_before = max(tracked - self._batch * batches, 0)
            else:
                self._counted_before = 0
                self._batch = tracked // batches if tracked else self.batch_size or 0
            # A train_step of the script's own may count batches instead.
            own = tracked > 0 and self._batch == 1 and (self.batch_size or 1) > 1
            self._samples_a_count = self.batch_size or 1 if own else 1
        counted = self._batch * batches
        self._counted += counted
        samples = counted * self._samples_a_count
        recorder.received(TRAINING, self._begun, self._begun, samples)
        recorder.forward += now - self._begun
        loss = _loss_in(logs)
        if loss is not None:
            counted = self._counted_before + self._counted if self._is_tracked else 0
            # What an evaluation left in the mean is not known: the next loss is told from it.
            self._pending.append((recorder.steps, counted, loss, not (goes_on and counted)))
        if not self._described:
            self._describe(calls, now)
        recorder.updated(_OPTIMIZER, now, count=self._updates_in(calls, batches))

    def test_begins(self, calls: Any) -> None:
        if self._training:
            self._end_epoch(calls)
        self._recorder.requested(EVALUATION, clock())

    def test_batch_ends(self, calls: Any) -> None:
        now = clock()
        self._recorder.received(EVALUATION, now, now, 0)

    def test_ends(self, calls: Any, logs: Any) -> None:
        self._recorder.exhausted(EVALUATION, clock())
        if not self._training:
            self._report(logs)

    def epoch_ends(self, calls: Any, logs: Any) -> None:
        self._end_epoch(calls)
        held_out = {name: value for name, value in (logs or {}).items() if name.startswith("val_")}
        self._report(held_out)

    def train_ends(self, calls: Any) -> None:
        self._end_epoch(calls)
        self._settle()
        self._training = False

    def time_the_optimizer(self) -> None:
        """Once the observation is over: what an update takes of a step."""
        model = self._trained()
        if model is not None:
            with self._recorder.trainer_at_work():
                tensorflow = importlib.import_module("tensorflow")
                optimizer_alone.report(tensorflow, model, self.loop.applied, self._recorder)

    def _end_epoch(self, calls: Any) -> None:
        """The last batch of an epoch is over, and what follows is no step."""
        if not self._epoch_is_open:
            return
        recorder, now = self._recorder, clock()
        if self._is_tracked:
            # The last batch may have been a smaller one.
            missing = self._count(calls.model) - self._counted_before - self._counted
            recorder.samples += missing * self._samples_a_count
            if not calls.params.get("steps") and self._batch:
                # Of unknown length: the last execution may have fewer steps than it could have.
                never_run = min(max(-missing, 0) // self._batch, self._last_execution - 1)
                recorder.steps -= never_run
                recorder.updates += self._updates_in(calls, -never_run)
        self._epoch_is_open, self._counted = False, 0
        self._settle()
        if self._in_batch:  # where Keras does not know the length, it begins a batch too many
            self._in_batch, now = False, self._begun
        else:
            recorder.requested(TRAINING, now)
        recorder.exhausted(TRAINING, now)

    def _updates_in(self, calls: Any, steps: int) -> int:
        """How often the optimizer changes the weights in that many further steps."""
        # `calls.model` would make Keras' JAX backend bring its weights home in every step.
        every = getattr(calls._model.optimizer, "gradient_accumulation_steps", None) or 1
        before, self._updates = self._updates, self._updates + steps
        return self._updates // every - before // every

    def _count(self, model: Any) -> int:
        """Samples that the running mean of the loss has seen in this epoch."""
        tracker = getattr(model, "_loss_tracker", None)
        count = getattr(tracker, "count", None)
        try:
            return int(count.numpy()) if count is not None else 0
        except Exception:  # a model whose own train_step keeps other counts
            return 0

    def _settle(self) -> None:
        """Read the running means that have been put by, and undo the averaging."""
        pending, self._pending = self._pending, []
        for step, count, value, is_known in pending:
            try:
                mean = float(value)
            except (TypeError, ValueError):  # a loss for each row
                continue
            seen = count - self._settled_count
            if count and seen > 0:
                loss = (mean * count - self._mean_so_far * self._settled_count) / seen
            else:
                loss = mean
            self._mean_so_far, self._settled_count = mean, count
            if is_known:
                self._recorder.losses.append((step, 0, loss))

    def _report(self, logs: Any) -> None:
        for name, value in (logs or {}).items():
            try:
                self._recorder.emit("metric", name=name, value=float(value))
            except (TypeError, ValueError):
                continue

    def _describe(self, calls: Any, now: float) -> None:
        """What is trained, once the first step has shown it."""
        self._described = True
        model, params, recorder = calls.model, calls.params, self._recorder
        self._trained = weakref.ref(model)
        given = model.optimizer  # of mixed_float16: around the script's own
        # A train_step of the script's own may have others than the one that compile was given.
        name = self.loop.applied or type(getattr(given, "inner_optimizer", given)).__name__
        wanting = wanting_batches(calls.callbacks)
        loops.describe_training(self._keras, recorder, name, model, batch_callbacks=wanting)
        recorder.emit("first_step", seconds=now - self._begun)
        epochs, steps = params.get("epochs"), params.get("steps")
        if epochs and steps and self._batch and self._fits < 2:
            batch = self._batch * self._samples_a_count
            recorder.emit("planned", samples=(epochs - self.first_epoch) * steps * batch)
        if getattr(model, "jit_compile", False) is True:
            recorder.emit("already_on", idea="xla")
        if getattr(given, "gradient_accumulation_steps", None):
            recorder.emit("already_on", idea="gradient_accumulation")


def _observe_calls(keras: Any, fit: Fit, patches: Patches) -> None:
    """Wrap the methods by which a trainer tells its callbacks what it does."""
    module = importlib.import_module("keras.src.callbacks.callback_list")
    calls = module.CallbackList

    def is_trainers(self: Any) -> bool:
        """Whether a trainer calls it, and no loop of the script's own."""
        return getattr(self, "_model", None) is not None and patches.recorder.fetches_inside

    def safely(tell: Any, *told: Any) -> None:
        try:
            with patches.recorder.settling():
                tell(*told)
        except Exception as error:  # ours: the script goes on, and the trial is void
            patches.recorder.report_failure("watching a trainer", error)

    def before(tell: Any, wants: int = 0) -> Any:
        def wrap(original: Any) -> Any:
            def method(self: Any, *args: Any, **named: Any) -> Any:
                if is_trainers(self):
                    safely(tell, self, *args[:wants])
                return original(self, *args, **named)

            return method

        return wrap

    def batch_ended(original: Any) -> Any:
        def on_train_batch_end(self: Any, batch: int, logs: Any = None) -> Any:
            if is_trainers(self):
                safely(fit.batch_ends, self, batch, logs)
            return original(self, batch, logs)

        return on_train_batch_end

    def with_logs(tell: Any) -> Any:
        def wrap(original: Any) -> Any:
            def method(self: Any, *args: Any, **named: Any) -> Any:
                if is_trainers(self):
                    safely(tell, self, named.get("logs", args[-1] if args else None))
                return original(self, *args, **named)

            return method

        return wrap

    patches.replace(calls, "on_train_begin", before(fit.train_begins))
    patches.replace(calls, "on_epoch_begin", before(fit.epoch_begins))
    patches.replace(calls, "on_train_batch_begin", before(fit.batch_begins, wants=1))
    patches.replace(calls, "on_train_batch_end", batch_ended)
    patches.replace(calls, "on_test_begin", before(fit.test_begins))
    patches.replace(calls, "on_test_batch_end", before(fit.test_batch_ends))
    patches.replace(calls, "on_test_end", with_logs(fit.test_ends))
    patches.replace(calls, "on_epoch_end", with_logs(fit.epoch_ends))
    patches.replace(calls, "on_train_end", before(fit.train_ends))


def _observe_compile(keras: Any, recorder: Recorder, patches: Patches) -> None:
    """Settings that the script gives to compile."""
    trainer = importlib.import_module("keras.src.trainers.trainer").Trainer

    def noted(original: Any) -> Any:
        def compile(self: Any, *args: Any, **named: Any) -> Any:
            result = original(self, *args, **named)
            if self.steps_per_execution > 1:
                recorder.emit("already_on", idea="steps_per_execution")
            return result

        return compile

    patches.replace(trainer, "compile", noted)


def _batch_size_of(given: Mapping[str, Any]) -> Optional[int]:
    """The samples of a batch, by what fit was told or by the data itself."""
    data: Any = given.get("x")
    if hasattr(data, "element_spec"):
        return pipeline.batch_size_of(data)
    if hasattr(data, "batch_size"):  # a DataLoader of PyTorch's
        return data.batch_size if isinstance(data.batch_size, int) else None
    if hasattr(data, "shape") or isinstance(data, (list, tuple, dict)):
        return given.get("batch_size") or _KERAS_BATCH
    return None


def _loss_in(logs: Any) -> Optional[Any]:
    if not isinstance(logs, dict):
        return None
    if "loss" in logs:
        return logs["loss"]
    return next((value for name, value in logs.items() if "loss" in name), None)
