"""What only a GPU can show: device times, syncs, and the techniques that act on it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from halftime.measure.diagnose import explain
from halftime.measure.environment import this_machine
from halftime.measure.events import read_facts
from halftime.records import Diagnosis, Facts
from tests.conftest import SCRIPTS
from tests.observed import Observed

SCRIPT = "on_a_gpu.py"
Trial = Callable[..., Observed]
Program = Callable[..., "subprocess.CompletedProcess[str]"]


def losses_of(seen: Observed) -> list[float | None]:
    return [loss for window in seen.run.windows for _, _, loss in window.losses]


def facts_of(*observed: Observed) -> Facts:
    """The facts of the first run, with what the others learnt."""
    first, *others = observed
    process = next(e["process"] for e in first.events if e["event"] == "training")
    learnt = [
        {**event, "process": process}
        for other in others
        for event in other.events
        if event["event"] in ("loader_facts", "device_alone")
    ]
    return read_facts([*first.events, *learnt], this_machine())


def diagnosed(trial: Trial, *arguments: str) -> Diagnosis:
    """As `sharpen` does: the observed run, the replay, the trace."""
    from halftime.measure.steady import steady_rate

    seen = trial(
        SCRIPT, *arguments, stop_after={"seconds": 3.0}, training_loader=None, looks_closely=True
    )
    replay = trial(
        SCRIPT, *arguments, stop_after={"seconds": 2.0},
        ablation={"batches": 8, "drain_seconds": 0.5},
    )  # fmt: skip
    traced = trial(SCRIPT, *arguments, traces_device=True, stop_after={"seconds": 30.0})
    facts = facts_of(seen, replay, traced)
    assert facts.device_step is not None
    assert traced.run.outcome == "window"
    rates = steady_rate(replay.run), steady_rate(seen.run)
    return explain(seen.run.windows, facts, seen.run, *rates)


def test_steps_losses_times_and_memory_of_a_loop_are_seen(trial: Trial) -> None:
    seen = trial(SCRIPT, "--epochs", "20", training_loader=None, looks_closely=True)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert (seen.run.steps, seen.run.samples) == (20 * 16, 20 * 512)
    facts = facts_of(seen)
    assert facts.device == "cuda"
    assert "NVIDIA" in facts.device_name
    assert facts.bfloat16_units
    (loader,) = facts.loaders
    assert loader.goes_to_gpu
    assert (seen.run.device_peak_bytes or 0) > 1_000_000
    losses = losses_of(seen)
    assert len(losses) == 20 * 16
    said = [float(value) for value in re.findall(r"loss ([\d.]+)", seen.output)]
    assert said == [round(loss or 0.0, 4) for loss in losses[15::16]]
    total = sum(w.end - w.start for w in seen.run.windows)
    for phase in ("forward", "backward", "optimizer"):
        assert 0 < sum(getattr(w, phase) for w in seen.run.windows) < total


def test_script_that_never_waits_for_the_gpu_is_not_told_that_it_does(trial: Trial) -> None:
    seen = trial(SCRIPT, "--epochs", "20", training_loader=None, looks_closely=True)
    assert not facts_of(seen).brakes


def test_where_the_script_waits_for_the_gpu_is_named_with_its_line(trial: Trial) -> None:
    seen = trial(SCRIPT, "--item-each-step", training_loader=None, looks_closely=True)
    brakes = facts_of(seen).brakes
    (brake,) = [brake for brake in brakes if "waits for the GPU in .item()" in brake.name]
    line = 1 + (SCRIPTS / SCRIPT).read_text().splitlines().index("            loss.item()")
    assert brake.place.endswith(f"{SCRIPT}:{line}")
    assert brake.times_per_step == pytest.approx(1, abs=0.1)


def test_batch_that_is_also_used_on_the_host_does_not_go_to_the_gpu_alone(trial: Trial) -> None:
    seen = trial(SCRIPT, "--looks-at-batch", training_loader=None, looks_closely=True)
    assert not facts_of(seen).loaders[0].goes_to_gpu


def test_cache_that_is_emptied_in_each_step_is_released(trial: Trial) -> None:
    seen = trial(SCRIPT, "--empties-cache", training_loader=None)
    assert "cuda.empty_cache" in [brake.name for brake in facts_of(seen).brakes]
    release = {"release": ["cuda.empty_cache"]}
    released = trial(SCRIPT, "--empties-cache", technique="brakes", settings=release)
    assert released.run.effects["brakes"]["released"] == "cuda.empty_cache"
    assert losses_of(released) == losses_of(seen)


ROUNDING = [
    ("mixed_precision", {"dtype": "bfloat16"}, "linear"),
    ("mixed_precision", {"dtype": "float16"}, "linear"),
    ("mixed_precision", {"dtype": "bfloat16"}, "convolutions"),
    ("channels_last", {}, "convolutions"),
    ("fused_optimizer", {}, "linear"),
    ("compilation", {"mode": "default"}, "linear"),
    ("compilation", {"mode": "reduce-overhead"}, "linear"),
    ("matmul_precision", {"precision": "high"}, "linear"),
    ("cudnn_autotune", {}, "convolutions"),
    ("activation_checkpointing", {}, "linear"),
]


@pytest.mark.parametrize(("technique", "settings", "model"), ROUNDING)
def test_technique_acts_and_the_training_stays_close(
    trial: Trial, technique: str, settings: dict[str, object], model: str
) -> None:
    seen = trial(SCRIPT, "--model", model, "--clip")
    roots = ("torch.nn.modules.container:Sequential",)
    arm = trial(
        SCRIPT, "--model", model, "--clip", technique=technique, settings=settings, roots=roots
    )
    assert arm.run.outcome == "completed", arm.run.last_lines
    assert technique in arm.run.effects, arm.run.refused
    assert len(seen.run.losses) == 64  # which are all finite
    assert arm.run.losses == pytest.approx(seen.run.losses, rel=0.05, abs=0.05)


@pytest.mark.parametrize(
    ("technique", "arguments"),
    [
        ("store", ()),
        ("pinned_memory", ()),
        ("prefetch", ()),
        ("device_data", ()),
        ("device_data", ("--pins",)),
        ("device_data", ("--looks-at-batch",)),
    ],
)
def test_technique_acts_and_losses_are_the_same_bit_for_bit(
    trial: Trial, technique: str, arguments: tuple[str, ...]
) -> None:
    seen = trial(SCRIPT, *arguments)
    arm = trial(SCRIPT, *arguments, technique=technique)
    assert arm.run.outcome == "completed", arm.run.last_lines
    assert technique in arm.run.effects, arm.run.refused
    assert losses_of(arm) == losses_of(seen)


@pytest.mark.parametrize("technique", ["store", "device_data"])
def test_batches_are_the_same_bit_for_bit(trial: Trial, technique: str) -> None:
    witness = {"batches": True, "cycle": 4, "gradients": 0}
    seen = trial(SCRIPT, witness=witness)
    arm = trial(SCRIPT, witness=witness, technique=technique)
    assert arm.digests == seen.digests


def test_gradients_are_written_for_the_witness(trial: Trial) -> None:
    seen = trial(SCRIPT, witness={"batches": False, "cycle": None, "gradients": 4})
    assert len(seen.all("gradients")) == 4
    (path,) = seen.folder.glob("gradients-*.f32")
    assert path.stat().st_size > 4 * 4 * 10_000


def test_activations_that_are_computed_again_save_memory(trial: Trial) -> None:
    arguments = ("--model", "chain", "--samples", "8192", "--batch", "8192", "--epochs", "2")
    roots = ("torch.nn.modules.container:Sequential",)
    seen = trial(SCRIPT, *arguments, roots=roots)
    arm = trial(SCRIPT, *arguments, technique="activation_checkpointing", roots=roots)
    assert (arm.run.device_peak_bytes or 0) < (seen.run.device_peak_bytes or 0)


def test_gpu_that_is_full_is_told_as_out_of_memory(trial: Trial) -> None:
    seen = trial(SCRIPT, "--hoards")
    assert (seen.run.outcome, seen.run.cause) == ("failed", "out of memory")


@pytest.mark.parametrize(
    ("arguments", "bottleneck"),
    [
        (("--slow-data", "--epochs", "400"), "data-bound"),
        (("--model", "chain", "--epochs", "4000"), "host-bound"),
        (("--model", "large", "--batch", "512", "--epochs", "4000"), "compute-bound"),
    ],
)
def test_bottleneck_that_is_known_is_named(
    trial: Trial, arguments: tuple[str, ...], bottleneck: str
) -> None:
    seen = diagnosed(trial, *arguments)
    print(seen)
    assert seen.findings[0].bottleneck == bottleneck, seen
    assert seen.idle_device == "GPU"


@pytest.mark.parametrize(
    ("script", "trainer"),
    [
        ("lightning_fit.py", "lightning"),
        ("hf_trainer.py", "transformers"),
        ("accelerate_loop.py", "accelerate"),
    ],
)
def test_trainer_is_observed(trial: Trial, script: str, trainer: str) -> None:
    seen = trial(script, training_loader=None)
    assert seen.run.outcome == "completed", seen.run.last_lines
    facts = facts_of(seen)
    assert facts.trainer == trainer
    assert seen.run.steps > 0
    assert losses_of(seen)
    print(script, facts.device, facts.loaders, facts.brakes)


def test_jax_on_a_gpu_is_observed(trial: Trial) -> None:
    seen = trial("jax_step.py", framework="jax")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert facts_of(seen).device == "cuda"
    arm = trial(
        "jax_step.py", framework="jax", technique="matmul_precision",
        settings={"precision": "BF16_BF16_F32"},
    )  # fmt: skip
    assert arm.run.outcome == "completed", arm.run.last_lines
    assert "matmul_precision" in arm.run.effects, arm.run.refused


def test_diagnosis_of_a_script_says_gpu(halftime: Program, tmp_path: Path) -> None:
    script = str(SCRIPTS / SCRIPT)
    done = halftime("diagnose", "--budget", "2m", script, "--epochs", "400", "--model", "chain")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "GPU idle" in done.stdout
    assert "kernels" in done.stdout
