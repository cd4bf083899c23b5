"""What the agent sees of scripts of every shape."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from halftime.errors import UserError
from halftime.trials.execute import check_baseline
from tests.observed import Observed

Trial = Callable[..., Observed]


def test_plain_loop_is_seen_whole(trial: Trial) -> None:
    seen = trial("plain.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.samples, seen.run.updates) == (80, 1280, 80)
    assert len(seen.run.losses) == 80
    assert len(seen.run.evaluations) == 2
    assert seen.facts.framework == "torch"
    assert [root.class_name for root in seen.facts.roots] == [
        "torch.nn.modules.container:Sequential"
    ]
    loader = seen.facts.fed_by()
    assert loader is not None
    assert (loader.batch_size, loader.dataset_length, loader.shuffles) == (16, 640, True)
    assert loader.place.endswith("plain.py:22")
    assert seen.run.checkpoints[0].startswith("4 keys")
    for phase in ("forward", "backward", "optimizer", "wait"):
        assert sum(getattr(window, phase) for window in seen.run.windows) > 0


def test_losses_are_those_that_the_script_computes(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\nmodel = nn.Linear(2, 1)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=0.1)\nseen = []\n"
        "for _ in range(30):\n"
        "    loss = model(torch.randn(4, 2)).square().mean()\n"
        "    opt.zero_grad(); loss.backward(); opt.step(); seen.append(loss.item())\n"
        "print(seen[1:])\n"
    )
    seen = trial(text, text=True)
    # without a loader the first update begins the first step
    assert list(seen.run.losses)[-28:] == eval(seen.output)[-28:]


def test_gan_counts_both_optimizers_and_both_roots(trial: Trial) -> None:
    seen = trial("gan.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.updates) == (120, 240)
    assert len(seen.run.losses) == 240


def test_loop_without_a_loader_is_counted_by_updates_and_batch(trial: Trial) -> None:
    seen = trial("no_loader.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.steps == 119
    assert seen.run.samples == 119 * 12
    assert seen.facts.fed_by() is None


def test_bounded_run_ends_at_its_window_and_leaves_nothing(trial: Trial) -> None:
    seen = trial("plain.py", "--epochs", "100000", stop_after={"steps": 100})
    assert seen.run.outcome == "window"
    assert seen.run.steps == 100


def test_brakes_are_named_with_file_and_line(trial: Trial) -> None:
    seen = trial("brakes.py")
    brakes = {brake.name: brake for brake in seen.facts.brakes}
    assert brakes["anomaly detection"].place.endswith("brakes.py:9")
    assert brakes["gc.collect"].place.endswith("brakes.py:18")
    assert brakes["gc.collect"].times_per_step > 0.9
    assert brakes["a profiler"].place.endswith("brakes.py:19")


def test_nan_loss_is_seen(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\nmodel = nn.Linear(2, 1)\n"
        "opt = torch.optim.SGD(model.parameters(), lr=1e30)\n"
        "for _ in range(30):\n"
        "    loss = model(torch.randn(4, 2)).square().mean()\n"
        "    opt.zero_grad(); loss.backward(); opt.step()\n"
    )
    assert trial(text, text=True).run.nonfinite


def test_seed_offset_moves_global_streams_and_no_generator(trial: Trial) -> None:
    text = (
        "import random, numpy as np, torch\n"
        "torch.manual_seed(5); np.random.seed(5); random.seed(5)\n"
        "g = torch.Generator().manual_seed(5)\n"
        "print(torch.rand(1).item(), np.random.rand(), random.random())\n"
        "print(torch.rand(1, generator=g).item(), np.random.RandomState(5).rand())\n"
    )
    plain = trial(text, text=True, seed=0).output.splitlines()
    moved = trial(text, text=True, seed=3).output.splitlines()
    assert all(a != b for a, b in zip(plain[0].split(), moved[0].split(), strict=True))
    assert plain[1] == moved[1]


def test_script_without_a_seed_repeats_itself_in_trials(trial: Trial) -> None:
    text = (
        "import torch, numpy, random\nprint(torch.rand(1), numpy.random.rand(), random.random())\n"
    )
    assert trial(text, text=True).output == trial(text, text=True).output


def test_run_whose_agent_fails_is_ended_and_blamed_on_halftime(trial: Trial) -> None:
    endless = "import torch, time\nwhile True: time.sleep(0.1)\n"
    broken = {"memory_bytes": "many"}
    seen = trial(endless, text=True, technique="store", settings=broken)
    assert seen.run.cause.startswith("halftime's agent failed attaching to torch: TypeError")
    with pytest.raises(UserError, match=r"a fault of halftime's, not of train\.py"):
        check_baseline(seen.run, "train.py")


def test_deterministic_kernels_are_asked_for(trial: Trial) -> None:
    text = (
        "import os, torch\n"
        "print(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic)\n"
        "print(os.environ['CUBLAS_WORKSPACE_CONFIG'], os.environ['XLA_FLAGS'])\n"
    )
    said = trial(text, text=True, deterministic=True).output.splitlines()
    assert said == ["True True", ":4096:8 --xla_gpu_deterministic_ops=true"]


def test_evaluation_loss_is_the_mean_over_rows(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
        "model = nn.Linear(2, 3)\nopt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "x, y = torch.randn(10, 2), torch.randint(0, 3, (10,))\n"
        "for _ in range(5):\n"
        "    opt.zero_grad(); F.cross_entropy(model(x), y).backward(); opt.step()\n"
        "with torch.no_grad():\n"
        "    a = F.cross_entropy(model(x[:6]), y[:6], reduction='sum')\n"
        "    b = F.cross_entropy(model(x[6:]), y[6:], reduction='mean')\n"
        "    print((a.item() + 4 * b.item()) / 10)\n"
    )
    seen = trial(text, text=True)
    assert abs(seen.run.evaluation_losses[-1] - float(seen.output)) < 1e-5


def test_closure_is_counted_once_an_update_and_its_time_is_no_optimizers(trial: Trial) -> None:
    seen = trial("closure.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.updates in (29, 30)
    evaluations = int(seen.output.split()[0])
    assert evaluations > 60
    assert len(seen.run.losses) > 60  # every evaluation has a loss of its own
    for phase in ("forward", "backward", "optimizer"):
        assert sum(getattr(window, phase) for window in seen.run.windows) > 0
    inside = sum(w.forward + w.backward + w.optimizer for w in seen.run.windows)
    assert (
        inside <= sum(w.end - w.start for w in seen.run.windows) * 1.02
    )  # the first step begins before its window


def test_precision_scaler_and_accumulation_by_hand_are_seen_as_they_are(trial: Trial) -> None:
    seen = trial("by_hand.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.samples, seen.run.updates) == (80, 1280, 40)
    assert "mixed_precision" in seen.facts.already_on
    assert all(loss is not None and loss < 10 for loss in seen.run.losses)  # not the scaled ones


def test_policy_that_is_called_for_every_move_is_one_root(trial: Trial) -> None:
    seen = trial("policy_gradient.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.updates in (39, 40)
    (root,) = seen.facts.roots
    assert root.calls_per_update == 10


def test_zipped_loaders_are_one_step_and_no_evaluation(trial: Trial) -> None:
    seen = trial("zipped.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.updates == 20 + 15 + 10
    # Its other loader is known after three steps; until then it looks like an evaluation.
    assert len(seen.run.evaluations) <= 3


def test_script_without_an_optimizer_is_counted_by_its_backwards(trial: Trial) -> None:
    seen = trial("no_optimizer.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.samples, seen.run.updates) == (80, 1280, 80)
    assert (seen.facts.framework, seen.facts.optimizer) == ("torch", "")
    assert [root.class_name for root in seen.facts.roots] == ["torch.nn.modules.linear:Linear"]
    assert sum(window.forward for window in seen.run.windows) > 0


def test_validation_within_the_loop_is_no_step(trial: Trial) -> None:
    seen = trial("validates_within.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.samples, seen.run.updates) == (80, 1280, 80)
    assert len(seen.run.evaluations) == 8
    assert seen.facts.threads == 1


def test_script_that_compiles_by_itself_is_left_so(trial: Trial) -> None:
    seen = trial("compiles.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.updates) == (80, 80)
    assert "compile" in seen.facts.already_on
    assert [root.compiled for root in seen.facts.roots] == [True]


def test_evaluation_with_gradients_on_is_named_with_file_and_line(trial: Trial) -> None:
    from tests.conftest import SCRIPTS

    text = (SCRIPTS / "validates_within.py").read_text()
    text = text.replace("with torch.no_grad():", "with torch.enable_grad():")
    text = text.replace("% 10 == 0:", "% 10 == 0:\n            model.eval()")
    text = text.replace('print(f"val', 'model.train(); print(f"val')
    seen = trial(text, text=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    (brake,) = [b for b in seen.facts.brakes if b.name == "evaluation with gradients on"]
    assert "train.py:" in brake.place
    assert "evaluation with gradients on" not in {
        brake.name for brake in trial("validates_within.py").facts.brakes
    }


def test_line_that_waits_for_the_gpu_in_every_step_is_named(tmp_path: Path) -> None:
    """On a fake GPU: two lines wait for it in each step, the third in every tenth."""
    from halftime.agent.patches import Patches
    from halftime.agent.recorder import Recorder
    from halftime.frameworks.pytorch import brakes

    class OnGpu:
        is_cuda = True

        def item(self) -> float:
            return 1.0

        tolist = cpu = nonzero = __float__ = __int__ = item

        def __bool__(self) -> bool:
            return True

    idle = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1)
    torch = SimpleNamespace(
        set_anomaly_enabled=None, use_deterministic_algorithms=None, cuda=idle, Tensor=OnGpu,
        profiler=SimpleNamespace(profile=SimpleNamespace(start=lambda: None)),
        backends=SimpleNamespace(cudnn=SimpleNamespace(deterministic=True)),
    )  # fmt: skip
    for name in ("set_anomaly_enabled", "use_deterministic_algorithms"):
        setattr(torch, name, lambda mode: None)
    torch.cuda.empty_cache = torch.cuda.synchronize = lambda: None
    recorder = Recorder(str(tmp_path), 0.5, None, True)
    patches = Patches(recorder)
    collect = gc.collect
    try:
        brakes.observe(torch, recorder, patches, syncs=True)
        for step in range(20):
            recorder.steps = step + 1
            OnGpu().item()
            while OnGpu():
                break
            if step % 10 == 0:
                OnGpu().cpu()
        patches.finish()
    finally:
        gc.collect = collect
    events = [json.loads(line) for line in next(tmp_path.glob("events-*")).read_text().splitlines()]
    brake, condition, standing = [event for event in events if event["event"] == "brake"]
    assert standing["name"] == "cudnn.deterministic"
    assert brake["name"] == "the host waits for the GPU in .item()"
    assert "test_observation.py:" in brake["place"]
    assert brake["times_per_step"] == condition["times_per_step"] == 1.0
    assert condition["name"] == "the host waits for the GPU in a condition"


def test_sampler_without_an_end_is_replayed_all_the_same(trial: Trial) -> None:
    text = (
        "import torch\nfrom torch import nn\n"
        "from torch.utils.data import DataLoader, RandomSampler, TensorDataset\n"
        "data = TensorDataset(torch.randn(64, 4))\n"
        "endless = RandomSampler(data, replacement=True, num_samples=10**10)\n"
        "model = nn.Linear(4, 1)\nopt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for (x,) in DataLoader(data, batch_size=8, sampler=endless):\n"
        "    loss = model(x).square().mean()\n"
        "    opt.zero_grad(); loss.backward(); opt.step()\n"
    )
    seen = trial(
        text, text=True, stop_after={"steps": 40},
        ablation={"batches": 8, "drain_seconds": 0.5},
    )  # fmt: skip
    assert seen.run.outcome == "window", seen.run.cause
    (facts,) = seen.all("loader_facts")
    assert facts["deterministic"]
    assert facts["item_seconds"] > 0
