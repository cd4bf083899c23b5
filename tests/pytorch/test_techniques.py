"""Conformance: each technique acts or says no effect, and keeps its promise on numerics."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halftime.trials import parity, preflight
from tests.conftest import make_candidate, make_diagnosis, make_facts
from tests.observed import Observed

Trial = Callable[..., Observed]
NET = ("__main__:Net",)
GRADIENTS = {"batches": False, "cycle": None, "gradients": 20}


def test_workers_are_alive_and_give_the_same_losses(trial: Trial) -> None:
    plain = trial("images.py")
    seen = trial("images.py", technique="workers", settings={"count": 2})
    assert seen.run.effects["workers"]["workers_alive"] == 2
    assert seen.run.losses == plain.run.losses


def test_workers_are_taken_away_where_fewer_are_asked(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "model = nn.Linear(2, 1); opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "data = TensorDataset(torch.randn(40, 2))\n"
        "for (x,) in DataLoader(data, 4, num_workers=1, prefetch_factor=4):\n"
        "    opt.zero_grad(); model(x).sum().backward(); opt.step()\n"
    )
    seen = trial(text, text=True, technique="workers", settings={"count": 0})
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["workers"]["workers_alive"] == 0


def test_prefetched_batches_are_the_same_in_the_same_order(trial: Trial) -> None:
    plain = trial("images.py")
    seen = trial("images.py", technique="prefetch")
    assert seen.run.effects["prefetch"]["batches"] == 40
    assert seen.run.losses == plain.run.losses


def test_mixed_precision_computes_in_bfloat16_and_gives_float32(trial: Trial) -> None:
    plain = trial("images.py")
    seen = trial(
        "images.py", technique="mixed_precision", settings={"dtype": "bfloat16"}, roots=NET
    )
    assert seen.run.effects["mixed_precision"]["dtype"] == "torch.bfloat16"
    assert seen.output.split()[-1] == "torch.float32"
    assert seen.run.losses != plain.run.losses
    assert np.allclose(seen.run.losses, plain.run.losses, rtol=0.05)


SCALED = """
import torch
from torch.nn.functional import cross_entropy
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
optimizers = [torch.optim.SGD(model.parameters(), 0.1) for _ in range(COUNT)]
rows = torch.randn(640, 8)
labels = (rows.sum(1) > 0).long()
for x, y in zip(rows.split(16), labels.split(16)):
    optimizers[0].zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizers[0].step()
    print(f"{loss.item():.6f} {norm.item():.6f}")
"""


def scaled(trial: Trial, optimizers: int) -> tuple[Observed, Observed]:
    text = SCALED.replace("COUNT", str(optimizers))
    return trial(text, text=True), trial(
        text, text=True, technique="mixed_precision", settings={"dtype": "float16"},
        roots=("torch.nn.modules.container:Sequential",),
    )  # fmt: skip


def test_float16_is_scaled_and_the_script_sees_its_own_loss_and_gradients(trial: Trial) -> None:
    plain, seen = scaled(trial, optimizers=1)
    assert seen.run.effects["mixed_precision"]["dtype"] == "torch.float16"
    assert seen.run.effects["mixed_precision"]["loss_scale"] >= 1024
    numbers = [np.array(run.output.split(), dtype=float) for run in (plain, seen)]
    assert not np.array_equal(*numbers)
    assert np.allclose(*numbers, rtol=0.05)
    assert np.allclose(seen.run.losses, plain.run.losses, rtol=0.05)


def test_loss_that_was_scaled_is_told_from_the_others(trial: Trial) -> None:
    text = (
        "import torch\nmodel = torch.nn.Linear(4, 1)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)\n"
        "for _ in range(20):\n"
        "    one, other = (model(torch.randn(8, 4)).pow(2).mean() for _ in range(2))\n"
        "    scaled = scaler.scale(one), scaler.scale(other)\n"
        "    opt.zero_grad()\n"
        "    for x in scaled: x.backward()\n"
        "    scaler.step(opt); scaler.update()\n"
        "    del x, scaled\n"
        "    third = model(torch.randn(8, 4)).pow(2).mean(); third.backward()\n"
        "    print(one.item(), other.item(), third.item())\n"
    )
    seen = trial(text, text=True)
    assert seen.run.losses == tuple(map(float, seen.output.split()))


def test_float16_leaves_several_optimizers_alone(trial: Trial) -> None:
    plain, seen = scaled(trial, optimizers=2)
    assert "share one scale" in seen.run.refused[0][1]
    assert seen.output == plain.output


@pytest.mark.parametrize("ending", ["log_softmax", "dict"])
def test_mixed_precision_keeps_the_end_of_the_model_in_float32(trial: Trial, ending: str) -> None:
    arguments = ("--ending", ending)
    plain = trial("images.py", *arguments, witness=GRADIENTS, stop_after={"steps": 21})
    seen = trial(
        "images.py", *arguments, technique="mixed_precision", settings={"dtype": "bfloat16"},
        roots=NET, witness=GRADIENTS, stop_after={"steps": 21},
    )  # fmt: skip
    assert seen.run.effects["mixed_precision"]["dtype"] == "torch.bfloat16"
    share, said = parity.gradient_witness(plain.run, seen.run)
    assert share is not None, said
    assert share < 0.1, said
    assert parity.still_trains(plain.run, seen.run)[0]


def test_model_that_ends_in_a_sigmoid_is_seen_to_do_so(trial: Trial) -> None:
    assert (
        trial("images.py", "--ending", "sigmoid")
        .facts.roots[0]
        .last_operations[0]
        .startswith("Sigmoid")
    )


def test_autocast_of_the_scripts_own_is_already_on(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\nmodel = nn.Linear(2, 1)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(10):\n"
        "    with torch.autocast('cpu', dtype=torch.bfloat16):\n"
        "        loss = model(torch.randn(4, 2)).square().mean()\n"
        "    opt.zero_grad(); loss.backward(); opt.step()\n"
    )
    assert "mixed_precision" in trial(text, text=True).facts.already_on


def test_channels_last_lays_out_the_convolutions(trial: Trial) -> None:
    plain = trial("images.py")
    seen = trial("images.py", technique="channels_last", roots=NET)
    assert seen.run.effects["channels_last"]["laid_out"] == 1
    assert np.allclose(seen.run.losses, plain.run.losses, rtol=1e-3)


def test_threads_are_set_and_proven_at_the_end(trial: Trial) -> None:
    assert trial("images.py", technique="threads", settings={"count": 1}).run.effects[
        "threads"
    ] == {"threads": 1}


def test_threads_that_the_script_sets_itself_are_no_effect(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\ntorch.set_num_threads(2)\nmodel = nn.Linear(2, 1)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(5):\n"
        "    opt.zero_grad(); model(torch.randn(4, 2)).sum().backward(); opt.step()\n"
    )
    seen = trial(text, text=True, technique="threads", settings={"count": 1})
    assert "threads" not in seen.run.effects
    assert "itself sets 2 threads" in dict(seen.run.refused)["threads"]


def test_released_brakes_change_no_loss(trial: Trial) -> None:
    plain = trial("brakes.py")
    seen = trial(
        "brakes.py", technique="brakes", settings={"release": ["anomaly detection", "gc.collect"]}
    )
    assert "brakes" in seen.run.effects
    assert seen.run.losses == plain.run.losses


def test_technique_on_a_root_that_is_not_there_has_no_effect(trial: Trial) -> None:
    for technique in ("mixed_precision", "channels_last"):
        seen = trial(
            "plain.py",
            technique=technique,
            settings={"dtype": "bfloat16"},
            roots=("__main__:Other",),
        )
        assert seen.run.outcome == "completed"
        assert technique not in seen.run.effects


def test_witness_finds_the_store_equal_and_a_tampered_one_different(trial: Trial) -> None:
    witness = {"batches": True, "cycle": 20, "gradients": 0}
    orders = {"witness": witness, "stop_after": {"steps": 230}}
    long = ("--epochs", "20")
    plain = trial("images.py", *long, **orders)
    stored = trial("images.py", *long, technique="store", **orders)
    equal, said = parity.same_batches(plain.run, stored.run, loader=0)
    assert equal, said
    assert stored.run.effects["store"]["batches_served"] >= 200
    other = trial("images.py", *long, seed=1, **orders)
    assert not parity.same_batches(plain.run, other.run, loader=0)[0]


def test_replay_serves_copies_and_learns_the_facts(trial: Trial) -> None:
    seen = trial(
        "images.py", ablation={"batches": 8, "drain_seconds": 0.5},
        stop_after={"steps": 30},
    )  # fmt: skip
    assert seen.run.outcome == "window", seen.run.last_lines
    loader = seen.facts.fed_by()
    assert loader is not None
    assert loader.deterministic is True
    assert loader.item_seconds
    assert loader.alone_samples_per_second
    assert loader.sample_bytes == 3 * 16 * 16 * 4 + 8


def test_script_that_compiles_itself_is_observed(trial: Trial) -> None:
    if shutil.which("g++") is None:
        pytest.fail("torch.compile needs a C++ compiler here")
    text = (
        "import torch\nfrom torch import nn\n"
        "net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))\n"
        "model = torch.compile(net, backend='eager')\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(20):\n"
        "    loss = model(torch.randn(4, 4)).square().mean()\n"
        "    opt.zero_grad(); loss.backward(); opt.step()\n"
    )
    seen = trial(text, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert "compile" in seen.facts.already_on
    assert seen.facts.roots[0].compiled


def test_fused_optimizers_act_and_train_the_same(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\nfrom torch.utils.data import DataLoader\n"
        "torch.manual_seed(0)\n"
        "for make in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):\n"
        "    model = nn.Linear(4, 2); opt = make(model.parameters(), lr=0.1)\n"
        "    for x in DataLoader(torch.randn(40, 4), 4):\n"
        "        opt.zero_grad(); model(x).pow(2).mean().backward(); opt.step()\n"
        "    print(opt.param_groups[0]['fused'])\n"
    )
    plain = trial(text, text=True)
    seen = trial(text, text=True, technique="fused_optimizer")
    assert plain.output.split() == ["None"] * 4
    assert seen.output.split() == ["True"] * 4
    assert plain.facts.optimizer == "Adagrad"
    assert seen.run.effects["fused_optimizer"]["optimizer"]
    assert "fused_optimizer" in seen.facts.already_on
    assert len(seen.run.losses) == 40
    assert np.allclose(seen.run.losses, plain.run.losses, rtol=1e-4)


def test_optimizer_that_the_script_tells_how_to_loop_is_left_alone(trial: Trial) -> None:
    text = (
        "import torch\nmodel = torch.nn.Linear(4, 2)\n"
        "opt = torch.optim.Adam(model.parameters(), foreach=True)\n"
        "for x in torch.utils.data.DataLoader(torch.randn(40, 4), 4):\n"
        "    opt.zero_grad(); model(x).pow(2).mean().backward(); opt.step()\n"
    )
    seen = trial(text, text=True, technique="fused_optimizer")
    assert "fused_optimizer" not in seen.run.effects
    assert "the script sets foreach itself" in seen.run.refused[0][1]


def test_checkpointed_blocks_give_the_same_losses_and_running_means(trial: Trial) -> None:
    plain = trial("blocks.py")
    seen = trial("blocks.py", technique="activation_checkpointing")
    assert seen.run.effects["activation_checkpointing"]["block"] == "Block"
    assert seen.run.losses == plain.run.losses
    assert seen.output == plain.output
    assert "after 16 batches" in seen.output


def test_checkpointing_a_model_without_repeated_blocks_has_no_effect(trial: Trial) -> None:
    seen = trial("images.py", technique="activation_checkpointing")
    assert "activation_checkpointing" not in seen.run.effects
    assert "no repeated blocks" in dict(seen.run.refused)["activation_checkpointing"]


def test_compiled_root_has_no_breaks_and_is_compared_under_the_same_draws(
    trial: Trial, tmp_path: Path
) -> None:
    """Its own class is nested in it; compiled kernels draw other numbers than eager ones."""
    text = (
        "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
        "torch.manual_seed(0)\n"
        "class Noisy(nn.Module):\n"
        "    def forward(self, x):\n"
        "        q = (F.dropout(x, 0.5, self.training) + torch.randn_like(x))[:, None]\n"
        "        return F.scaled_dot_product_attention(q, q, q, dropout_p=0.2)[:, 0]\n"
        "inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU())\n"
        "model = nn.Sequential(inner, Noisy(), nn.Linear(8, 2))\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "x, y = torch.randn(20, 16, 8), torch.randint(0, 2, (20, 16))\n"
        "for i in range(20):\n"
        "    opt.zero_grad(); F.cross_entropy(model(x[i]), y[i]).backward(); opt.step()\n"
        "print(sorted(model.state_dict()))\n"
    )
    folder = tmp_path / "compiled"
    plain = trial(text, text=True, witness=GRADIENTS)
    seen = trial(
        text, text=True, technique="compilation", roots=("torch.nn.modules.container:Sequential",),
        settings={"mode": "default"}, witness=GRADIENTS, compiled_folder=str(folder),
    )  # fmt: skip
    assert seen.run.outcome == "completed", seen.run.last_lines
    effect = seen.run.effects["compilation"]
    assert effect["graph_breaks"] == 0  # Python need not step in where its class is nested
    assert 1 <= effect["graphs"] <= 2
    assert np.allclose(seen.run.losses, plain.run.losses, rtol=1e-5)
    share, said = parity.gradient_witness(plain.run, seen.run)
    assert share is not None, said
    assert share < 0.01, said
    assert seen.output == plain.output
    assert any((folder / "inductor").iterdir())  # which the runs that follow find


def test_compiler_that_fails_is_named_and_the_script_goes_on(trial: Trial) -> None:
    plain = trial("images.py")
    seen = trial("images.py", technique="compilation", settings={"mode": "no such mode"}, roots=NET)
    assert seen.run.losses == plain.run.losses
    assert "no such mode" in dict(seen.run.refused)["compilation"]


def test_rarer_garbage_collection_acts_and_changes_no_loss(trial: Trial) -> None:
    plain = trial("images.py")
    seen = trial("images.py", technique="garbage_collection", settings={"threshold": 50_000})
    assert seen.run.effects["garbage_collection"]["frozen"] > 1000
    assert seen.run.losses == plain.run.losses


def test_collector_that_the_script_sets_stays(trial: Trial) -> None:
    text = (
        "import gc, torch\nfrom torch import nn\nmodel = nn.Linear(2, 1)\ngc.disable()\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(5):\n"
        "    opt.zero_grad(); model(torch.randn(4, 2)).sum().backward(); opt.step()\n"
        "print(gc.isenabled(), gc.get_threshold()[0] < 50_000)\n"
    )
    seen = trial(text, text=True, technique="garbage_collection", settings={"threshold": 50_000})
    assert "garbage_collection" not in seen.run.effects
    assert seen.output.split() == ["False", "True"]


def test_memory_that_is_kept_is_touched_once(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\n"
        "torch.manual_seed(0)\nmodel = nn.Linear(2, 1)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(60):\n"
        "    large = torch.ones(12_000_000)\n"
        "    loss = model(large[:8].reshape(4, 2)).square().mean()\n"
        "    opt.zero_grad(); loss.backward(); opt.step()\n"
        "    del large\n"
    )
    plain = trial(text, text=True)
    seen = trial(text, text=True, technique="allocator")
    assert seen.run.effects["allocator"]
    assert seen.run.losses == plain.run.losses
    pages = 12_000_000 * 4 // 4096
    faults = [sum(w.page_faults for w in observed.run.windows) for observed in (plain, seen)]
    assert faults[0] > 50 * pages
    assert faults[1] < 5 * pages


def test_kept_memory_is_worth_a_trial_only_where_pages_are_touched_anew() -> None:
    from halftime.frameworks.process import allocator

    facts, calm = make_facts(), make_diagnosis()
    (refused,) = allocator.settings_to_try(facts, calm)
    assert refused.switch is None
    busy = replace(calm, page_faults_a_step=calm.step_seconds / 1e-5)
    assert allocator.settings_to_try(facts, busy)[0].switch is not None
    on_gpu = make_facts(device="cuda")
    assert "GPU" in allocator.settings_to_try(on_gpu, busy)[0].reason


def test_allocator_of_the_machine_is_loaded_before_the_script(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library of glibc that takes malloc's place stands for one that may not be installed."""
    from halftime.frameworks.process import allocator

    library = "libmemusage.so"
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(
        "ctypes.util.find_library", lambda name: library if name == "jemalloc" else None
    )
    calm = make_diagnosis()
    busy = replace(calm, page_faults_a_step=calm.step_seconds / 1e-5)
    own, other = [p.switch for p in allocator.settings_to_try(make_facts(), busy)]
    assert own is not None
    assert other is not None
    assert [own.label(), other.label()] == ["allocator", f"allocator({library})"]
    seen = trial("images.py", technique="allocator", settings=other.settings)
    assert seen.run.effects["allocator"] == {"library": library}
    assert seen.run.losses == trial("images.py").run.losses
    missing = {"name": "libnone.so", "environment": {"LD_PRELOAD": "libnone.so"}}
    seen = trial("images.py", technique="allocator", settings=missing)
    assert dict(seen.run.refused)["allocator"] == "libnone.so was not loaded"


def test_script_without_an_optimizer_still_trains_under_a_witness(trial: Trial) -> None:
    plain = trial("no_optimizer.py", witness=GRADIENTS)
    seen = trial("no_optimizer.py", witness=GRADIENTS, technique="threads", settings={"count": 1})
    trains, said = parity.still_trains(plain.run, seen.run)
    assert trains, said
    assert said.startswith("the same 2 parameters get gradients")


def test_several_models_of_one_class_are_described_together(trial: Trial) -> None:
    (root,) = trial("several_models.py").facts.roots
    assert root.class_name.endswith(":Sequential")
    assert (root.convolutions, root.batch_norms, root.random_layers) == (1, 1, True)
    assert root.parameters == 4 * 9 + 4 + 8 + (4 * 36 * 8 + 8) + (8 + 1)
    assert {name.split("Backward")[0] for name in root.last_operations} >= {"Sigmoid"}


def test_store_serves_a_batch_sampler(trial: Trial) -> None:
    witness = {"batches": True, "cycle": None, "gradients": 0}
    plain = trial("several_models.py", witness=witness)
    loader = plain.facts.fed_by()
    assert loader is not None
    assert (loader.batch_size, loader.forms_batches) == (None, True)
    seen = trial("several_models.py", technique="store", witness=witness)
    assert seen.run.effects["store"]["samples_served"] == 2 * 160
    assert seen.digests == plain.digests
    assert seen.output == plain.output


@pytest.mark.parametrize(
    "sampler",
    [
        "WeightedRandomSampler(torch.ones(60), 60)",
        "DistributedSampler(data, num_replicas=2, rank=1)",
    ],
)
def test_store_serves_other_samplers(trial: Trial, sampler: str) -> None:
    text = (
        "import torch\nfrom torch.utils.data import *\n"
        "from torch.utils.data.distributed import DistributedSampler\n"
        "torch.manual_seed(0); model = torch.nn.Linear(4, 2)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "data = TensorDataset(torch.randn(60, 4))\n"
        f"loader = DataLoader(data, 6, sampler={sampler})\n"
        "for epoch in range(4):\n"
        "    for (x,) in loader:\n"
        "        opt.zero_grad(); model(x).pow(2).mean().backward(); opt.step()\n"
    )
    witness = {"batches": True, "cycle": None, "gradients": 0}
    plain = trial(text, text=True, witness=witness)
    seen = trial(text, text=True, technique="store", witness=witness)
    assert seen.run.effects["store"]["samples_served"] > 0
    assert seen.digests == plain.digests
    assert seen.run.losses == plain.run.losses


def test_script_that_sets_the_new_precision_flags_is_observed(trial: Trial) -> None:
    text = (
        "import torch\n"
        "torch.backends.fp32_precision = 'tf32'\n"
        "model = torch.nn.Linear(4, 2); opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for x in torch.utils.data.DataLoader(torch.randn(40, 4), 4):\n"
        "    opt.zero_grad(); model(x).pow(2).mean().backward(); opt.step()\n"
    )
    seen = trial(text, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.updates == 10


def test_workers_serve_every_epoch_where_the_loader_is_made_anew(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "torch.manual_seed(0); model = torch.nn.Linear(4, 2)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "data = TensorDataset(torch.randn(40, 4))\n"
        "for epoch in range(3):\n"
        "    loader = DataLoader(data, 4, shuffle=True)\n"
        "    for (x,) in loader:\n"
        "        opt.zero_grad(); model(x).pow(2).mean().backward(); opt.step()\n"
        "    print('workers', loader.num_workers)\n"
    )
    plain = trial(text, text=True)
    assert len(plain.facts.loaders) == 1
    seen = trial(text, text=True, technique="workers", settings={"count": 2})
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.output.splitlines() == ["workers 2"] * 3
    assert seen.run.losses == plain.run.losses


def test_workers_under_random_transforms_are_not_judged_by_other_gradients(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "class Noisy(Dataset):\n"
        "    def __len__(self): return 256\n"
        "    def __getitem__(self, i): return torch.randn(8), float(i % 2)\n"
        "torch.manual_seed(0)\n"
        "model = nn.Linear(8, 1)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.01)\n"
        "for _ in range(20):\n"
        "    for x, y in DataLoader(Noisy(), 16, shuffle=True):\n"
        "        loss = (model(x)[:, 0] - y).square().mean()\n"
        "        opt.zero_grad(); loss.backward(); opt.step()\n"
    )
    witness = {"batches": True, "cycle": 16, "gradients": 20}
    orders = {"witness": witness, "stop_after": {"steps": 230}, "text": True}
    plain = trial(text, **orders)
    arm = trial(text, technique="workers", settings={"count": 2}, **orders)
    assert (parity.gradient_witness(plain.run, arm.run)[0] or 0) > 1
    candidate = make_candidate("workers", numerics="draws")
    proof = preflight._first_proof(candidate, plain.run, arm.run, plain.facts)
    assert (proof.status, proof.missing) == ("not proven", "the test over seeds")


def test_mixed_precision_is_seen_in_layers_that_come_after_one_never_called(trial: Trial) -> None:
    """Attention takes the weights of its projections itself; the output is float32 by softmax."""
    text = (
        "import torch\nfrom torch import nn\n"
        "torch.manual_seed(0)\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)\n"
        "        self.head = nn.Linear(8, 3)\n"
        "    def forward(self, x):\n"
        "        x = self.attention(x, x, x, need_weights=False)[0]\n"
        "        return torch.log_softmax(self.head(x), dim=-1)\n"
        "model = Net()\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(10):\n"
        "    loss = -model(torch.randn(4, 5, 8))[..., 0].mean()\n"
        "    opt.zero_grad(); loss.backward(); opt.step()\n"
    )
    seen = trial(text, text=True, technique="mixed_precision", settings={"dtype": "bfloat16"},
                 roots=NET)  # fmt: skip
    assert seen.run.effects["mixed_precision"]["layer"] == "Linear"
