"""Seeds in trials: a base seed at import, and an offset on what the script sets by itself."""

from __future__ import annotations

import random
from typing import Any

from .imports import call_after_import
from .patches import Patches

_MODULUS = 2**32
_NAMES = ("seed", "a")


def offset_global_seeds(seed: dict[str, int], patches: Patches) -> None:
    """Shift the global random streams of `random`, numpy, torch and TensorFlow.

    Never a Generator of the script's own; and spawned processes begin with numbers of their own, as
    without us. seed: {"base": int, "offset": int}.
    Source: measurement.md §5, Seeds.
    """
    offset = seed["offset"]
    start_value = (seed["base"] + offset) % _MODULUS

    def moved_by_offset(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value + offset) % _MODULUS
        return value

    def shifted(original: Any) -> Any:
        def set_seed(*args: Any, **named: Any) -> Any:
            moved = {name: moved_by_offset(named[name]) for name in _NAMES if name in named}
            return original(*map(moved_by_offset, args[:1]), *args[1:], **{**named, **moved})

        return set_seed

    def begin(set_seed: Any) -> None:
        if not patches.is_spawned:
            set_seed(start_value)

    def on_numpy(numpy: Any) -> None:
        begin(numpy.random.seed)
        patches.replace(numpy.random, "seed", shifted)

    def on_torch(torch: Any) -> None:
        begin(torch.manual_seed)
        patches.replace(torch, "manual_seed", shifted)
        torch.random.manual_seed = torch.manual_seed

    def on_tensorflow(tensorflow: Any) -> None:
        begin(tensorflow.random.set_seed)
        patches.replace(tensorflow.random, "set_seed", shifted)

    begin(random.seed)
    patches.replace(random, "seed", shifted)
    call_after_import("numpy", on_numpy)
    call_after_import("torch", on_torch)
    call_after_import("tensorflow", on_tensorflow)
