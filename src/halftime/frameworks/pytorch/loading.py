"""Arguments of the script's DataLoaders, changed before they are built."""

from __future__ import annotations

from typing import Any, Callable, Collection, Dict, Mapping, Optional, Tuple

from ...agent.patches import Patches


def change_arguments(
    loader_module: Any,
    patches: Patches,
    change: Callable[[int, Dict[str, Any]], None],
) -> None:
    """Let `change(ordinal, arguments)` edit the keyword arguments of each new DataLoader.

    Ordinals are those that the probe's Loaders gave at their making, as in the observed run.
    """

    def changed(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            arguments = arguments_of(args, named)
            change(self.__dict__["_halftime_ordinal"], arguments)
            original(self, **arguments)

        return __init__

    patches.replace(loader_module.DataLoader, "__init__", changed)


def arguments_of(args: Tuple[Any, ...], named: Mapping[str, Any]) -> Dict[str, Any]:
    """What a DataLoader is made with, by name."""
    return {**dict(zip(_POSITIONAL, args)), **named}


def set_workers(arguments: Dict[str, Any], count: int) -> None:
    """Give these DataLoader arguments `count` workers and what must go with it."""
    arguments["num_workers"] = count
    if count == 0:
        for name in ("prefetch_factor", "multiprocessing_context", "timeout"):
            arguments.pop(name, None)
        arguments["persistent_workers"] = False


def make_serial(loader_module: Any, ordinals: Collection[int], patches: Patches) -> None:
    """Load without workers where what they did is no longer needed."""
    if not ordinals:
        return

    def change(ordinal: int, arguments: Dict[str, Any]) -> None:
        if ordinal in ordinals:
            set_workers(arguments, 0)

    change_arguments(loader_module, patches, change)


_POSITIONAL = ("dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "num_workers",
               "collate_fn", "pin_memory", "drop_last", "timeout", "worker_init_fn",
               "multiprocessing_context", "generator")  # fmt: skip


def number_loader(data: Any, number: int) -> None:
    """Give what a trainer is fed the trainer's own number, where it is a DataLoader."""
    if "_halftime_ordinal" in getattr(data, "__dict__", ()):
        data.__dict__["_halftime_ordinal"] = number


def length_of(sized: Any) -> Optional[int]:
    """The length of a loader or dataset; None where it has none."""
    try:
        return len(sized)
    except Exception:  # the script's own __len__: whatever it raises means "not known"
        return None
