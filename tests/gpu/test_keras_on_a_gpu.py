"""Keras on a GPU by JAX and by PyTorch, without TensorFlow, and JAX' own scripts."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest

from halftime.trials.candidates import propose
from tests.conftest import SCRIPTS, make_diagnosis
from tests.observed import Observed

SCRIPT = "keras_on_a_gpu.py"
Trial = Callable[..., Observed]
Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["jax", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if importlib.util.find_spec("keras") is None:
        pytest.skip("there is no Keras")
    monkeypatch.setenv("KERAS_BACKEND", request.param)
    # JAX would take three quarters of the GPU's memory, which tests share.
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return str(request.param)


def test_what_feeds_keras_and_what_it_trains_are_seen(trial: Trial, backend: str) -> None:
    kinds = {"arrays": "arrays in memory", "py_dataset": "a PyDataset", "torch": "DataLoader"}
    for feed, kind in kinds.items():
        seen = trial(SCRIPT, "--feed", feed, training_loader=None, looks_closely=True)
        assert seen.run.outcome == "completed", seen.run.last_lines
        assert (seen.facts.framework, seen.facts.backend) == ("keras", backend)
        assert seen.facts.device == "cuda"
        assert (seen.run.samples, seen.run.updates) == (2048, 64), feed
        assert len(seen.run.losses) == 64
        assert all(0 < loss < 5 for loss in seen.run.losses)
        assert seen.facts.kind_of_feed == kind
        print(backend, feed, seen.facts)


def test_what_is_proposed_acts_and_trains_the_same(trial: Trial, backend: str) -> None:
    for feed in ("arrays", "torch"):
        seen = trial(SCRIPT, "--feed", feed)
        facts = replace(seen.facts, bfloat16_units=True)  # which the machine of these tests lacks
        diagnosis = make_diagnosis(facts, wait=0.4)
        candidates, refused = propose(facts, diagnosis, (), ("backend", "gradient_accumulation"))
        print(backend, feed, *refused, sep="\n")
        assert candidates
        for candidate in candidates:
            (switch,) = candidate.switches
            arm = trial(
                SCRIPT, "--feed", feed, technique=switch.technique, settings=dict(switch.settings),
                framework="keras", fed_by=seen.facts.kind_of_feed,
            )  # fmt: skip
            assert arm.run.outcome == "completed", (switch, arm.run.last_lines)
            print(backend, feed, switch, arm.run.effects, arm.run.refused)
            assert switch.technique in arm.run.effects, (switch, arm.run.refused)
            assert arm.run.samples == seen.run.samples
            if switch.numerics == "exact":
                assert arm.run.losses == pytest.approx(seen.run.losses, rel=1e-3)
            held_out = [float(re.findall(r"test loss ([\d.]+)", o.output)[0]) for o in (seen, arm)]
            assert held_out[1] == pytest.approx(held_out[0], rel=0.1)


def test_diagnosis_of_keras_names_the_gpu(halftime: Program, backend: str) -> None:
    script = str(SCRIPTS / SCRIPT)
    done = halftime("diagnose", "--budget", "2m", script, "--epochs", "2000", "--width", "512")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "compute-bound: 100% of a step on NVIDIA" in done.stdout


@pytest.mark.parametrize("technique", ["compilation_cache", "matmul_precision"])
def test_techniques_of_jax_act(
    trial: Trial, technique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    seen = trial("jax_step.py", framework="jax")
    facts = replace(seen.facts, bfloat16_units=True)  # which the machine of these tests lacks
    candidates, refused = propose(facts, make_diagnosis(facts), [technique], ())
    assert candidates, refused
    (switch,) = candidates[0].switches
    settings = dict(switch.settings)
    arm = trial("jax_step.py", framework="jax", technique=technique, settings=settings)
    assert arm.run.outcome == "completed", arm.run.last_lines
    assert technique in arm.run.effects, arm.run.refused
    said = [float(loss) for loss in re.findall(r"loss ([\d.]+)", seen.output + arm.output)]
    assert said[:3] == pytest.approx(said[3:], rel=0.05)
