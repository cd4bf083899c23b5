"""The journal: nothing acknowledged is lost, nothing is counted twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from halftime.agent.places import packages_in
from halftime.errors import NotMeasured, UserError
from halftime.measure.command import digest_of_script
from halftime.measure.events import read_run
from halftime.measure.launch import Ended
from halftime.records import Reading, Run
from halftime.trials.bench import refuse_changed_packages
from halftime.trials.study import Study, lock_host
from tests.conftest import make_run, make_window


def a_run(folder: Path) -> Run:
    window = make_window(0, 1, 10, losses=((0, 0, 0.5), (1, 0, None)))
    return make_run([window], folder=str(folder))


def test_run_that_the_journal_has_is_not_made_again(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", {"x": 1})
    made = []
    first = study.obtain("screen/0/store", lambda folder: made.append(folder) or a_run(folder))
    study.close()
    again = Study(tmp_path / "s", None)
    assert (
        again.obtain("screen/0/store", lambda folder: made.append(folder) or a_run(folder)) == first
    )
    assert len(made) == 1


def test_loss_that_is_no_number_survives_the_journal(tmp_path: Path) -> None:
    (tmp_path / "events-1.jsonl").write_text(
        '{"event": "hello", "time": 0}\n{"event": "training", "loader": 0, "time": 1}\n'
        '{"event": "evaluation_loss", "value": NaN}\n{"event": "evaluation_loss", "value": 0.5}\n'
        '{"event": "end", "time": 2, "training_end": 2}\n'
    )
    ended = Ended(spawned=0.0, ended=3.0, exit_code=0, killed="", setup_failure="", peak_bytes=1)
    quiet = Reading(cpu_pressure_share=0.0, steal_share=0.0, load_before=0.0)
    run = read_run(tmp_path, ended, quiet)
    assert run.evaluation_losses == (None, 0.5)
    study = Study(tmp_path / "s", {})
    study.obtain("pilot/0/baseline", lambda folder: run)
    assert study.runs()[0][1].evaluation_losses == (None, 0.5)


def test_early_run_that_is_asked_for_again_does_not_turn_the_clock_back(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", {})
    study.obtain("preflight/0/baseline", a_run)
    study.obtain("pilot/0/baseline", a_run)
    spent = study.spent
    study.obtain("preflight/0/baseline", a_run)
    assert study.spent == spent > 0


def test_run_that_was_interrupted_is_made_again_in_a_folder_of_its_own(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", {})

    def stopped(folder: Path) -> Run:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.obtain("pilot/0/baseline", stopped)
    run = study.obtain("pilot/0/baseline", a_run)
    assert "again" in run.folder
    assert len(study.runs()) == 1


def test_what_a_stopped_run_wrote_is_deleted(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", {})

    def stopped(folder: Path) -> Run:
        (folder / "work").mkdir()
        (folder / "work" / "checkpoint.pt").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.obtain("pilot/0/baseline", stopped)
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_runs_made_together_are_acknowledged_together(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", {})
    first = study.obtain("parity/0/baseline", a_run)
    made: list[list[Path]] = []

    def make(folders: list[Path]) -> list[Run]:
        made.append(folders)
        return [a_run(folder) for folder in folders]

    keys = ["parity/0/baseline", "parity/0/store", "parity/1/baseline"]
    runs = study.obtain_together(keys, make)
    assert runs[0].folder == first.folder
    assert [Path(run.folder).name for run in runs] == [
        "0001-parity-0-baseline", "0002-parity-0-store", "0003-parity-1-baseline"
    ]  # fmt: skip
    assert study.obtain_together(keys, make) == runs
    assert [len(folders) for folders in made] == [2]
    assert [key for key, _ in study.runs()] == keys


def test_run_that_failed_beside_others_is_made_again_alone(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", {})

    def crowded(folders: list[Path]) -> list[Run]:
        good, bad = (a_run(folder) for folder in folders)
        return [good, replace(bad, outcome="failed", cause="killed at the wall limit of 9 s")]

    keys = ["parity/0/baseline", "parity/0/store"]
    runs = study.obtain_together(keys, crowded)
    assert [run.outcome for run in runs] == ["completed", "failed"]
    assert [key for key, _ in study.runs()] == keys[:1]
    assert study.obtain(keys[1], a_run).outcome == "completed"
    assert [Path(run.folder).name for _, run in study.runs()] == [
        "0001-parity-0-baseline", "0002-parity-0-store-again1"
    ]  # fmt: skip


def test_read_only_study_makes_no_run(tmp_path: Path) -> None:
    Study(tmp_path / "s", {}).close()
    with pytest.raises(NotMeasured, match="pilot/0/baseline"):
        Study(tmp_path / "s", None, read_only=True).obtain("pilot/0/baseline", a_run)


def test_journal_of_a_newer_halftime_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", {})
    study.close()
    journal = sqlite3.connect(tmp_path / "s" / "journal.sqlite")
    journal.execute("PRAGMA user_version=99")
    journal.commit()
    journal.close()
    before = (tmp_path / "s" / "journal.sqlite").read_bytes()
    with pytest.raises(UserError, match="newer halftime"):
        Study(tmp_path / "s", None)
    assert (tmp_path / "s" / "journal.sqlite").read_bytes() == before


def test_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    Study(tmp_path / "s", {}).close()
    for name in (tmp_path / "s").glob("journal.sqlite*"):
        name.unlink()
    (tmp_path / "s" / "journal.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="left as it is"):
        Study(tmp_path / "s", None)
    assert (tmp_path / "s" / "journal.sqlite").read_bytes() == b"not a database" * 100


def test_folder_that_cannot_be_written_is_said_before_any_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--study DIR"):
        Study(tmp_path / "file" / "s", {})


_WRITER = """
import sys, time
from pathlib import Path
from tests.conftest import make_run
from halftime.trials.study import Study
study = Study(Path(sys.argv[1]), {})
number = len(study.runs())
while True:
    study.obtain(f"screen/{number}/arm", lambda folder: make_run(folder=str(folder)))
    print(number, flush=True)
    number += 1
"""


def test_kill_at_any_point_loses_no_acknowledged_run(tmp_path: Path) -> None:
    place = tmp_path / "s"
    acknowledged: list[int] = []
    for attempt in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(place)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert writer.stdout is not None
        acknowledged.append(int(writer.stdout.readline()))
        deadline = time.monotonic() + 0.013 * attempt
        while time.monotonic() < deadline:
            acknowledged.append(int(writer.stdout.readline()))
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout.read().splitlines()]
        writer.wait()
        writer.stdout.close()
    assert sorted(acknowledged) == sorted(set(acknowledged))
    keys = [key for key, _ in Study(place, None).runs()]
    assert len(keys) == len(set(keys))
    assert {f"screen/{number}/arm" for number in acknowledged} <= set(keys)


def test_second_halftime_on_the_host_is_told_the_first_ones_pid() -> None:
    first = lock_host()
    try:
        with pytest.raises(UserError, match=f"pid {os.getpid()}"):
            lock_host()
    finally:
        first.release()


def test_changed_script_has_another_digest(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("a = 1")
    before = digest_of_script(str(script))
    script.write_text("a = 2")
    assert digest_of_script(str(script)) != before


def test_runs_under_other_packages_are_not_mixed(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    for name in ("numpy-2.1.0", "halftime-0.1"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    observed = [{"event": "packages", "folders": packages_in([str(packages), str(tmp_path)])}]
    study = Study(tmp_path / "s", {})
    refuse_changed_packages(study, observed)
    (packages / "halftime-0.1.dist-info").rename(packages / "halftime-0.2.dist-info")
    refuse_changed_packages(study, observed)
    (packages / "numpy-2.1.0.dist-info").rename(packages / "numpy-2.2.0.dist-info")
    with pytest.raises(UserError, match=r"\(numpy-2.1.0, numpy-2.2.0\)"):
        refuse_changed_packages(study, observed)


def test_baseline_that_failed_is_made_again_by_a_later_process_and_kept(tmp_path: Path) -> None:
    key = "pilot/0/baseline"
    study = Study(tmp_path / "s", {})
    study.obtain(key, lambda folder: make_run(folder=str(folder), outcome="failed", cause="full"))
    study.set_failure_aside(key)
    assert study.knows(key), "in the same process it stands"
    study.close()
    later = Study(tmp_path / "s", None)
    later.set_failure_aside(key)
    assert later.obtain(key, a_run).outcome == "completed"
    assert [name for name, _ in later.runs()] == [f"{key}, failed 1", key]
