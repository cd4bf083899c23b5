"""Keras models that a DataLoader of PyTorch feeds: its techniques act, and change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halftime.frameworks import DATA_LOADER
from halftime.trials import parity
from halftime.trials.candidates import techniques
from tests.conftest import make_diagnosis, make_facts, make_loader
from tests.observed import Observed

Trial = Callable[..., Observed]
SCRIPT = "keras_torch_loader.py"
UNDER = {
    "framework": "keras",
    "fed_by": DATA_LOADER,
    "witness": {"batches": True, "cycle": None, "gradients": 0},
}


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_store_serves_the_same_batches(
    trial: Trial, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    plain = trial(SCRIPT, **UNDER)
    seen = trial(SCRIPT, technique="store", **UNDER)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.refused == ()
    assert seen.run.effects["store"]["batches_served"] > 200
    assert parity.same_batches(plain.run, seen.run, 0, from_a_store=True)[0]
    assert seen.output == plain.output


def test_batches_are_fetched_beside_the_training(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    plain = trial(SCRIPT, **UNDER)
    loader = plain.facts.fed_by()
    assert loader is not None
    assert (loader.ordinal, loader.place[-5:]) == (0, "py:23")
    assert loader.made_as != loader.ordinal
    seen = trial(SCRIPT, technique="prefetch", **UNDER)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert "prefetch" in seen.run.effects
    equal, said = parity.same_batches(plain.run, seen.run, 0)
    assert equal, said
    assert seen.output == plain.output


@pytest.mark.parametrize(("backend", "why"), [("tensorflow", "crash"), ("torch", "shuffle anew")])
def test_workers_are_not_started_where_keras_would_change_the_order(backend: str, why: str) -> None:
    facts = make_facts(framework="keras", backend=backend)
    (proposal,) = techniques(facts)["workers"].settings_to_try(facts, make_diagnosis())
    assert proposal.switch is None
    assert why in proposal.reason


def test_workers_of_the_loader_that_keras_is_fed_are_set(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    loader = trial(SCRIPT, **UNDER).facts.fed_by()
    assert loader is not None
    settings = {"count": 1, "made_as": loader.made_as}
    seen = trial(SCRIPT, technique="workers", settings=settings, **UNDER)
    assert seen.run.outcome == "completed", seen.run.last_lines
    assert seen.run.effects["workers"]["workers_alive"] == 1


def test_techniques_are_those_of_what_feeds_the_training() -> None:
    of_torch = make_facts(framework="keras")
    of_a_pipeline = make_facts(make_loader(kind="tf.data"), framework="keras")
    names = ("store", "workers", "prefetch")
    for facts, folder in ((of_torch, "pytorch"), (of_a_pipeline, "tensorflow")):
        found = {techniques(facts)[name].__name__.split(".")[2] for name in names}  # type: ignore[attr-defined]
        assert found <= {folder, "keras"}
        assert folder in found
    assert "memory_bytes" in proposed(of_torch)
    assert "most_bytes" in proposed(of_a_pipeline)


def proposed(facts: object) -> dict[str, object]:
    """The settings of a store for these facts."""
    (proposal,) = techniques(facts)["store"].settings_to_try(facts, make_diagnosis())  # type: ignore[arg-type]
    assert proposal.switch is not None, proposal.reason
    return proposal.switch.settings
