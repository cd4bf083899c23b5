"""Step marks from what the hooks say, on a clock of the test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halftime.agent.recorder import Recorder
from halftime.measure.events import read_windows


class Script:
    """Plays a training script into a recorder; time moves only when it says so."""

    def __init__(self, folder: Path, **stop: float) -> None:
        self.now = 0.0
        self.folder = folder
        self.recorder = Recorder(str(folder), 0.5, stop or None, True, now=lambda: self.now)
        self.recorder.pauses_when_done = False

    def batch(self, loader: int, wait: float, samples: int = 10) -> None:
        asked = self.now
        self.recorder.requested(loader, asked)
        self.now += wait
        self.recorder.received(loader, asked, self.now, samples)

    def update(self, seconds: float, optimizer: int = 1) -> None:
        self.now += seconds
        self.recorder.updated(optimizer, self.now)

    def exhaust(self, loader: int) -> None:
        self.recorder.requested(loader, self.now)
        self.recorder.exhausted(loader, self.now)

    def end(self) -> list[dict[str, object]]:
        self.recorder.end("exit")
        (path,) = self.folder.glob("events-*.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


def total(events: list[dict[str, object]], field: str) -> float:
    return sum(e[field] for e in events if e["event"] == "window")  # type: ignore[misc]


def test_step_contains_the_wait_for_its_batch(tmp_path: Path) -> None:
    script = Script(tmp_path)
    for _ in range(20):
        script.batch(0, wait=0.06)
        script.update(0.04)
    events = script.end()
    durations = [d for e in events if e["event"] == "window" for d in e["durations"]]  # type: ignore[attr-defined]
    assert durations == pytest.approx([0.1] * 20)
    assert total(events, "wait") == pytest.approx(20 * 0.06)
    assert total(events, "samples") == 200


def test_evaluation_between_epochs_is_no_step_and_is_charged_to_itself(tmp_path: Path) -> None:
    script = Script(tmp_path)
    for _ in range(2):
        for _ in range(10):
            script.batch(0, wait=0.05)
            script.update(0.05)
        script.exhaust(0)
        for _ in range(4):
            script.batch(1, wait=0.25)
        script.exhaust(1)
    events = script.end()
    assert total(events, "steps") == 20
    assert total(events, "evaluation") == pytest.approx(2.0)
    assert total(events, "wait") == pytest.approx(20 * 0.05)


def test_zipped_loaders_make_one_step_and_no_evaluation(tmp_path: Path) -> None:
    script = Script(tmp_path)
    for _ in range(30):
        script.batch(0, wait=0.02)
        script.batch(1, wait=0.02)
        script.update(0.06)
    events = script.end()
    assert total(events, "steps") == pytest.approx(30, abs=1)
    assert total(events, "evaluation") == pytest.approx(0, abs=0.1)


def test_loader_made_anew_each_epoch_stays_the_training(tmp_path: Path) -> None:
    script = Script(tmp_path)
    for epoch in range(3):
        for _ in range(10):
            script.batch(epoch, wait=0.05)
            script.update(0.05)
        script.exhaust(epoch)
    events = script.end()
    assert total(events, "steps") == 30
    assert total(events, "samples") == 300


def test_without_a_loader_a_step_runs_from_update_to_update(tmp_path: Path) -> None:
    script = Script(tmp_path)
    for _ in range(21):
        script.update(0.1, optimizer=7)
        script.update(0.1, optimizer=8)  # a second optimizer in the same step
    events = script.end()
    assert total(events, "steps") == 20
    assert total(events, "updates") in (40, 41, 42)


def test_several_batches_an_update_are_several_steps(tmp_path: Path) -> None:
    script = Script(tmp_path)
    for _ in range(10):
        for _ in range(4):
            script.batch(0, wait=0.02)
        script.update(0.02)
    events = script.end()
    assert total(events, "steps") == 40
    assert total(events, "updates") == 10


def test_last_update_of_a_trainer_that_asks_ahead_is_kept(tmp_path: Path) -> None:
    script = Script(tmp_path)
    script.batch(0, wait=0.0)
    for _ in range(9):
        script.batch(0, wait=0.0)
        script.update(0.05)
    script.now += 0.3
    script.exhaust(0)  # a window ends here
    script.recorder.losses.append((9, 0, 1.5))
    script.update(0.05)
    windows = read_windows(script.end(), spawned=0.0)
    assert [(w.steps, w.updates) for w in windows] == [(10, 10)]
    assert windows[0].losses == ((9, 0, 1.5),)


def test_window_is_flushed_at_the_sample_that_was_asked_for(tmp_path: Path) -> None:
    script = Script(tmp_path, samples=50)
    for _ in range(20):
        script.batch(0, wait=0.01)
        script.update(0.01)
    (path,) = tmp_path.glob("events-*.jsonl")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert events[-1]["event"] == "end"
    assert events[-1]["reason"] == "window"
    assert total(events, "samples") == 50


def test_full_disk_ends_the_observation_and_not_the_script(tmp_path: Path) -> None:
    script = Script(tmp_path / "missing")
    script.batch(0, wait=0.01)
    assert script.recorder.off
