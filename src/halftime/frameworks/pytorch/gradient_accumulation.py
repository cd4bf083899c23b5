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
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

from ...agent.patches import Patches
from ...ideas import GRADIENT_ACCUMULATION as IDEA
from .clipping import around_clipping

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_COUNT = 4
_ROUNDING = 1e-6
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
                    group.flush(self)
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
    around_clipping(torch, patches, refusing("gradients are clipped by hand"))
    patches.replace(torch.amp.GradScaler, "scale", refusing("a gradient scaler is used"))
    patches.replace(torch.optim.lr_scheduler.LRScheduler, "step", between)


class Group:
    """The batches since the last update of the script's optimizer.

    weight: of the loss of the batch at hand. pieces: whether batches are pieces of one of the
    script's own, which `drop_last` drops whole.
    """

    def __init__(self, technique: str, count: int, patches: Patches, pieces: bool = False) -> None:
        self.count = count
        self.weight = 1 / count
        self.refused = False
        self._pieces = pieces
        self._technique = technique
        self._patches = patches
        self._weighed = self._at_hand = 0.0
        self._turns: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._steps: dict[type, Any] = {}

    @property
    def is_open(self) -> bool:
        """Whether gradients are held that no update has used."""
        return not self.refused and any(turn % self.count for turn in self._turns.values())

    def weigh(self) -> float:
        """The weight of a loss of this batch."""
        if self.is_open and not any(p.grad is not None for p in self._parameters()):
            self.refuse("the script clears its gradients itself")
            return 1.0
        self._at_hand = self.weight
        return self.weight

    def _parameters(self) -> Iterator[Any]:
        for optimizer in list(self._turns):
            for group in optimizer.param_groups:
                yield from group["params"]

    def refuse(self, reason: str) -> None:
        """Leave the script alone from here on."""
        if not self.refused:
            self.refused = True
            self._patches.refuse(self._technique, reason)

    def watch(self, optimizer: Any) -> None:
        """Let every n-th step of this optimizer through."""
        if len(self._turns):
            self.refuse("several optimizers take turns on the gradients")
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
            self._weighed, self._at_hand = self._weighed + self._at_hand, 0.0
            if self._turns[this] % self.count:
                return None
            self._level()
            result = original(this, **named)
            self._weighed = 0.0
            self._patches.took_effect(self._technique, count=self.count)
            return result

        cls.step = step

    def flush(self, iterator: Any) -> None:
        """Update with what is left of a group: the last one of an epoch may be smaller."""
        if self.refused or not self._weighed:
            return
        dropped = self._pieces and iterator._drop_last
        for optimizer, turn in list(self._turns.items()):
            if turn % self.count:
                if dropped:
                    for parameter in self._parameters():
                        parameter.grad = None
                else:
                    self._level()
                    self._steps[type(optimizer)](optimizer)
                self._turns[optimizer] = 0
        self._weighed = 0.0

    def _level(self) -> None:
        """A smaller group weighs as much as a whole one."""
        if abs(self._weighed - 1) < _ROUNDING or not self._weighed:
            return
        for parameter in self._parameters():
            if parameter.grad is not None:
                parameter.grad.div_(self._weighed)
