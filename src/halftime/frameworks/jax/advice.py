"""Where a JAX script waits for the device, or has it work without a compiled program: advice.

Each line is told with how often a step it does so. Source: JAX documentation, Asynchronous
dispatch, and Just-in-time compilation.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from ...agent.noted import Noted
from ...agent.patches import Patches
from ...agent.places import calls_itself
from ...agent.recorder import Recorder

_READS = {"__float__": "float()", "__int__": "int()", "__bool__": "a condition",
          "item": ".item()", "tolist": ".tolist()", "__array__": "numpy"}  # fmt: skip
_WAITS = ("block_until_ready", "device_get")
_GRADIENTS = ("grad", "value_and_grad")


def observe(jax: Any, recorder: Recorder, patches: Patches) -> None:
    """Note each line that does so in every step; too dear for a run that is timed."""
    lines = Noted(recorder)

    def read(said: str) -> Any:
        def make(original: Any) -> Any:
            def waits(self: Any, *args: Any, **named: Any) -> Any:
                lines.note(f"the host waits for the device in {said}", True)
                return original(self, *args, **named)

            return waits

        return make

    def waited_for(said: str) -> Any:
        def make(original: Any) -> Any:
            def waits(*args: Any, **named: Any) -> Any:
                if calls_itself():
                    lines.note(f"the host waits for the device in {said}", True)
                return original(*args, **named)

            return waits

        return make

    def of_gradients(original: Any) -> Any:
        def grad(*args: Any, **named: Any) -> Any:
            function = original(*args, **named)

            @functools.wraps(function)
            def gradients(*given: Any, **more: Any) -> Any:
                # Within a jitted function they are traced once, and so in no step.
                lines.note("gradients outside jax.jit, one operation after the other", True)
                return function(*given, **more)

            return gradients

        return grad

    # To make an array here would start the device before the script says which.
    array = getattr(sys.modules.get("jax._src.array"), "ArrayImpl", None)
    for name, said in _READS.items():
        if hasattr(array, name):
            patches.replace(array, name, read(said))
    for name in _WAITS:
        patches.replace(jax, name, waited_for(f"jax.{name}"))
    for name in _GRADIENTS:
        patches.replace(jax, name, of_gradients)
    patches.at_exit(lines.report)
