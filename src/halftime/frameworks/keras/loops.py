"""Loops of the script's own around a Keras optimizer or train_on_batch, in place of fit."""

from __future__ import annotations

import importlib
import threading
import weakref
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from ...agent.patches import Patches
from ...agent.places import place_of_caller
from ...agent.recorder import Recorder, clock
from ..losses import likely_loss
from ..tensorflow.reading import asked_by_a_library
from . import brakes, witness
from .backend import others_than, why_bound_to
from .trainer import draws_numbers

_OPTIMIZER = 0
_CALLS_TO_LOOK = 3


def observe(
    keras: Any, trainer: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]
) -> Loop:
    """Wrap what such a loop calls, of Keras and of TensorFlow."""
    loop = Loop(keras, recorder, (orders["witness"] or {}).get("gradients", 0))

    def on_batch(original: Any) -> Any:
        def train_on_batch(self: Any, *args: Any, **named: Any) -> Any:
            return loop.on_batch(self, original, args, named)

        return train_on_batch

    patches.replace(trainer, "train_on_batch", on_batch)
    if keras.backend.backend() != "tensorflow":
        return loop

    def called(original: Any) -> Any:
        def __call__(self: Any, *args: Any, **named: Any) -> Any:
            return loop.call(self, original, args, named)

        return __call__

    def traced(original: Any) -> Any:
        def get_concrete_function(self: Any, *args: Any, **named: Any) -> Any:
            return loop.trace(self, original, args, named)

        return get_concrete_function

    def applied(original: Any) -> Any:
        def apply(self: Any, grads: Any, *args: Any, **named: Any) -> Any:
            return loop.apply(self, original, grads, args, named)

        return apply

    def differentiated(original: Any) -> Any:
        def gradient(self: Any, target: Any, *args: Any, **named: Any) -> Any:
            return loop.differentiate(original, self, target, args, named)

        return gradient

    def entered(original: Any) -> Any:
        def __enter__(self: Any) -> Any:
            loop.tape_entered = clock()
            return original(self)

        return __enter__

    def tell(name: str) -> Any:
        return importlib.import_module(f"tensorflow.python.{name}")

    compiled = tell("eager.polymorphic_function.polymorphic_function")
    patches.replace(compiled.Function, "__call__", called)
    patches.replace(compiled.Function, "get_concrete_function", traced)
    concrete = tell("eager.polymorphic_function.concrete_function")
    patches.replace(concrete.ConcreteFunction, "__call__", called)
    base = importlib.import_module("keras.src.optimizers.base_optimizer")
    patches.replace(base.BaseOptimizer, "apply", applied)
    patches.replace(tell("eager.backprop").GradientTape, "gradient", differentiated)
    patches.replace(tell("eager.backprop").GradientTape, "__enter__", entered)
    patches.at_exit(loop.report)
    return loop


class Loop:
    """The steps of a loop of the script's own.

    A step is a call of train_on_batch, of a tf.function (or of one of its traces that the script
    asked for) that was seen to apply gradients when it was traced, or of an optimizer's apply out
    of any. What Keras does within its own calls is not looked at.
    """

    def __init__(self, keras: Any, recorder: Recorder, witnessed: int) -> None:
        self._keras = keras
        self._recorder = recorder
        self._witnessed = witnessed
        self._local = threading.local()
        self._applies = False
        self._trains: Dict[int, Any] = {}
        self._within: Any = weakref.WeakKeyDictionary()
        """How many updates the first calls of a function made."""
        self._places: Dict[int, str] = {}
        self._described = False
        self._eager_steps = 0
        self._before: Optional[List[Any]] = None
        self._optimizer: Any = None
        self._trained: Set[int] = set()
        self.loss: Any = None
        self.tape_entered = 0.0
        self._on_gpu: Optional[bool] = None
        self.applied = ""
        """The class of the optimizer that moved weights last, whoever called it."""

    # What the wrapped calls do.

    def on_batch(self, model: Any, original: Any, args: Any, named: Any) -> Any:
        """train_on_batch: its loss is a running mean, which is undone."""
        if self._recorder.fetches_inside or self._recorder.off:
            return original(model, *args, **named)
        total, count = self._tracked(model)
        start = clock()
        with self._recorder.trainer_at_work():
            result = original(model, *args, **named)
        now_total, now_count = self._tracked(model)
        if now_count <= count:  # the metrics were reset
            total, count = 0.0, 0.0
        seen = now_count - count
        loss = (now_total - total) / seen if seen else None
        self._note_optimizer(getattr(model.optimizer, "inner_optimizer", model.optimizer))
        self._step(start, loss, int(seen), compiles=True)
        return result

    def call(self, function: Any, original: Any, args: Any, named: Any) -> Any:
        """A tf.function that the script calls, or a trace of one."""
        busy = self._inside or self._recorder.off or self._recorder.fetches_inside
        if busy or asked_by_a_library() or not self._executes():
            return original(function, *args, **named)
        key = id(function)
        self._applies = False
        known = self._within.setdefault(function, [])
        # In its first call the optimizer may come to be known, which has made updates elsewhere.
        counts = self._optimizer is not None and (len(known) < _CALLS_TO_LOOK or known[-1] > 1)
        before = self._iterations() if counts else 0
        start = clock()
        result = self._quietly(original, function, *args, **named)
        if self._applies and key not in self._trains:
            self._trains[key] = function
        updates = self._iterations() - before if counts else 1
        if counts and len(known) < _CALLS_TO_LOOK:
            known.append(updates)
        if key in self._trains:
            if key not in self._places:
                self._places[key] = place_of_caller()
            loss, samples = self._loss_in(result), self._samples_in((args, named))
            self._step(start, loss, samples, compiles=False, updates=max(updates, 1))
        return result

    def _iterations(self) -> int:
        """How often the optimizer has moved weights; a graph may do so in a loop of its own."""
        try:
            return int(self._keras.ops.convert_to_numpy(self._optimizer.iterations))
        except Exception:  # an optimizer of the script's own, that counts otherwise
            return 0

    def trace(self, function: Any, original: Any, args: Any, named: Any) -> Any:
        """A trace of a tf.function that the script asks for, to call it by itself."""
        if self._inside or self._recorder.off or asked_by_a_library():
            return original(function, *args, **named)
        self._applies = False
        concrete = self._quietly(original, function, *args, **named)
        if self._applies or id(function) in self._trains:  # traced now, or known from before
            self._trains[id(concrete)] = concrete
        return concrete

    def apply(self, optimizer: Any, original: Any, grads: Any, args: Any, named: Any) -> Any:
        """An optimizer that moves weights: within a trace, or as a step of its own."""
        self.applied = type(optimizer).__name__
        if self._recorder.fetches_inside:
            return original(optimizer, grads, *args, **named)
        grads = list(grads)
        self._trained = {i for i, g in enumerate(grads) if g is not None}
        self._note_optimizer(optimizer)
        if self._inside or self._recorder.off or not self._executes():
            self._applies = True
            return original(optimizer, grads, *args, **named)
        start = clock()
        result = self._quietly(original, optimizer, grads, *args, **named)
        self._eager_steps += 1
        if self._eager_steps == 1:
            self._places[_OPTIMIZER] = place_of_caller()
        loss, self.loss = self.loss, None
        if not self._is_asynchronous():
            self._recorder.optimizer += clock() - start
        self._step(clock(), loss, 0, compiles=False)
        return result

    def differentiate(self, original: Any, tape: Any, target: Any, args: Any, named: Any) -> Any:
        """A tape that goes back: what is run eagerly is timed, forward and backward."""
        self.loss = target
        busy = self._inside or self._recorder.off or self._recorder.fetches_inside
        if busy or not self._executes():
            return original(tape, target, *args, **named)
        start = clock()
        result = self._quietly(original, tape, target, *args, **named)
        if not self._is_asynchronous():
            self._recorder.forward += max(start - self.tape_entered, 0.0)
            self._recorder.backward += clock() - start
        self.tape_entered = clock()  # of several tapes the forward pass is counted once
        return result

    # What a step leaves.

    def _step(
        self, start: float, loss: Any, samples: int, compiles: bool, updates: int = 1
    ) -> None:
        recorder, now = self._recorder, clock()
        variables = getattr(self._optimizer, "_trainable_variables", None)
        if self._witnessed and self._before is None and variables:
            # Not before the first step: weights cannot be read while it is traced.
            self._before = witness.values_of(self._keras, variables)
        if loss is not None:
            recorder.put_by(loss)
        if not self._described:
            self._described = True
            self._describe(compiles)
            if not self._eager_steps:
                recorder.emit("first_step", seconds=now - start)
        recorder.forward += now - start
        if recorder.updates:
            recorder.steps += updates - 1
        recorder.updated(_OPTIMIZER, now, samples, updates)

    def _describe(self, compiles: bool) -> None:
        name = type(self._optimizer).__name__ if self._optimizer is not None else ""
        describe_training(self._keras, self._recorder, name, own_loop="train_on_batch" if compiles
                          else "GradientTape")  # fmt: skip

    def _note_optimizer(self, optimizer: Any) -> None:
        if self._optimizer is None:
            self._optimizer = optimizer

    def report(self) -> None:
        """What is only known at the end: what was traced again, and what moved."""
        for key, function in self._trains.items():
            count = getattr(function, "experimental_get_tracing_count", int)
            if (times := count()) > 2:
                self._recorder.emit("note", text=(
                    f"the step that is called at {self._places[key]} was traced {times} times: "
                    "shapes or Python values change from call to call"))  # fmt: skip
            if (most := max(self._within.get(function, ()), default=0)) > 1:
                self._recorder.emit("note", text=(
                    f"the function that is called at {self._places[key]} makes {most} updates in "
                    "one call: in the graph's own loop nobody sees it wait for data"))  # fmt: skip
        if self._eager_steps and not self._trains:
            self._recorder.emit(
                "brake", name="eager_step", place=self._places[_OPTIMIZER], times_per_step=1.0
            )
        if self._before is None:
            return
        after = self._optimizer._trainable_variables
        trained = [len(self._trained) or len(after)] * self._witnessed
        witness.say_what_moved(self._keras, self._recorder, after, self._before, trained)

    # Small questions.

    @property
    def _inside(self) -> bool:
        """Whether this thread is within a call that was looked at already."""
        return bool(getattr(self._local, "inside", False))

    def _is_asynchronous(self) -> bool:
        """Whether a GPU computes, so that a call that has returned says nothing of its time."""
        if self._on_gpu is None:
            self._on_gpu = _device_of("tensorflow") == "cuda"
        return self._on_gpu

    def _executes(self) -> bool:
        """Whether what is called now is computed, and not traced."""
        return bool(importlib.import_module("tensorflow").executing_eagerly())

    def _quietly(self, original: Any, *args: Any, **named: Any) -> Any:
        """Call without looking at what is called within."""
        self._local.inside = True
        try:
            return original(*args, **named)
        finally:
            self._local.inside = False

    def _tracked(self, model: Any) -> Tuple[float, float]:
        tracker = getattr(model, "_loss_tracker", None)
        if tracker is None:
            return 0.0, 0.0
        with self._recorder.settling():
            return float(tracker.total), float(tracker.count)

    def _samples_in(self, tree: Any) -> int:
        """The first dimension of the first tensor; 0 where there is none."""
        shapes = [leaf.shape for leaf in self._flat(tree)]
        return next((int(shape[0] or 0) for shape in shapes if len(shape)), 0)

    def _loss_in(self, tree: Any) -> Any:
        """The number among what a step gives that is its loss; None where there is none."""
        return likely_loss(
            (path, leaf)
            for path, leaf in _named_in(tree)
            if "float" in str(getattr(leaf, "dtype", "")) and not len(leaf.shape)
        )

    def _flat(self, tree: Any) -> List[Any]:
        """The dense tensors of a structure; none of what has no shape yet."""
        try:
            leaves = self._keras.tree.flatten(tree)
            shaped = [leaf for leaf in leaves if hasattr(leaf, "shape")]
            return [leaf for leaf in shaped if getattr(leaf.shape, "rank", 0) is not None]
        except Exception:  # a structure that Keras cannot flatten: nothing is counted
            return []


def _named_in(tree: Any, path: str = "") -> Iterator[Tuple[str, Any]]:
    """The leaves of dictionaries, lists and tuples by their paths; Keras 3.3 gives none."""
    if isinstance(tree, Mapping):
        parts: Iterable[Tuple[Any, Any]] = tree.items()
    elif isinstance(tree, (list, tuple)):
        parts = enumerate(tree)
    else:
        yield path, tree
        return
    for name, part in parts:
        yield from _named_in(part, f"{path}[{name}]")


def describe_training(
    keras: Any, recorder: Recorder, optimizer: str, model: Any = None, **more: Any
) -> None:
    """What is trained, by whom and where. model: where it is known."""
    backend = keras.backend.backend()
    recorder.emit(
        "optimizer", framework="keras", backend=backend, name=optimizer,
        device=_device_of(backend), device_name="", threads=_threads_of(backend),
        other_backends=others_than(backend), bound_to_backend=why_bound_to(backend),
        random_layers=_has_random_layers(model),
        own_code=brakes.code_of_the_script_in(keras, model), **more,
    )  # fmt: skip
    policy = keras.config.dtype_policy().name
    layers = getattr(model, "layers", [])
    if not policy.startswith("mixed"):
        return
    if layers and all(layer.compute_dtype == "float32" for layer in layers):
        text = f"the script sets the policy {policy} after its layers are made: it acts on none"
        recorder.emit("note", text=text)
    else:
        recorder.emit("already_on", idea="mixed_precision")


def _has_random_layers(model: Any) -> bool:
    """Whether layers draw numbers, as dropout does; a model that nobody knows may have some."""
    if model is None:
        return True
    return any(map(draws_numbers, model._flatten_layers()))


def _device_of(backend: str) -> str:
    if backend == "tensorflow":
        tensorflow = importlib.import_module("tensorflow")
        return "cuda" if tensorflow.config.list_physical_devices("GPU") else "cpu"
    if backend == "torch":
        return "cuda" if importlib.import_module("torch").cuda.is_available() else "cpu"
    platform = importlib.import_module("jax").devices()[0].platform
    return "cuda" if platform == "gpu" else str(platform)


def _threads_of(backend: str) -> Optional[int]:
    if backend == "torch":
        return int(importlib.import_module("torch").get_num_threads())
    if backend != "tensorflow":
        return None
    threads = vars(importlib.import_module("tensorflow").config.threading)
    return int(threads["get_intra_op_parallelism_threads"]()) or None
