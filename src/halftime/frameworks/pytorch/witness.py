"""What the script is handed, and what it makes of it: the evidence of the proofs (§5)."""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from collections import deque
from typing import Any, Dict, List, Mapping

from ...agent.imports import call_after_import
from ...agent.patches import Patches
from . import roots
from .batches import bytes_of, digest_of

_LINE_BATCHES = 200
_MOST_COORDINATES = 1_000_000
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
             "feature_alpha_dropout")  # fmt: skip


def install(torch: Any, settings: Mapping[str, Any], patches: Patches, loaders: Any) -> None:
    """Write the digests of batches, or the gradients of the first updates.

    settings: {"batches": bool, "cycle": batches after which the sampler starts again, or None,
    "gradients": number of updates at the same weights, or 0}. Untimed runs only.
    """
    if settings["batches"]:
        _digest_batches(settings, patches)
    if settings["gradients"]:
        _draw_alike(torch, patches)
        _keep_gradients(torch, settings["gradients"], patches)
        _note_gradients_without_an_optimizer(torch, settings["gradients"], patches)


def _digest_batches(settings: Mapping[str, Any], patches: Patches) -> None:
    module = importlib.import_module("torch.utils.data.dataloader")
    recorder = patches.recorder
    lines: List[Any] = []

    def cycled(original: Any) -> Any:
        def _next_index(self: Any) -> Any:
            state = _state_of(self)
            cycle = settings["cycle"]
            training = self.__dict__.get("_halftime_ordinal") == patches.training_loader
            if cycle and training and len(state["first"]) >= cycle:
                # The first samples again, so that what is stored is also served.
                index = state["first"][state["turn"] % cycle]
                state["turn"] += 1
            else:
                index = original(self)
                if cycle and training:
                    state["first"].append(index)
            state["indices"].append(_digest_of_indices(index))
            return index

        return _next_index

    def digested(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            batch = original(self)
            indices = _state_of(self)["indices"].popleft()
            lines.append((self.__dict__.get("_halftime_ordinal"), indices, digest_of(batch)))
            if len(lines) >= _LINE_BATCHES:
                write()
            return batch

        return __next__

    def begun_anew(original: Any) -> Any:
        def _reset(self: Any, *args: Any, **named: Any) -> Any:
            # Of persistent workers one iterator goes through all passes, also those left early.
            self.__dict__.pop("_halftime_witness", None)
            return original(self, *args, **named)

        return _reset

    def write() -> None:
        recorder.emit("batches", digests=list(lines))
        lines.clear()

    patches.replace(module._BaseDataLoaderIter, "_reset", begun_anew)
    patches.replace(module._BaseDataLoaderIter, "_next_index", cycled)
    patches.replace(module._BaseDataLoaderIter, "__next__", digested)
    patches.at_exit(write)


def _state_of(iterator: Any) -> Dict[str, Any]:
    state: Dict[str, Any] = iterator.__dict__.setdefault(
        "_halftime_witness", {"indices": deque(), "first": [], "turn": 0}
    )
    return state


def _digest_of_indices(index: Any) -> int:
    if hasattr(index, "tolist"):
        index = index.tolist()
    return zlib.crc32(repr(index).encode())


def _note_gradients_without_an_optimizer(torch: Any, most: int, patches: Patches) -> None:
    """Note what has a gradient where the script moves its weights itself.

    Its weights cannot be put back from outside, so the gradients are not kept.
    """
    optimizers, noted = [0], [0]

    def made(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            optimizers[0] += 1
            original(self, *args, **named)

        return __init__

    def followed(original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **named: Any) -> Any:
            result = original(tensors, *args, **named)
            recorder = patches.recorder
            by_keras = recorder.fetches_inside  # which has a witness of its own
            if not optimizers[0] and noted[0] < most and not recorder.off and not by_keras:
                noted[0] += 1
                with torch.no_grad():
                    parameters = roots.parameters_alive(torch)
                    gradients = [p.grad for p in parameters if p.grad is not None]
                    squares = (_dense(g).double().pow(2).sum() for g in gradients)
                    norm = sum(map(float, squares)) ** 0.5
                recorder.emit(
                    "gradients",
                    with_gradient=len(gradients),
                    parameters=len(parameters),
                    update_norm=norm,
                )
            return result

        return backward

    patches.replace(torch.optim.Optimizer, "__init__", made)
    patches.replace(torch.autograd, "backward", followed)


def _draw_alike(torch: Any, patches: Patches) -> None:
    """Leave dropout out, and let a compiled model draw as an eager one does.

    Kernels and precisions draw other numbers from the same seed, whose difference would be taken
    for an error of the gradients.
    """

    def as_eager(config: Any) -> None:
        config.fallback_random = True

    def left_out(original: Any) -> Any:
        def dropout(input: Any, *args: Any, **named: Any) -> Any:
            return input

        return dropout

    def attending(original: Any) -> Any:
        def scaled_dot_product_attention(
            query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
            *args: Any, **named: Any,
        ) -> Any:  # fmt: skip
            return original(query, key, value, attn_mask, 0.0, *args, **named)

        return scaled_dot_product_attention

    functional = torch.nn.functional
    for name in _DROPOUTS:
        patches.replace(functional, name, left_out)
    patches.replace(functional, "scaled_dot_product_attention", attending)
    call_after_import("torch._inductor.config", as_eager)


def _keep_gradients(torch: Any, updates: int, patches: Patches) -> None:
    """Write the gradients of the first updates, all taken at the same weights.

    A file of this process gets, for each update of the first optimizer, the same at most 1,000,000
    coordinates as float32. The weights are put back after each update.
    """
    module = importlib.import_module("torch.optim.optimizer")
    recorder = patches.recorder
    state: Dict[str, Any] = {"leader": None, "updates": 0, "weights": None}
    name = f"gradients-{os.getpid()}.f32"
    path = os.path.join(recorder.folder, name)

    def parameters(optimizer: Any) -> List[Any]:
        return [p for group in optimizer.param_groups for p in group["params"]]

    def before(optimizer: Any, args: Any, named: Any) -> None:
        state["leader"] = state["leader"] or id(optimizer)
        if recorder.off or state["leader"] != id(optimizer) or state["updates"] >= updates:
            return
        with torch.no_grad():
            trained = parameters(optimizer)
            gradients = [_dense(p.grad.detach()) for p in trained if p.grad is not None]
            flat = torch.cat([g.float().cpu().reshape(-1) for g in gradients] or [torch.zeros(0)])
            stride = -(-max(flat.numel(), 1) // _MOST_COORDINATES)
            with open(path, "ab") as file:
                file.write(bytes_of(flat[::stride].clone()))
            # On the host: a GPU may have no room for them twice.
            state["weights"] = [p.detach().to("cpu", copy=True) for p in trained]

    def after(optimizer: Any, args: Any, named: Any) -> None:
        if recorder.off or state["weights"] is None or state["leader"] != id(optimizer):
            return
        with torch.no_grad():
            trained = parameters(optimizer)
            norm = sum(
                float((p.detach().cpu() - w).double().pow(2).sum())
                for p, w in zip(trained, state["weights"])
            )
            recorder.emit(
                "gradients",
                with_gradient=sum(1 for p in trained if p.grad is not None),
                parameters=len(trained),
                update_norm=norm**0.5,
                file=name,
            )
            for p, weight in zip(trained, state["weights"]):
                p.copy_(weight)
        state["weights"] = None
        state["updates"] += 1

    module.register_optimizer_step_pre_hook(before)
    module.register_optimizer_step_post_hook(after)


def _dense(gradient: Any) -> Any:
    """A gradient with all its zeros: that of an embedding may be sparse."""
    return gradient.to_dense() if gradient.layout != sys.modules["torch"].strided else gradient
