"""Where a JAX script waits for the device, or differentiates outside a compiled program: advice.

Each line is told with how often a step it does so. Source: JAX documentation, Asynchronous
dispatch, and Just-in-time compilation.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any

from ...agent.noted import Noted
from ...agent.patches import Patches
from ...agent.places import calls_itself
from ...agent.recorder import Recorder

_READS = {"__float__": "float()", "__int__": "int()", "__bool__": "a condition",
          "item": ".item()", "tolist": ".tolist()", "__array__": "numpy",
          "block_until_ready": ".block_until_ready()"}  # fmt: skip
_WAITS = ("block_until_ready", "device_get")
_GRADIENTS = ("grad", "value_and_grad")


def observe(jax: Any, recorder: Recorder, patches: Patches) -> None:
    """Note each line that does so in every step; too dear for a run that is timed."""
    lines = Noted(recorder)
    of_thread = threading.local()

    def waiting(said: str, is_ours: Any) -> Any:
        def make(original: Any) -> Any:
            def wait(*args: Any, **named: Any) -> Any:
                # One way of reading may be made of another.
                if getattr(of_thread, "inside", False):
                    return original(*args, **named)
                if is_ours():
                    lines.note(f"the host waits for the device in {said}", True)
                of_thread.inside = True
                try:
                    return original(*args, **named)
                finally:
                    of_thread.inside = False

            return wait

        return make

    def of_gradients(original: Any) -> Any:
        def grad(*args: Any, **named: Any) -> Any:
            function = original(*args, **named)

            @functools.wraps(function)
            def gradients(*given: Any, **more: Any) -> Any:
                leaves = jax.tree_util.tree_leaves((given, more))
                if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                    lines.note("gradients are taken outside jax.jit", True)
                return function(*given, **more)

            return gradients

        return grad

    # To make an array here would start the device before the script says which.
    array = getattr(sys.modules.get("jax._src.array"), "ArrayImpl", None)
    for name, said in _READS.items():
        if hasattr(array, name):
            patches.replace(array, name, waiting(said, lambda: True))
    for name in _WAITS:
        patches.replace(jax, name, waiting(f"jax.{name}", calls_itself))
    for name in _GRADIENTS:
        patches.replace(jax, name, of_gradients)
    patches.at_exit(lines.report)
