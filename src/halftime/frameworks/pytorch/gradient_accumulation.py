"""Gradient accumulation: in a plain loop, or by the argument of a trainer that has one.

Changes: the loss is divided by n, and the optimizer steps and clears its gradients every n-th time;
what is left when the loader ends makes a last, smaller group. That is n times fewer updates on the
same samples: another training. Helps: where a batch of the wanted size does not fit in memory. It
is no speed-up at equal samples. Refused: a gradient scaler, clipping by hand, a scheduler that
steps within a group. Source: arXiv:1706.02677 on large batches; transformers#34191 on tokens.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, Mapping, Sequence
from weakref import WeakKeyDictionary

from ...agent.patches import Patches
from ...ideas import GRADIENT_ACCUMULATION as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_COUNT = 4
_TRAINERS_WITH_AN_ARGUMENT = ("lightning", "transformers")


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """Four batches an update; a search never tries it, since it is another training."""
    from ...records import Proposal, Switch

    trainer = {"trainer": facts.trainer} if facts.trainer in _TRAINERS_WITH_AN_ARGUMENT else {}
    switch = Switch(technique=IDEA.name, settings={"count": _COUNT, **trainer}, numerics="training")
    reason = "no speed-up at equal samples: fewer updates are another training"
    return [Proposal(switch=switch, reason=reason, worth_a_trial=False)]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Divide the loss, and let every n-th step through; or see that the trainer does."""
    if settings.get("trainer"):
        patches.at_exit(lambda: _look(settings["count"], patches))
        return
    hook_into(framework, Group(IDEA.name, settings["count"], patches), patches)


def _look(count: int, patches: Patches) -> None:
    """The trainer was told (see trainers.py): are there so many batches an update?"""
    steps, updates = patches.recorder.steps, patches.recorder.updates
    if updates and steps / updates > count / 2:
        patches.took_effect(IDEA.name, count=count)


def hook_into(torch: Any, group: Group, patches: Patches) -> None:
    """Let a group of batches decide on every backward, step and clearing of gradients."""
    loaders = importlib.import_module("torch.utils.data.dataloader")

    def weighted(original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **named: Any) -> Any:
            if group.refused or not torch.is_tensor(tensors) or tensors.numel() != 1:
                return original(tensors, *args, **named)
            return original(tensors * group.weigh(), *args, **named)

        return backward

    def made(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            original(self, *args, **named)
            group.watch(self)

        return __init__

    def flushed(original: Any) -> Any:
        def __next__(self: Any) -> Any:
            try:
                return original(self)
            except StopIteration:
                if torch.is_grad_enabled():
                    group.flush()
                raise

        return __next__

    def refusing(reason: str) -> Any:
        def make(original: Any) -> Any:
            def call(*args: Any, **named: Any) -> Any:
                group.refuse(reason)
                return original(*args, **named)

            return call

        return make

    def between(original: Any) -> Any:
        def step(self: Any, *args: Any, **named: Any) -> Any:
            if group.is_open:
                group.refuse("a scheduler steps with every batch")
            return original(self, *args, **named)

        return step

    def cleared(original: Any) -> Any:
        def zero_grad(self: Any, *args: Any, **named: Any) -> None:
            if not group.is_open:
                original(self, *args, **named)

        return zero_grad

    patches.replace(torch.autograd, "backward", weighted)
    patches.replace(torch.optim.Optimizer, "__init__", made)
    patches.replace(torch.optim.Optimizer, "zero_grad", cleared)
    patches.replace(torch.nn.Module, "zero_grad", cleared)
    patches.replace(loaders._BaseDataLoaderIter, "__next__", flushed)
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        patches.replace(torch.nn.utils, name, refusing("gradients are clipped by hand"))
    patches.replace(torch.amp.GradScaler, "scale", refusing("a gradient scaler is used"))
    patches.replace(torch.optim.lr_scheduler.LRScheduler, "step", between)


class Group:
    """The batches since the last update, of every optimizer.

    weight: of the loss of the batch at hand; all weights of a whole group add up to 1.
    """

    def __init__(self, technique: str, count: int, patches: Patches) -> None:
        self.count = count
        self.weight = 1 / count
        self.refused = False
        self._technique = technique
        self._patches = patches
        self._weighed = 0.0
        self._turns: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._steps: dict[type, Any] = {}

    @property
    def is_open(self) -> bool:
        """Whether gradients are held that no update has used."""
        return not self.refused and any(turn % self.count for turn in self._turns.values())

    def weigh(self) -> float:
        """The weight of this batch's loss."""
        self._weighed += self.weight
        return self.weight

    def refuse(self, reason: str) -> None:
        """Leave the script alone from here on."""
        if not self.refused:
            self.refused = True
            self._patches.refuse(self._technique, reason)

    def watch(self, optimizer: Any) -> None:
        """Let every n-th step of this optimizer through."""
        self._turns[optimizer] = 0
        cls: Any = type(optimizer)
        if cls in self._steps:
            return
        original = self._steps[cls] = cls.step

        @functools.wraps(original)
        def step(this: Any, closure: Any = None, **named: Any) -> Any:
            if closure is not None:
                self.refuse("the optimizer computes its loss in a closure")
            if self.refused:
                return original(this, closure, **named)
            self._turns[this] += 1
            if self._turns[this] % self.count:
                return None
            result = original(this, **named)
            self._weighed = 0.0
            self._patches.took_effect(self._technique, count=self.count)
            return result

        cls.step = step

    def flush(self) -> None:
        """Update with what is left of a group: the last one of an epoch may be smaller."""
        if self.refused or not self._weighed:
            return
        for optimizer, turn in list(self._turns.items()):
            if turn % self.count:
                # A smaller group weighs as much as a whole one.
                for parameter in (p for g in optimizer.param_groups for p in g["params"]):
                    if parameter.grad is not None:
                        parameter.grad.div_(self._weighed)
                self._steps[type(optimizer)](optimizer)
                self._turns[optimizer] = 0
        self._weighed = 0.0
