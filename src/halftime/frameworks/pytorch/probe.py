"""Observes a PyTorch script: batches, roots, losses, updates, evaluations, checkpoints."""

from __future__ import annotations

import importlib
import os
import sys
import weakref
import zlib
from typing import Any, Dict, Mapping, Optional, Set, Tuple

from ...agent.patches import Patches
from ...agent.places import places_of_callers
from ...agent.recorder import OTHERS, WITHOUT_GRADIENTS, Recorder, clock
from .. import techniques_at
from . import ablation, brakes, device_alone, evaluation, roots, transfer, witness
from .batches import bytes_of, first_dimension, tensors_in
from .loading import arguments_of, length_of
from .phases import phases_for

_SAVED_DEPTH = 3
_AFTER_PIPELINES = 1000
_MOST_SCALED = 8


def attach(torch: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]) -> None:
    """Hook in from the inside out: techniques first, so that our clocks time what they do."""
    loaders = Loaders(recorder)
    techniques = techniques_at("torch", orders["framework"], orders["fed_by"])
    patches.switch_on(orders, techniques, torch, roots=orders["roots"])
    if orders["witness"]:
        witness.install(torch, orders["witness"], patches, loaders)
    if orders["ablation"]:
        ablation.install(torch, orders["ablation"], patches, loaders)
    _time_loaders(torch, recorder, patches, loaders, orders["fingerprint_evaluation"])
    _time_updates(torch, recorder, patches, orders)
    evaluation.install(torch, recorder, patches)
    brakes.observe(torch, recorder, patches, syncs=orders["looks_closely"])
    if orders["looks_closely"]:
        transfer.observe(torch, patches, orders["gpus"])
    if orders["traces_device"]:
        device_alone.install(torch, patches)  # after the hook that counts steps
    if orders["in_trial"]:
        _note_checkpoints(torch, recorder, patches)


class Loaders:
    """The script's DataLoaders, numbered in the order of their making.

    One that is made anew in each epoch, at the same place and of the same kind, keeps its number.
    The number is given before the loader is made, so that techniques know whose arguments they
    change.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._described: Set[int] = set()
        self._numbers: Dict[Tuple[Any, ...], int] = {}

    def makes_one(self, loader: Any, arguments: Mapping[str, Any]) -> None:
        """Give a new DataLoader its number, and remember where the script made it."""
        places, dataset = places_of_callers(2), arguments.get("dataset")
        kind = (type(dataset), length_of(dataset), *map(arguments.get, ("batch_size", "shuffle")))
        given = arguments.get("batch_sampler")
        # As accelerate makes its own, of a batch sampler alone: how it orders and how many.
        inner = type(getattr(given, "sampler", None)), getattr(given, "batch_size", None)
        key = (*places, *kind, type(arguments.get("sampler")), type(given), *inner)
        if key not in self._numbers:
            # A trainer of Keras' numbers what it is fed itself, and so do pipelines of tf.data.
            others = {"keras", "tensorflow"} & set(sys.modules)
            first = OTHERS + _AFTER_PIPELINES if others else 0
            self._numbers[key] = len(self._numbers) + first
        number = self._numbers[key]
        loader.__dict__.update(
            _halftime_ordinal=number, _halftime_made_as=number, _halftime_place=places[0]
        )

    def ordinal(self, loader: Any) -> int:
        """The number of a DataLoader; −2 for one whose making nobody saw."""
        number: int = loader.__dict__.get("_halftime_ordinal", -2)
        return number

    def describe(self, torch: Any, loader: Any) -> None:
        """Write the facts of a loader, once, when it is first iterated."""
        ordinal = self.ordinal(loader)
        place = loader.__dict__.get("_halftime_place")
        if place is None or ordinal in self._described:
            return
        self._described.add(ordinal)
        data = torch.utils.data
        iterable = isinstance(loader.dataset, data.IterableDataset)
        samplers = (data.RandomSampler, data.SequentialSampler)
        self._recorder.emit(
            "loader",
            ordinal=ordinal,
            made_as=loader.__dict__["_halftime_made_as"],
            dataset=type(loader.dataset).__qualname__,
            dataset_length=length_of(loader.dataset),
            batch_size=loader.batch_size,
            batches=length_of(loader),
            workers=loader.num_workers,
            iterable=iterable,
            shuffles=not isinstance(loader.sampler, data.SequentialSampler) and not iterable,
            default_collate=loader.collate_fn is data.default_collate,
            torch_sampler=type(loader.sampler) in samplers
            and type(loader.batch_sampler) is data.BatchSampler
            and loader.batch_sampler.sampler is loader.sampler,
            pinned=bool(loader.pin_memory),
            place=place,
            forms_batches=loader._auto_collation,
        )


def _time_loaders(
    torch: Any, recorder: Recorder, patches: Patches, loaders: Loaders, fingerprint: bool
) -> None:
    module = importlib.import_module("torch.utils.data.dataloader")

    def numbered(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            loaders.makes_one(self, arguments_of(args, named))
            original(self, *args, **named)

        return __init__

    def described(original: Any) -> Any:
        def __iter__(self: Any) -> Any:
            loaders.describe(torch, self)
            return original(self)

        return __iter__

    def marked(original: Any) -> Any:
        def __init__(self: Any, loader: Any) -> None:
            self._halftime_ordinal = loaders.ordinal(loader)
            self._halftime_size = _size_of_first(loader)
            recorder.iterates(self._halftime_ordinal)
            original(self, loader)

        return __init__

    def timed(original: Any) -> Any:
        requested, received, exhausted = recorder.requested, recorder.received, recorder.exhausted
        with_gradients: Set[int] = set()

        def __next__(self: Any) -> Any:
            if recorder.off or recorder.fetches_inside:
                return original(self)
            ordinal = self.__dict__.get("_halftime_ordinal", -2)
            if torch.is_grad_enabled():
                with_gradients.add(ordinal)
            elif ordinal in with_gradients and recorder.trains_from(ordinal):
                ordinal = WITHOUT_GRADIENTS - ordinal  # an evaluation on what is trained on
            asked = clock()
            requested(ordinal, asked)
            try:
                batch = original(self)
            except StopIteration:
                exhausted(ordinal, clock())
                raise
            samples, size = first_dimension(batch), self.__dict__.get("_halftime_size")
            if size == samples:
                self._halftime_size = None
            elif size is not None:
                samples = size  # the first dimension is time, or a list of what a sample holds
            received(ordinal, asked, clock(), samples)
            return batch

        return __next__

    patches.replace(module.DataLoader, "__init__", numbered)
    patches.replace(module.DataLoader, "__iter__", described)

    def marked_anew(original: Any) -> Any:
        def _reset(self: Any, loader: Any, *args: Any, **named: Any) -> Any:
            self._halftime_ordinal = loaders.ordinal(loader)  # a trainer may have numbered it since
            recorder.iterates(self._halftime_ordinal)
            return original(self, loader, *args, **named)

        return _reset

    patches.replace(module._BaseDataLoaderIter, "__init__", marked)
    patches.replace(module._BaseDataLoaderIter, "_reset", marked_anew)
    if fingerprint:
        _fingerprint_evaluation(module, recorder, patches)
    patches.replace(module._BaseDataLoaderIter, "__next__", timed)


def _size_of_first(loader: Any) -> Optional[int]:
    """How many samples the first batch of a pass holds; None where nobody knows."""
    if not loader._auto_collation or loader.batch_size is None:
        return None
    length = length_of(loader.sampler) if loader._dataset_kind == 0 else None
    return int(loader.batch_size if length is None else min(loader.batch_size, length))


def _fingerprint_evaluation(module: Any, recorder: Recorder, patches: Patches) -> None:
    """Sum up every held-out row, whatever its order. Source: measurement.md §5, Seeds."""
    sums: Dict[int, int] = {}

    def summed(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            batch = original(self)
            ordinal = self.__dict__.get("_halftime_ordinal", -2)
            sums[ordinal] = sums.get(ordinal, 0) + sum(
                zlib.crc32(bytes_of(row))
                for tensor in tensors_in(batch)
                for row in (tensor if tensor.ndim else [tensor])
            )
            return batch

        return __next__

    patches.replace(module._BaseDataLoaderIter, "__next__", summed)
    patches.at_exit(
        lambda: recorder.emit("fingerprints", loaders={str(k): f"{v:x}" for k, v in sums.items()})
    )


def _time_updates(
    torch: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]
) -> None:
    """Forward, backward and optimizer of each step, its losses, and what is trained."""
    optimizer_module = importlib.import_module("torch.optim.optimizer")
    phases = phases_for(torch, recorder)
    watch = roots.watch(torch, recorder, patches, orders["roots"])
    watch.around(phases.forward)
    unscaled: Dict[int, Tuple[Any, Any]] = {}
    described: set[int] = set()

    def remembering(original: Any) -> Any:
        def scale(self: Any, outputs: Any) -> Any:
            scaled = original(self, outputs)
            if torch.is_tensor(outputs):
                if len(unscaled) >= _MOST_SCALED:
                    unscaled.clear()
                unscaled[id(scaled)] = weakref.ref(scaled), outputs.detach()
            return scaled

        return scale

    def timed_backward(original: Any) -> Any:
        step = order = -1

        def backward(tensors: Any, *args: Any, **named: Any) -> Any:
            nonlocal step, order
            if recorder.off or recorder.fetches_inside:
                return original(tensors, *args, **named)
            loss = tensors[0] if type(tensors) in (list, tuple) and tensors else tensors
            if unscaled:
                scaled, true_loss = unscaled.pop(id(loss), (None, None))
                # The number of a tensor that is gone may be another's now.
                loss = true_loss if scaled is not None and scaled() is loss else loss
            order = order + 1 if step == recorder.steps else 0
            step = recorder.steps
            phases.loss(step, order, loss)
            result = phases.backward(original, tensors, args, named)
            if not watch.has_optimizer:
                # The script moves its weights itself, after each backward.
                if not described:
                    described.add(0)
                    _describe_training(torch, recorder, "", {}, getattr(loss, "device", None))
                    watch.backward_without_an_optimizer()
                elif watch.still_looks:
                    watch.after_update()
                phases.updated()
                recorder.updated(0, clock(), watch.last_samples)
            return result

        return backward

    def before_update(optimizer: Any, args: Any, named: Any) -> None:
        phases.before_update()

    def after_update(optimizer: Any, args: Any, named: Any) -> None:
        if recorder.off:
            return
        phases.after_update()
        if id(optimizer) not in described:
            described.add(id(optimizer))
            group = optimizer.param_groups[0]
            device = next((p.device for p in group["params"]), None)
            _describe_training(torch, recorder, type(optimizer).__name__, group, device)
        recorder.updated(id(optimizer), clock(), watch.last_samples)
        if watch.still_looks:
            watch.after_update()

    patches.replace(torch.autograd, "backward", timed_backward)
    scaler = getattr(getattr(torch, "amp", None), "GradScaler", None)
    if scaler is not None:
        patches.replace(scaler, "scale", remembering)
    optimizer_module.register_optimizer_step_pre_hook(before_update)
    optimizer_module.register_optimizer_step_post_hook(after_update)


def _describe_training(
    torch: Any, recorder: Recorder, optimizer: str, group: Mapping[str, Any], device: Any
) -> None:
    kind = "cpu" if device is None else device.type
    recorder.emit(
        "optimizer",
        framework="torch",
        name=optimizer,
        fused=bool(group.get("fused")),
        device=kind,
        device_name=torch.cuda.get_device_name(device) if kind == "cuda" else "",
        # Of the GPU in use, which need not be the driver's first.
        bfloat16=torch.cuda.get_device_capability(device)[0] >= 8 if kind == "cuda" else None,
        threads=torch.get_num_threads(),
        cudnn_benchmark=bool(torch.backends.cudnn.benchmark),
        tf32=_allows_tf32(torch),
        omp_threads=os.environ.get("OMP_NUM_THREADS"),
    )


def _allows_tf32(torch: Any) -> bool:
    try:
        return bool(torch.backends.cuda.matmul.allow_tf32)
    except Exception:  # a script that sets the new flags may not read the old one
        return False


def _note_checkpoints(torch: Any, recorder: Recorder, patches: Patches) -> None:
    def noted(original: Any) -> Any:
        def save(*args: Any, **named: Any) -> Any:
            start = clock()
            result = original(*args, **named)
            keys = sorted(_keys(named["obj"] if "obj" in named else args[0]))
            recorder.emit(
                "checkpoint",
                keys=f"{len(keys)} keys, {zlib.crc32(' '.join(keys).encode()):08x}",
                start=start,
                end=clock(),
            )
            return result

        return save

    patches.replace(torch, "save", noted)
    serialization = sys.modules.get("torch.serialization")
    if serialization is not None:
        serialization.save = torch.save  # type: ignore[attr-defined]  # a module as an object


def _keys(saved: Any, above: str = "", depth: int = 0) -> list[str]:
    if isinstance(saved, dict) and depth <= _SAVED_DEPTH:
        return [
            key
            for name, value in saved.items()
            for key in _keys(value, f"{above}/{name}", depth + 1)
        ]
    shape = getattr(saved, "shape", None)
    return [above if shape is None else f"{above}{tuple(shape)}"]
