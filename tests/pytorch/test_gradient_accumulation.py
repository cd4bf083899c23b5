"""Accumulation in a plain loop is what a hand-written one does, and refuses where it cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.observed import Observed

Trial = Callable[..., Observed]
LOOP = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
numbers = torch.Generator().manual_seed(0)
data = TensorDataset(torch.randn(40, 3, generator=numbers))
torch.manual_seed(1)
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
{before}
for epoch in range(2):
    for step, (x,) in enumerate(DataLoader(data, batch_size=4)):
        {body}
    {after}
print(repr(model.weight.tolist()))
"""
PLAIN = (
    "optimizer.zero_grad(); loss = model(x).pow(2).mean(); loss.backward(); {extra}optimizer.step()"
)
BY_HAND = """
        loss = model(x).pow(2).mean()
        (loss / 4).backward()
        if (step + 1) % 4 == 0:
            optimizer.step(); optimizer.zero_grad()
"""
LAST_GROUP = """
    for p in model.parameters(): p.grad *= 2
    optimizer.step(); optimizer.zero_grad()
"""


def loop(body: str, before: str = "", after: str = "") -> str:
    return LOOP.format(before=before, body=body, after=after)


def accumulated(trial: Trial, extra: str = "", before: str = "", after: str = "") -> Observed:
    return trial(
        loop(PLAIN.format(extra=extra), before, after), text=True,
        technique="gradient_accumulation", settings={"count": 4},
    )  # fmt: skip


def test_weights_are_those_of_a_loop_that_accumulates_by_hand(trial: Trial) -> None:
    by_hand = trial(loop(BY_HAND, after=LAST_GROUP), text=True)
    seen = accumulated(trial)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["gradient_accumulation"]["count"] == 4
    # Ten batches an epoch: two whole groups, and a last one of two.
    assert (seen.run.updates, seen.run.samples) == (6, 80)
    ours, theirs = (eval(run.output) for run in (seen, by_hand))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"extra": "nn.utils.clip_grad_norm_(model.parameters(), 1.0); "}, "clipped by hand"),
        (
            {
                "before": "schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)",
                "extra": "schedule.step(); ",
            },
            "a scheduler steps with every batch",
        ),
    ],
)
def test_it_is_refused_where_the_loop_needs_every_step(
    trial: Trial, more: dict[str, str], said: str
) -> None:
    seen = accumulated(trial, **more)
    assert any(said in reason for _, reason in seen.run.refused)


def test_scheduler_that_steps_with_the_epoch_is_no_reason_to_refuse(trial: Trial) -> None:
    before = "schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)"
    seen = accumulated(trial, before=before, after="schedule.step()")
    assert seen.run.effects["gradient_accumulation"]["count"] == 4
    assert not seen.run.refused


def test_micro_batches_train_as_the_whole_batch_does(trial: Trial) -> None:
    text = loop(PLAIN.format(extra="")).replace("batch_size=4", "batch_size=12")
    plain = trial(text, text=True)
    loader = plain.facts.fed_by()
    assert loader is not None
    settings = {"count": 4, "place": loader.place, "batch": 12}
    seen = trial(text, text=True, technique="micro_batches", settings=settings)
    assert seen.run.effects["micro_batches"]["count"] == 4
    # Batches of 12, 12, 12 and 4: the last one makes a group of pieces of 3 and 1.
    assert (seen.run.updates, seen.run.samples) == (plain.run.updates, plain.run.samples) == (8, 80)
    ours, theirs = (eval(run.output) for run in (seen, plain))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
