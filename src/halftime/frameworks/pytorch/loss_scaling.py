"""A gradient scaler around a loop that has none: what float16 needs (see mixed_precision).

The loss is scaled before its backward pass, gradients are unscaled before they are clipped or used,
and an update whose gradients overflowed is left out, by torch.amp.GradScaler itself. Left alone: a
script with a scaler of its own, with several optimizers, or with a closure.
Source: arXiv:1710.03740; torch.amp documentation, Gradient scaling.
"""

from __future__ import annotations

import functools
from typing import Any

from ...agent.patches import Patches
from .clipping import around_clipping


def install(torch: Any, technique: str, patches: Patches) -> Scaling:
    """Scale every loss, and step through the scaler."""
    scaling = Scaling(torch, technique, patches)

    def scaled(original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **named: Any) -> Any:
            return original(scaling.scale(tensors), *args, **named)

        return backward

    def made(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            original(self, *args, **named)
            scaling.watch(self)

        return __init__

    def clipped(original: Any) -> Any:
        def clip(*args: Any, **named: Any) -> Any:
            scaling.unscale()
            return original(*args, **named)

        return clip

    def own(original: Any) -> Any:
        def scale(self: Any, outputs: Any) -> Any:
            if self is not scaling.scaler:
                scaling.refuse("the script has a gradient scaler of its own")
            return original(self, outputs)

        return scale

    patches.replace(torch.autograd, "backward", scaled)
    patches.replace(torch.optim.Optimizer, "__init__", made)
    around_clipping(torch, patches, clipped)
    patches.replace(torch.amp.GradScaler, "scale", own)
    return scaling


class Scaling:
    """One scaler for the one optimizer of a script."""

    def __init__(self, torch: Any, technique: str, patches: Patches) -> None:
        self.scaler: Any = None
        self.refused = False
        self._torch = torch
        self._technique = technique
        self._patches = patches
        self._optimizer: Any = None
        self._pending = self._unscaled = self._stepping = False
        self._updates = 0

    def refuse(self, reason: str) -> None:
        """Leave the script alone from here on."""
        if not self.refused:
            self.refused = True
            self._patches.refuse(self._technique, reason)

    def scale(self, loss: Any) -> Any:
        """The loss as it is to be differentiated."""
        torch = self._torch
        if self.refused or self._optimizer is None:
            return loss
        if not torch.is_tensor(loss) or loss.numel() != 1:
            self.refuse("the backward pass does not start from one number")
            return loss
        if self.scaler is None:
            self.scaler = torch.amp.GradScaler(loss.device.type)
        self._pending = True
        return self.scaler.scale(loss)

    def unscale(self) -> None:
        """Before the script looks at its gradients."""
        if self._pending and not self._unscaled:
            self._unscaled = True
            self.scaler.unscale_(self._optimizer)

    def watch(self, optimizer: Any) -> None:
        """Step through the scaler, where this is the only optimizer."""
        if self._optimizer is not None:
            self.refuse("several optimizers would share one scale")
            return
        self._optimizer = optimizer
        cls: Any = type(optimizer)
        original = cls.step

        @functools.wraps(original)
        def step(this: Any, closure: Any = None, **named: Any) -> Any:
            if closure is not None:
                self.refuse("the optimizer computes its loss in a closure")
            if self.refused or self._stepping or not self._pending:
                return original(this, closure, **named)
            return self._step(this, named)

        cls.step = step

    def _step(self, optimizer: Any, named: Any) -> Any:
        self._stepping = True
        try:
            result = self.scaler.step(optimizer, **named)
            self.scaler.update()
        finally:
            self._stepping = self._pending = self._unscaled = False
        self._updates += 1
        if self._updates == 1:
            self._patches.took_effect(self._technique, loss_scale=self.scaler.get_scale())
        return result
