"""Observes JAX scripts: the jitted function that trains, its losses, and what is compiled."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import threading
import types
import weakref
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ...agent.patches import Patches
from ...agent.recorder import Recorder, clock
from .. import techniques_at
from ..losses import likely_loss
from . import advice, compilation_cache, matmul_precision

_CALLS_TO_LOOK = 3
_CALLS_PER_SYNC = 8
_LONG_STEP = 0.02
_LEADER = 0
"""What the function whose calls are steps is called, whichever it is."""
_IDLE = 32
"""Steps of another function after which it takes the lead."""
_COMPILED = "/jax/core/compile/backend_compile_duration"

_KEY = ((2,), "uint32")

Shape = Tuple[Tuple[int, ...], str]


def attach(jax: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]) -> None:
    """Hook in: techniques first, then every function that the script jits."""
    patches.switch_on(orders, techniques_at("jax", orders["framework"], orders["fed_by"]), jax)
    witness = orders["witness"] or {}
    compilations = Compilations(recorder)
    watch = Watch(
        jax, recorder, compilations, syncs=not orders["roots"],
        witnessed=witness.get("gradients", 0),
    )  # fmt: skip

    def wrapped(original: Any) -> Any:
        def jit(*args: Any, **named: Any) -> Any:
            made = original(*args, **named)
            if hasattr(made, "lower"):
                return Jitted(made, watch)
            return lambda function: Jitted(made(function), watch)  # jit(static_argnames=…)

        return jit

    def of_plain(original: Any) -> Any:
        def eval_shape(function: Any, *args: Any, **named: Any) -> Any:
            # What JAX asks of the type of a jitted function, it asks of the function itself.
            own = isinstance(function, Jitted)
            return original(function._halftime_jitted if own else function, *args, **named)

        return eval_shape

    patches.replace(jax, "jit", wrapped)
    patches.replace(jax, "eval_shape", of_plain)
    jax.monitoring.register_event_duration_secs_listener(compilations.heard)
    patches.at_exit(compilations.report)
    if orders["looks_closely"]:
        advice.observe(jax, recorder, patches)
    ordered = {switch["technique"] for switch in orders["switches"]}
    for technique in (compilation_cache, matmul_precision):
        if technique.IDEA.name not in ordered:
            patches.at_exit(functools.partial(technique.note, jax, recorder))


class Jitted:
    """A jitted function that tells when the script calls it; all else is the function's own."""

    def __init__(self, jitted: Any, watch: Watch) -> None:
        functools.update_wrapper(self, jitted, updated=())
        self._halftime_jitted = jitted
        self._halftime_watch = watch
        self._halftime_number = watch.number()
        # By these JAX tells a jitted function from others, without asking for more.
        for name in ("lower", "trace", "eval_shape"):
            if hasattr(jitted, name):
                setattr(self, name, getattr(jitted, name))

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._halftime_watch.call(self, self._halftime_jitted, args, named)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._halftime_jitted, name)


class Watch:
    """Tells the function that trains from others, and marks its steps.

    A function trains that is given back what it made, as parameters and optimizer state are; where
    none does, the first whose outputs have the shapes of its inputs, as gradients have. The loss is
    its first scalar that is not given back. Only calls by the script itself count: not those of one
    jitted function by another, nor those of a trace.
    """

    def __init__(
        self, jax: Any, recorder: Recorder, compilations: Compilations, syncs: bool, witnessed: int
    ) -> None:
        self._jax = jax
        self._recorder = recorder
        self._compilations = compilations
        self._syncs = syncs
        self._witnessed = witnessed
        self._local = threading.local()
        self._numbers = itertools.count(1)
        self._idle = 0
        self._calls: Dict[int, int] = {}
        self._first_made: Dict[int, List[Any]] = {}
        """What the first call of a function made, as weak references: memory is the script's."""
        self._first_given: Dict[int, List[Any]] = {}
        self._samples: Dict[int, int] = {}
        self._loss_places: Dict[int, Optional[int]] = {}
        self._leader: Optional[int] = None
        self._gradients: Optional[int] = None
        """A function beside the leader that makes the gradients, and so the loss."""
        self._every = 1
        self._untimed = 0
        self._last: Any = None
        recorder.at_edge.append(self._drain)

    def number(self) -> int:
        """A number for the next jitted function: an address is used again."""
        return next(self._numbers)

    def call(self, function: Jitted, jitted: Any, args: Any, named: Any) -> Any:
        """Call the function; mark a step where it trains."""
        if self._recorder.off or getattr(self._local, "inside", False):
            return jitted(*args, **named)
        key = function._halftime_number
        trains = key in self._samples
        before = self._copies_of((args, named)) if trains and self._witnessed else None
        timed = trains and self._is_timed()
        self._local.inside = True
        compiled = self._compilations.count
        start = clock()
        try:
            outputs = jitted(*args, **named)
        finally:
            self._local.inside = False
        if trains:
            self._compilations.compiled_again(self._compilations.count - compiled, jitted)
            self._step(key, start, outputs, timed)
            if before is not None:
                self._note_update(before, outputs)
        elif key == self._gradients:
            self._note_loss(key, outputs)
        elif self._calls.get(key, 0) < _CALLS_TO_LOOK:
            try:
                self._look(key, function, args, named, outputs)
            except Exception as error:  # ours: the script goes on with what it has
                self._recorder.report_failure("looking at a jitted function", error)
        return outputs

    def _look(self, key: int, function: Any, args: Any, named: Any, outputs: Any) -> None:
        """Learn in the first calls of a function whether it trains."""
        if sys._getframe(3).f_globals.get("__name__", "").startswith("keras."):
            return  # Keras has a probe of its own
        given, made = self._leaves((args, named)), self._leaves(outputs)
        if any(isinstance(leaf, self._jax.core.Tracer) for leaf in made):
            return  # within another that is traced: no call of its own
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] == 1:
            if all(type(leaf).__weakrefoffset__ for leaf in made):
                self._first_made[key] = [weakref.ref(leaf) for leaf in made]
            if all(type(leaf).__weakrefoffset__ for leaf in given):
                self._first_given[key] = [weakref.ref(leaf) for leaf in given]
            return
        here = {id(leaf) for leaf in given}
        came_back = [id(made_first()) in here for made_first in self._first_made.get(key, ())]
        stays = {id(leaf()) for leaf in self._first_given.get(key, ()) if leaf() is not None}
        came_back += [False] * (len(made) - len(came_back))
        state = [_shape(leaf) for leaf in made if leaf.ndim]
        known = [_shape(leaf) for leaf in given]
        pairs = zip(made, came_back)
        back = [leaf for leaf, returned in pairs if returned and leaf.ndim and self._floats(leaf)]
        trains = self._has_moved(back, given)
        alike = bool(state) and all(shape in known for shape in state)
        last_look = self._calls[key] == _CALLS_TO_LOOK
        loss = likely_loss(
            (path, place)
            for place, (path, leaf) in enumerate(zip(self._paths(outputs), made))
            if not leaf.ndim and self._floats(leaf) and not came_back[place]
        )
        rest = [leaf for leaf in given if leaf.ndim and _shape(leaf) not in state]
        samples = _samples_in([leaf for leaf in rest if id(leaf) not in stays])
        # What only changes its input, as a jitted normalisation, trains nothing.
        alike = alike and bool(rest)
        if trains or (alike and last_look and self._leader is None):
            self._loss_places[key], self._samples[key] = loss, samples
            if self._leader is None:
                self._leader = key
                self._describe(function, made)
        elif alike and last_look and loss is not None and self._gradients is None:
            leader = self._leader
            if leader is not None and self._loss_places[leader] is None:
                self._gradients, self._loss_places[key] = key, loss
                self._samples[leader] = self._samples[leader] or samples

    def _has_moved(self, returned: List[Any], given: List[Any]) -> bool:
        """Whether an array that comes back is another than all that were given.

        An evaluation may hand back the state that it was given, as Flax' NNX does.
        """
        if any(hasattr(leaf, "is_deleted") and leaf.is_deleted() for leaf in given):
            return bool(returned)
        alike = [[old for old in given if _shape(old) == _shape(leaf)] for leaf in returned]
        pairs = zip(returned, alike)
        return any(not any(self._are_equal(old, leaf) for old in olds) for leaf, olds in pairs)

    def _are_equal(self, one: Any, other: Any) -> bool:
        """Whether two arrays hold the same, wherever they lie; False where nobody can tell."""
        if not all(getattr(array, "is_fully_addressable", True) for array in (one, other)):
            return False
        here, there = self._jax.device_get((one, other))
        return bool((here == there).all())

    def _describe(self, function: Any, made: List[Any]) -> None:
        name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
        device = self._jax.devices()[0]
        self._recorder.emit(
            "optimizer",
            framework="jax",
            name=name,
            device={"gpu": "cuda"}.get(device.platform, device.platform),
            device_name=device.device_kind if device.platform != "cpu" else "",
            threads=None,
        )
        self._recorder.emit(
            "root",
            class_name=name,
            parameters=sum(int(leaf.size) for leaf in made),
            calls_per_update=1.0,
            convolutions=0,
            grouped_convolutions=0,
            random_layers=True,  # nobody can see inside: keys may be split there
            compiled=True,
            last_operations=[],
            autocast=False,
            data_parallel=False,
        )

    def _is_timed(self) -> bool:
        """Whether this step is waited for: each long one, one in eight of the others.

        Calls return before the device is done, so that what it still has to do is waited for first.
        """
        timed = self._syncs and self._untimed + 1 >= self._every
        if timed:
            self._drain()
        return timed

    def _step(self, key: int, start: float, outputs: Any, timed: bool) -> None:
        recorder = self._recorder
        if not recorder.updates:
            self._leader = key  # one that was known before may have been a warm-up
        self._idle = 0 if key == self._leader else self._idle + 1
        if self._idle > _IDLE:
            self._leader, self._idle = key, 0  # as of the next fold, or of a fine-tuning
        self._note_loss(key, outputs)
        self._last = outputs
        self._untimed += 1
        if timed:
            self._wait_for(outputs)
            took = clock() - start
            recorder.forward += took * self._untimed
            self._every = 1 if took > _LONG_STEP else _CALLS_PER_SYNC
            self._untimed = 0
        elif not self._syncs:
            recorder.forward += clock() - start
        recorder.updated(_LEADER if key == self._leader else key, clock(), self._samples[key])

    def _note_loss(self, key: int, outputs: Any) -> None:
        place, leaves = self._loss_places[key], self._leaves(outputs)
        if place is not None and place < len(leaves):
            self._recorder.put_by(leaves[place])

    def _drain(self) -> None:
        """Wait for the device at a window's edge."""
        for leaf in self._leaves(self._last) if self._last is not None else ():
            if hasattr(leaf, "is_deleted") and not leaf.is_deleted():  # given away since, perhaps
                self._wait_for(leaf)

    def _wait_for(self, made: Any) -> None:
        """Wait for the device; the script's own waits alone are told as its own."""
        with self._recorder.settling():
            self._jax.block_until_ready(made)

    def _copies_of(self, tree: Any) -> List[Any]:
        """Copies of the arrays, since a donated one is gone after the call."""
        return [self._jax.numpy.array(leaf) for leaf in self._leaves(tree)]

    def _note_update(self, before: List[Any], outputs: Any) -> None:
        """What the proofs need to see that training still trains (parity.still_trains)."""
        self._witnessed -= 1
        left, norm, moved = list(before), 0.0, 0
        state = [leaf for leaf in self._leaves(outputs) if leaf.ndim]
        for leaf in state:
            place = next((i for i, old in enumerate(left) if _shape(old) == _shape(leaf)), None)
            if place is None or not self._floats(leaf):
                continue
            change = float(self._jax.numpy.sum((leaf - left.pop(place)) ** 2))
            moved += change > 0
            norm += change
        self._recorder.emit(
            "gradients", with_gradient=moved, parameters=len(state), update_norm=norm**0.5
        )

    def _floats(self, leaf: Any) -> bool:
        return bool(self._jax.numpy.issubdtype(leaf.dtype, self._jax.numpy.floating))

    def _leaves(self, tree: Any) -> List[Any]:
        return [leaf for leaf in self._jax.tree_util.tree_leaves(tree) if _is_array(leaf)]

    def _paths(self, tree: Any) -> List[str]:
        """The paths of the leaves, in the same order."""
        util = self._jax.tree_util
        named, _ = util.tree_flatten_with_path(tree)
        return [util.keystr(path) for path, leaf in named if _is_array(leaf)]


class Compilations:
    """How often XLA compiled, and for how long: a shape that changes compiles again."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._seconds = 0.0
        self.count = 0
        self._again = 0
        self._place = ""

    def heard(self, event: str, seconds: float, **more: Any) -> None:
        """What jax.monitoring reports."""
        if event == _COMPILED:
            self.count += 1
            self._seconds += seconds

    def compiled_again(self, times: int, function: Any) -> None:
        """How many of them came in a step after its first two calls, and of which function."""
        if times:
            self._again += times
            self._place = _place_of(function)

    def report(self) -> None:
        """Say it with the facts of the script."""
        if not self.count:
            return
        said = f"XLA compiled {self.count} programs in {self._seconds:.1f} s"
        if self._again:
            said += (
                f", {self._again} of them for a step that had run before{self._place}: shapes, or "
                "arguments that are static, change"
            )
        self._recorder.emit("note", text=said)


def _place_of(function: Any) -> str:
    """Where a function is written, for a sentence; '' where that is not known."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "ndim") and hasattr(leaf, "dtype")


def _samples_in(leaves: List[Any]) -> int:
    """The leading dimension that two inputs have in common, else the first one's; 0 without any.

    A key of jax.random is none of them.
    """
    sizes = [leaf.shape[0] for leaf in leaves if _shape(leaf) != _KEY]
    shared = [size for size in sizes if sizes.count(size) > 1]
    return int((shared or sizes or [0])[0])


def _shape(leaf: Any) -> Shape:
    return tuple(leaf.shape), str(leaf.dtype)
