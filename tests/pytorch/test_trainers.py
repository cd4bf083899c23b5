"""Trainers that people use, on the real thing: what is seen of them, and their own switches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from halftime.agent.patches import Patches
from halftime.agent.recorder import Recorder
from halftime.frameworks.pytorch import trainers
from halftime.plan.dialect import in_words_of
from halftime.records import Candidate, Switch
from tests.observed import Observed

Trial = Callable[..., Observed]


@pytest.mark.parametrize(
    ("script", "trainer", "epochs"),
    [
        ("lightning_fit.py", "lightning", 3),
        ("fabric_loop.py", "fabric", 2),
        ("hf_trainer.py", "transformers", 2),
        ("ignite_engine.py", "ignite", 3),
    ],
)
def test_steps_samples_and_losses_are_the_loops_own(
    trial: Trial, script: str, trainer: str, epochs: int
) -> None:
    seen = trial(script)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.facts.trainer == trainer
    assert (seen.run.steps, seen.run.updates) == (40 * epochs, 40 * epochs)
    assert seen.run.samples == 640 * epochs
    assert len(seen.run.losses) == 40 * epochs
    assert all(loss is not None and 0 < loss < 3 for loss in seen.run.losses)
    if trainer != "fabric":  # the loop is the script's own
        assert seen.facts.planned_samples == 640 * epochs
    inside = sum(w.forward + w.backward + w.optimizer + w.wait for w in seen.run.windows)
    assert 0 < inside <= sum(w.end - w.start for w in seen.run.windows) * 1.001


def test_accumulation_of_accelerate_is_seen_as_batches_and_updates(trial: Trial) -> None:
    seen = trial("accelerate_loop.py")
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.facts.trainer == "accelerate"
    assert (seen.run.steps, seen.run.samples, seen.run.updates) == (80, 1280, 40)


@pytest.mark.parametrize(
    ("script", "metric", "epochs"),
    [("lightning_fit.py", "val_acc", 3), ("hf_trainer.py", "eval_accuracy", 2),
     ("ignite_engine.py", "accuracy", 3)],
)  # fmt: skip
def test_validation_metrics_are_the_trainers_own(
    trial: Trial, script: str, metric: str, epochs: int
) -> None:
    seen = trial(script)
    values = [value for name, value in seen.run.reported_metrics if name == metric]
    assert len(values) == epochs, seen.run.reported_metrics
    assert all(0 <= value <= 1 for value in values)
    assert len(seen.run.evaluations) >= epochs


@pytest.mark.parametrize(
    ("script", "said"),
    [("lightning_fit.py", "precision bf16-mixed"), ("hf_trainer.py", "bf16 True"),
     ("accelerate_loop.py", "precision bf16")],
)  # fmt: skip
def test_mixed_precision_is_told_to_the_trainer_and_takes_effect(
    trial: Trial, script: str, said: str
) -> None:
    seen = trial(script, technique="mixed_precision", settings={"dtype": "bfloat16"})
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert said in seen.output
    assert "bfloat16" in seen.run.effects["mixed_precision"]["dtype"]


def test_what_the_script_tells_its_trainer_stays(trial: Trial) -> None:
    from tests.conftest import SCRIPTS

    text = (SCRIPTS / "lightning_fit.py").read_text()
    text = text.replace("max_epochs=3,", 'max_epochs=3, precision="32-true",')
    seen = trial(text, text=True, technique="mixed_precision", settings={"dtype": "bfloat16"})
    assert "precision 32-true" in seen.output
    assert "bfloat16" in seen.run.effects["mixed_precision"]["dtype"]  # around the model itself


def test_plan_is_told_in_the_trainers_words_and_what_has_none_is_named() -> None:
    def switch(technique: str, **settings: object) -> Switch:
        return Switch(technique=technique, settings=settings, numerics="rounding")

    stack = Candidate(
        switches=(switch("store"), switch("mixed_precision", dtype="bfloat16"),
                  switch("workers", count=2))
    )  # fmt: skip
    assert in_words_of("", stack) == ()
    assert in_words_of("lightning", stack) == (
        "in Lightning's own words: Trainer(precision='bf16-mixed')",
        "Lightning has no word for: store, workers",
    )
    assert in_words_of("fabric", stack)[0].endswith("Fabric(precision='bf16-mixed')")
    assert "bf16=True, dataloader_num_workers=2" in in_words_of("transformers", stack)[0]
    argument, line, _ = in_words_of("accelerate", stack)
    assert "Accelerator(mixed_precision='bf16')" in argument
    assert "accelerate config" in line
    assert line.endswith("mixed_precision: bf16")


@pytest.mark.parametrize("script", ["lightning_fit.py", "hf_trainer.py"])
def test_accumulation_is_told_to_the_trainer(trial: Trial, script: str) -> None:
    plain = trial(script)
    settings = {"count": 4, "trainer": plain.facts.trainer}
    seen = trial(script, technique="gradient_accumulation", settings=settings)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["gradient_accumulation"]["count"] == 4
    assert (seen.run.steps, seen.run.samples) == (plain.run.steps, plain.run.samples)
    assert seen.run.updates == plain.run.updates / 4


@pytest.mark.parametrize("package", sorted(trainers.PACKAGES))
def test_trainer_of_an_unknown_version_is_said_and_steps_aside(
    tmp_path: Path, package: str
) -> None:
    recorder = Recorder(str(tmp_path), 0.5, None, True)
    orders = {"switches": [], "framework": "torch"}
    unknown = SimpleNamespace(__name__=package)
    if package == "accelerate.accelerator":
        unknown.Accelerator = object  # it has no prepare
    trainers.attach(unknown, recorder, Patches(recorder), orders)
    (note,) = map(json.loads, next(tmp_path.glob("events-*")).read_text().splitlines())
    assert "a version that halftime does not know" in note["text"]
    assert not recorder.off
