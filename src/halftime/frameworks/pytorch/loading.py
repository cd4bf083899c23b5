"""Arguments of the script's DataLoaders, changed before they are built."""

from __future__ import annotations

from typing import Any, Callable, Collection, Dict

from ...agent.patches import Patches


def change_arguments(
    loader_module: Any,
    patches: Patches,
    change: Callable[[int, Dict[str, Any]], None],
) -> None:
    """Let `change(ordinal, arguments)` edit the keyword arguments of each new DataLoader.

    Ordinals count DataLoaders in the order of their making, as in the observed run.
    """
    made = [0]

    def changed(original: Any) -> Any:
        def __init__(self: Any, dataset: Any, *args: Any, **named: Any) -> None:
            positional = dict(zip(_POSITIONAL, args))
            arguments = {**positional, **named}
            change(made[0], arguments)
            made[0] += 1
            original(self, dataset, **arguments)

        return __init__

    patches.replace(loader_module.DataLoader, "__init__", changed)


def set_workers(arguments: Dict[str, Any], count: int) -> None:
    """Give these DataLoader arguments `count` workers and what must go with it."""
    arguments["num_workers"] = count
    if count == 0:
        for name in ("prefetch_factor", "multiprocessing_context", "timeout"):
            arguments.pop(name, None)
        arguments["persistent_workers"] = False
    else:
        arguments["persistent_workers"] = True


def make_serial(loader_module: Any, ordinals: Collection[int], patches: Patches) -> None:
    """Load without workers where what they did is no longer needed."""
    if not ordinals:
        return

    def change(ordinal: int, arguments: Dict[str, Any]) -> None:
        if ordinal in ordinals:
            set_workers(arguments, 0)

    change_arguments(loader_module, patches, change)


_POSITIONAL = ("batch_size", "shuffle", "sampler", "batch_sampler", "num_workers", "collate_fn",
               "pin_memory", "drop_last", "timeout", "worker_init_fn", "multiprocessing_context",
               "generator")  # fmt: skip
