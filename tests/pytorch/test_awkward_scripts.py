"""Scripts that real projects have, each of which broke us, or made us say what is not so, once."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from tests.observed import Observed

Trial = Callable[..., Observed]
NET = ("__main__:Net",)
GRADIENTS = {"batches": False, "cycle": None, "gradients": 20}
HEAD = """
import random
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
"""
LOOP = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in DataLoader(data, batch_size=16):
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
"""
ROWS = "data = TensorDataset(torch.randn(640, 8), torch.randint(0, 3, (640,)))\n"


def ended_well(seen: Observed) -> Observed:
    assert seen.run.outcome == "completed", seen.run.last_lines
    return seen


def test_seeds_by_keyword_are_moved_as_others_are(trial: Trial) -> None:
    text = HEAD + (
        "np.random.seed(seed=1); random.seed(a=1, version=2); torch.manual_seed(seed=1)\n"
        "print(np.random.rand(), random.random(), torch.rand(()).item())\n"
    )
    moved = trial(text, text=True, seed=3)
    assert moved.run.exit_code == 0, moved.run.last_lines
    by_place = text.replace("seed=1", "1").replace("a=1, version=2", "1")
    assert moved.output == trial(by_place, text=True, seed=3).output
    assert moved.output != trial(text, text=True).output


def test_functions_that_torch_compiles_by_their_source_stay_so(trial: Trial) -> None:
    text = HEAD + (
        "@torch.jit.script\n"
        "def loss_of(x: torch.Tensor, y: torch.Tensor):\n"
        "    return F.cross_entropy(F.dropout(x, 0.1, True), y)\n"
        "model = nn.Linear(8, 3)\n" + ROWS + LOOP.replace("F.cross_entropy", "loss_of")
    )
    ended_well(trial(text, text=True))
    ended_well(trial(text, text=True, witness=GRADIENTS))


def test_sparse_gradients_are_compared(trial: Trial) -> None:
    text = HEAD + (
        "model = nn.EmbeddingBag(50, 3, sparse=True)\n"
        "data = TensorDataset(torch.randint(0, 50, (640, 4)), torch.randint(0, 3, (640,)))\n" + LOOP
    )
    seen = ended_well(trial(text, text=True, witness=GRADIENTS))
    assert len(seen.all("gradients")) == 20


def test_workers_see_what_the_script_changes_between_epochs(trial: Trial) -> None:
    text = HEAD + (
        "class Rows(Dataset):\n"
        "    negatives = 0\n"
        "    def __len__(self): return 32\n"
        "    def __getitem__(self, index): return torch.full((8,), float(self.negatives))\n"
        "model = nn.Linear(8, 1); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "loader = DataLoader(Rows(), batch_size=16)\n"
        "for epoch in range(3):\n"
        "    loader.dataset.negatives = epoch\n"
        "    for x in loader:\n"
        "        loss = model(x).mean(); optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
        "    print(x[0, 0].item())\n"
    )
    seen = trial(text, text=True, technique="workers", settings={"count": 2})
    assert seen.run.effects["workers"]["workers_alive"] == 2
    assert seen.output == trial(text, text=True).output == "0.0\n1.0\n2.0\n"


def test_weights_that_are_first_used_without_gradients_get_theirs(trial: Trial) -> None:
    text = HEAD + (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.layer, self.out = nn.Linear(8, 8), nn.Linear(8, 3)\n"
        "    def forward(self, x):\n"
        "        with torch.no_grad(): guess = self.layer(x)\n"
        "        return self.out(self.layer(x + guess))\n"
        "model = Net()\n" + ROWS + LOOP + "print(model.layer.weight.grad is not None)\n"
    )
    seen = trial(
        text, text=True, technique="mixed_precision", settings={"dtype": "bfloat16"}, roots=NET
    )
    assert "bfloat16" in seen.run.effects["mixed_precision"]["dtype"]
    assert seen.output == "True\n"


def test_output_that_cannot_be_cast_back_is_no_effect(trial: Trial) -> None:
    text = HEAD + (
        "class Net(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.layer = nn.Linear(8, 3)\n"
        "    def forward(self, x): return torch.distributions.Categorical(logits=self.layer(x))\n"
        "model = Net()\n" + ROWS + LOOP.replace("F.cross_entropy(model(x), y)",
                                               "-model(x).log_prob(y).mean()")
    )  # fmt: skip
    seen = trial(
        text, text=True, technique="mixed_precision", settings={"dtype": "bfloat16"}, roots=NET
    )
    assert "mixed_precision" not in seen.run.effects
    assert "Categorical" in dict(seen.run.refused)["mixed_precision"]


def test_model_with_convolutions_of_two_and_three_dimensions_is_laid_out(trial: Trial) -> None:
    text = HEAD + (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.deep, self.flat = nn.Conv3d(1, 4, 1), nn.Conv2d(4, 3, 3)\n"
        "    def forward(self, x): return self.flat(self.deep(x[:, None])[:, :, 0]).mean((2, 3))\n"
        "model = Net()\n"
        "data = TensorDataset(torch.randn(160, 2, 8, 8), torch.randint(0, 3, (160,)))\n" + LOOP
    )
    seen = ended_well(trial(text, text=True, technique="channels_last", roots=NET))
    assert seen.run.effects["channels_last"]["laid_out"] == 1


def test_blocks_with_a_cache_of_keys_are_computed_again(trial: Trial) -> None:
    text = HEAD + (
        "class Block(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.inner = nn.Sequential(nn.Linear(8, 8))\n"
        "    def forward(self, x, cache):\n"
        "        x = self.inner(x)\n"
        "        if cache is not None: cache.append(x); x = torch.stack(cache).sum(0)\n"
        "        return x\n"
        "class Config: use_cache = True\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.config = Config()\n"
        "        self.blocks = nn.ModuleList([Block(), Block()]); self.out = nn.Linear(8, 3)\n"
        "    def forward(self, x, use_cache=None):\n"
        "        use_cache = self.config.use_cache if use_cache is None else use_cache\n"
        "        for block in self.blocks: x = block(x, [] if use_cache else None)\n"
        "        return self.out(x)\n"
        "model = Net()\n" + ROWS + LOOP
    )
    seen = trial(text, text=True, technique="activation_checkpointing", roots=NET)
    ended_well(seen)
    assert seen.run.effects["activation_checkpointing"]["block"] == "Block"
    assert seen.run.losses == trial(text, text=True).run.losses


def test_helper_that_is_compiled_hides_no_model(trial: Trial) -> None:
    text = HEAD + (
        "helper = torch.compile(lambda x: x * 2, backend='eager')\n"
        "class Net(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.layer = nn.Linear(8, 3)\n"
        "    def forward(self, x): return self.layer(x)\n"
        "model = Net()\n" + ROWS + LOOP.replace("model(x)", "model(helper(x))")
    )
    seen = ended_well(trial(text, text=True))
    assert [(root.class_name, root.compiled) for root in seen.facts.roots] == [(NET[0], False)]
    assert "compile" not in seen.facts.already_on


def test_model_that_is_wrapped_after_its_optimizer_was_made_is_found_again(trial: Trial) -> None:
    text = HEAD + (
        "class Around(nn.Module):\n"
        "    def __init__(self, inner): super().__init__(); self.inner = inner\n"
        "    def forward(self, x): return self.inner(x)\n"
        "model = nn.Linear(8, 3)\n" + ROWS
        + LOOP.replace("for x, y", "model = Around(model)\nfor x, y")
    )  # fmt: skip
    roots = ("__main__:Around",)
    assert tuple(root.class_name for root in trial(text, text=True).facts.roots) == roots
    seen = trial(
        text, text=True, technique="mixed_precision", settings={"dtype": "bfloat16"}, roots=roots
    )
    assert "bfloat16" in seen.run.effects["mixed_precision"]["dtype"]


def test_precision_that_a_model_sets_in_its_forward_is_already_on(trial: Trial) -> None:
    text = HEAD + (
        "class Net(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.layer = nn.Linear(8, 3)\n"
        "    def forward(self, x):\n"
        "        with torch.autocast('cpu', dtype=torch.bfloat16): return self.layer(x)\n"
        "model = Net()\n" + ROWS + LOOP
    )
    assert "mixed_precision" in ended_well(trial(text, text=True)).facts.already_on


@pytest.mark.parametrize(
    "collate",
    ["lambda rows: torch.stack([x for x, _ in rows], 1), ", "lambda rows: tuple(zip(*rows)), "],
)
def test_samples_are_counted_whatever_a_batch_looks_like(trial: Trial, collate: str) -> None:
    text = HEAD + ROWS + (
        "model = nn.Linear(8, 3); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        f"join = ({collate})[0]\n"
        "for batch in DataLoader(data, batch_size=64, collate_fn=join):\n"
        "    x = batch.T if torch.is_tensor(batch) else torch.stack(batch[0])\n"
        "    loss = model(x).mean(); optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
    )  # fmt: skip
    assert ended_well(trial(text, text=True)).run.samples == 640


def test_validation_within_a_step_and_on_what_is_trained_on_is_no_training(trial: Trial) -> None:
    text = (
        HEAD
        + ROWS
        + (
            "model = nn.Linear(8, 3); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
            "def check(loader):\n"
            "    with torch.no_grad():\n"
            "        return sum(F.cross_entropy(model(x), y).item() for x, y in loader)\n"
            "train, held_out = DataLoader(data, batch_size=16), DataLoader(data, batch_size=64)\n"
            "for epoch in range(3):\n"
            "    for step, (x, y) in enumerate(train):\n"
            "        if step % 8 == 0: check(held_out)\n"
            "        loss = F.cross_entropy(model(x), y)\n"
            "        optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
            "    check(train)\n"
            "torch.save(obj=model.state_dict(), f='kept.pt')\n"
        )
    )
    seen = ended_well(trial(text, text=True))
    assert (seen.run.steps, seen.run.updates, seen.run.samples) == (120, 120, 1920)
    assert len(seen.run.evaluations) == 15 + 3 - 1  # the first came before the first update
    assert len(seen.run.checkpoints) == 1


def test_loaders_that_take_turns_both_train(trial: Trial) -> None:
    text = (
        HEAD
        + ROWS
        + (
            "model = nn.Linear(8, 3); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
            "one = iter(DataLoader(data, batch_size=8))\n"
            "other = iter(DataLoader(data, batch_size=16))\n"
            "for _ in range(40):\n"
            "    for rows in (one, other):\n"
            "        x, y = next(rows)\n"
            "        loss = F.cross_entropy(model(x), y)\n"
            "        optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
        )
    )
    seen = ended_well(trial(text, text=True))
    assert seen.run.updates == 80
    assert 70 <= seen.run.steps <= 80


def test_score_of_torchmetrics_is_heard(trial: Trial) -> None:
    pytest.importorskip("torchmetrics")
    text = HEAD + ROWS + (
        "import torchmetrics\n"
        "model = nn.Linear(8, 3)\n" + LOOP +
        "score = torchmetrics.Accuracy(task='multiclass', num_classes=3)\n"
        "score.update(model(x).detach(), y); print(score.compute().item())\n"
    )  # fmt: skip
    seen = ended_well(trial(text, text=True))
    (value,) = [value for name, value in seen.run.reported_metrics if "Accuracy" in name]
    assert math.isclose(value, float(seen.output), rel_tol=1e-6)


def test_trial_publishes_nothing(trial: Trial) -> None:
    pytest.importorskip("huggingface_hub")
    text = "import huggingface_hub\nhuggingface_hub.{}('mine/model')\n"
    for call in ("create_repo", "HfApi().create_repo"):
        seen = trial(text.format(call), text=True)
        assert seen.run.exit_code == 1
        assert "a trial publishes nothing" in seen.run.last_lines


PIECES = (
    HEAD
    + """
data = TensorDataset(torch.randn({rows}, 5, 8), torch.randn({rows}))
model = nn.Linear(8, 1); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
join = lambda rows: (torch.stack([x for x, _ in rows], 1), torch.stack([y for _, y in rows]))
for _ in range(2):
    for x, y in DataLoader(data, batch_size=8, collate_fn=join, drop_last={drop}):
        {clear}
        first, second = model(x).mean(), (model(x).mean(0)[:, 0] - y).square().mean()
        first.backward(retain_graph=True); second.backward(); optimizer.step()
print(repr(model.weight.tolist()))
"""
)


def in_pieces(trial: Trial, **how: object) -> tuple[Observed, Observed]:
    text = PIECES.format(**{"rows": 31, "drop": False, "clear": "optimizer.zero_grad()", **how})
    plain = trial(text, text=True)
    loader = plain.facts.fed_by()
    assert loader is not None
    settings = {"count": 4, "place": loader.place, "batch": 8}
    return plain, trial(text, text=True, technique="micro_batches", settings=settings)


@pytest.mark.parametrize(("rows", "drop"), [(29, False), (31, True)])
def test_pieces_of_any_batch_train_as_the_batch_does(trial: Trial, rows: int, drop: bool) -> None:
    """Time comes first in a batch, it has two losses, and the last one may be short or dropped."""
    plain, seen = in_pieces(trial, rows=rows, drop=drop)
    assert seen.run.effects["micro_batches"]["count"] == 4
    assert seen.run.updates == plain.run.updates
    ours, theirs = (eval(run.output) for run in (seen, plain))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)


def test_pieces_are_refused_where_the_script_clears_its_gradients_itself(trial: Trial) -> None:
    _, seen = in_pieces(trial, clear="model.weight.grad = model.bias.grad = None")
    assert "clears its gradients itself" in dict(seen.run.refused)["micro_batches"]


def test_pieces_are_refused_where_optimizers_take_turns(trial: Trial) -> None:
    other = "torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1); optimizer.zero_grad()"
    _, seen = in_pieces(trial, clear=f"other = {other}")
    assert "several optimizers" in dict(seen.run.refused)["micro_batches"]


def test_processes_that_the_script_spawns_are_observed(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import multiprocessing, nn\n"
        "def train(rank):\n"
        "    model = nn.Linear(4, 1)\n"
        "    opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "    for _ in range(30):\n"
        "        loss = model(torch.randn(4, 4)).square().mean()\n"
        "        opt.zero_grad(); loss.backward(); opt.step()\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.spawn(train, nprocs=2)\n"
    )
    seen = trial(text, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.updates == 30
    assert len([event for event in seen.events if event["event"] == "training"]) == 2


def test_loss_that_stands_for_a_value_while_a_graph_is_traced_is_not_taken(trial: Trial) -> None:
    """As the compiler of PyTorch 2.11 computes the loss of a model in evaluation."""
    text = (
        "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
        "from torch._subclasses.fake_tensor import FakeTensorMode\n"
        "torch.manual_seed(0)\n"
        "model = nn.Linear(4, 3)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "x, y = torch.randn(8, 4), torch.randint(3, (8,))\n"
        "for step in range(20):\n"
        "    with torch.no_grad(), FakeTensorMode():\n"
        "        F.cross_entropy(torch.empty(8, 3), torch.zeros(8, dtype=torch.long))\n"
        "    with torch.no_grad(): F.cross_entropy(model(x), y)\n"
        "    opt.zero_grad(); F.cross_entropy(model(x), y).backward(); opt.step()\n"
    )
    seen = trial(text, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert len(seen.run.evaluation_losses) == 20
