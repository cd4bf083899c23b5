"""Roots: the modules that the script itself calls to compute what it trains."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any, Callable, Iterable, List, Sequence, Set

from ...agent.patches import Patches
from ...agent.recorder import Recorder
from .batches import first_dimension

_UPDATES_TO_LOOK = 3
_MOST_OF_A_CLASS = 16

Call = Callable[..., Any]


class Roots:
    """Finds the roots, then wraps their classes' `__call__`, and nothing else.

    A root owns parameters of a live optimizer and is called with gradients on, with no root
    above it on the same thread. A first run finds them by looking at every module call during
    three updates; later runs know their class names and wrap from the first update on.
    """

    def __init__(self, torch: Any, recorder: Recorder, known: Sequence[str]) -> None:
        self._torch = torch
        self._recorder = recorder
        self._known = set(known)
        self._wrappers: List[Callable[[Call], Call]] = []
        self._trained: Set[int] = set()
        self._owns: dict[int, tuple[Any, bool]] = {}
        self._wrapped_classes: Set[type] = set()
        self._local = threading.local()
        self._spied: Any = None
        self._updates = 0
        self._calls: dict[type, int] = {}
        self._found: dict[type, List[Any]] = {}
        self._endings: dict[type, List[str]] = {}
        self._autocast = False
        self.compiles = False
        """Whether the script calls torch.compile, perhaps for a function alone."""
        self.finds_autocast = False
        self.has_optimizer = False
        self.last_samples = 0
        self.plain_compile: Any = getattr(torch, "compile", None)
        compiler = getattr(torch, "compiler", None)
        self._in_a_graph: Callable[[], bool] = getattr(compiler, "is_compiling", lambda: False)

    def around(self, wrapper: Callable[[Call], Call]) -> None:
        """Put `wrapper` around every call of a root; the first one added is the innermost."""
        self._wrappers.append(wrapper)

    def optimizer_was_made(self, optimizer: Any) -> None:
        """Learn what is trained; from now on roots can be told from other modules."""
        self.has_optimizer = True
        self._learn(parameter for group in optimizer.param_groups for parameter in group["params"])

    def backward_without_an_optimizer(self) -> None:
        """The script moves its weights itself: what has a gradient is trained."""
        found = parameters_alive(self._torch)
        self._learn(parameter for parameter in found if parameter.grad is not None)

    def _learn(self, parameters: Iterable[Any]) -> None:
        self._trained.update(map(id, parameters))
        self._owns.clear()
        if self._known:
            self._wrap_known()
        elif self._updates < _UPDATES_TO_LOOK and self._spied is None:
            self._spy()

    def _wrap_known(self) -> None:
        for module in gc.get_objects():
            # By type, not isinstance: lazy objects answer `__class__` with an import.
            if (
                issubclass(type(module), self._torch.nn.Module)
                and class_name(type(module)) in self._known
                and self._owns_trained(module)
            ):
                self._wrap(type(module))

    @property
    def still_looks(self) -> bool:
        """Whether every module is looked at, to find the roots among them."""
        return self._updates < _UPDATES_TO_LOOK

    def after_update(self) -> None:
        """After three updates every root has been called: stop looking at other modules."""
        self._updates += 1
        if self._known - {class_name(cls) for cls in self._wrapped_classes}:
            self._wrap_known()  # one may have been put around another after the optimizer was made
        if self._updates == _UPDATES_TO_LOOK:
            self._stop_spying()
            compiled = [self._describe(cls, modules) for cls, modules in self._found.items()]
            if any(compiled) or (self.compiles and not compiled):
                self._recorder.emit("already_on", idea="compile")
            self._found.clear()

    def _owns_trained(self, module: Any) -> bool:
        # Keyed by id and checked by a weak reference: a weak dictionary costs three times that.
        known = self._owns.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        owns = any(id(parameter) in self._trained for parameter in module.parameters())
        self._owns[id(module)] = (weakref.ref(module), owns)
        return owns

    def _spy(self) -> None:
        """Look at every module call, but for those within a compiled graph."""
        Module = self._torch.nn.Module
        original = Module.__call__
        call = self._compose(original)
        self._spied = original
        in_a_graph = self._in_a_graph

        def __call__(module: Any, *args: Any, **named: Any) -> Any:
            if in_a_graph():
                return original(module, *args, **named)
            if getattr(self._local, "inside", False) or not self._torch.is_grad_enabled():
                return original(module, *args, **named)
            if not self._owns_trained(module):
                return original(module, *args, **named)
            self._calls[type(module)] = self._calls.get(type(module), 0) + 1
            known = self._found.setdefault(type(module), [])
            if len(known) < _MOST_OF_A_CLASS and all(module is not other for other in known):
                known.append(module)
            return self._call_root(call, module, *args, **named)

        Module.__call__ = __call__

    def _stop_spying(self) -> None:
        if self._spied is None:
            return
        self._torch.nn.Module.__call__ = self._spied
        self._spied = None
        for cls in self._found:
            self._wrap(cls)

    def _wrap(self, cls: type) -> None:
        if cls in self._wrapped_classes:
            return
        self._wrapped_classes.add(cls)
        changed: Any = cls
        original = changed.__call__
        call = self._compose(original)

        local, gradients_are_on, owns = self._local, self._torch.is_grad_enabled, self._owns
        in_a_graph = self._in_a_graph

        def __call__(module: Any, *args: Any, **named: Any) -> Any:
            # A module of this class within a graph is traced as if we were not there.
            if in_a_graph():
                return original(module, *args, **named)
            if getattr(local, "inside", False) or not gradients_are_on():
                return original(module, *args, **named)
            known = owns.get(id(module))
            mine = known[1] if known is not None and known[0]() is module else None
            if not (self._owns_trained(module) if mine is None else mine):
                return original(module, *args, **named)
            return self._call_root(call, module, *args, **named)

        changed.__call__ = __call__

    def _compose(self, original: Any) -> Call:
        call: Call = original
        for wrapper in self._wrappers:
            call = wrapper(call)
        return call

    def _call_root(self, call: Call, module: Any, *args: Any, **named: Any) -> Any:
        local = self._local
        if not module.training and self._recorder.evaluates:
            self._recorder.at_evaluation_with_gradients()
        local.inside = True
        try:
            output = call(module, *args, **named)
        finally:
            local.inside = False
        if self._recorder.by_updates and args:
            self.last_samples = first_dimension(args[0]) or self.last_samples
        if self._updates < _UPDATES_TO_LOOK:
            self._endings.setdefault(type(module), []).append(last_operation(output))
            self._autocast = self._autocast or autocast_is_on(self._torch)
        return output

    def _describe(self, cls: type, found: Sequence[Any]) -> bool:
        """The roots of one class as one: a script may have several of it. True: compiled."""
        nn = self._torch.nn
        parts = [part for module in found for part in module.modules()]
        convolutions = [m for m in parts if isinstance(m, nn.Conv2d)]
        random_layers = [m for m in parts if isinstance(m, nn.modules.dropout._DropoutNd)]
        norms = [m for m in parts if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        compiled = any(
            hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None
            for m in found
        )
        low = (self._torch.bfloat16, self._torch.float16)
        self._recorder.emit(
            "root",
            class_name=class_name(cls),
            parameters=sum(p.numel() for module in found for p in module.parameters()),
            calls_per_update=self._calls.get(cls, 0) / self._updates,
            convolutions=len(convolutions),
            grouped_convolutions=sum(1 for m in convolutions if m.groups > 1),
            random_layers=any(m.p > 0 for m in random_layers),
            batch_norms=len(norms),
            compiled=compiled,
            last_operations=sorted(set(self._endings.get(cls, []))),
            autocast=self._autocast or any(p.dtype in low for m in found for p in m.parameters()),
            data_parallel=issubclass(cls, nn.DataParallel),
        )
        return compiled


_watches: weakref.WeakKeyDictionary[Recorder, Roots] = weakref.WeakKeyDictionary()


def watch(torch: Any, recorder: Recorder, patches: Patches, known: Sequence[str]) -> Roots:
    """The one watch over this process's roots; techniques and probe share it."""
    if recorder in _watches:
        return _watches[recorder]
    roots = _watches[recorder] = Roots(torch, recorder, known)

    def watched(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            original(self, *args, **named)
            if not recorder.off:
                roots.optimizer_was_made(self)

        return __init__

    def noted(original: Any) -> Any:
        def compile(*args: Any, **named: Any) -> Any:
            roots.compiles = True
            return original(*args, **named)

        return compile

    def entered(original: Any) -> Any:
        def __enter__(self: Any) -> Any:
            context = original(self)
            # Also within a model's own forward, or a trainer's.
            if not roots.finds_autocast and torch.is_grad_enabled() and autocast_is_on(torch):
                roots.finds_autocast = True
                recorder.emit("already_on", idea="mixed_precision")
            return context

        return __enter__

    patches.replace(torch.optim.Optimizer, "__init__", watched)
    patches.replace(torch, "compile", noted)
    if not known:
        patches.replace(torch.autocast, "__enter__", entered)
    return roots


def parameters_alive(torch: Any) -> List[Any]:
    """Every parameter of this process, whoever owns it."""
    # By type, not isinstance: lazy objects answer `__class__` with an import.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Parameter)]


def class_name(cls: type) -> str:
    """`module:QualifiedName`, which a later run can find again."""
    return f"{cls.__module__}:{cls.__qualname__}"


def last_operation(output: Any) -> str:
    """The autograd name of a root's last operation, past mere views and casts."""
    node = getattr(first_tensor(output), "grad_fn", None)
    while node is not None:
        name = type(node).__name__
        if not name.startswith(("View", "Squeeze", "ToCopy", "Reshape", "Unsafe", "Select")):
            return str(name)
        node = node.next_functions[0][0] if node.next_functions else None
    return ""


def first_tensor(output: Any) -> Any:
    """The first tensor of an output: itself, or the first in a tuple, list or dict."""
    while output is not None and not hasattr(output, "grad_fn"):
        if isinstance(output, dict):
            output = next(iter(output.values()), None)
        elif isinstance(output, (tuple, list)) and output:
            output = output[0]
        else:
            return None
    return output


def autocast_is_on(torch: Any) -> bool:
    """Whether the script itself runs under autocast here, on the CPU or a GPU."""
    try:
        return any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    except TypeError:  # before torch 2.4 the question takes no device
        return bool(torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled())


def autocast_dtype(torch: Any, device: str) -> Any:
    """What autocast computes in on `device`; None before torch 2.4, which cannot be asked."""
    ask = getattr(torch, "get_autocast_dtype", None)
    return ask(device) if ask is not None else None
