"""Arguments: ours before the script, the script's own after it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from halftime.cli import main, parse_options, split_words
from halftime.errors import UserError
from halftime.measure.command import parse_command
from halftime.options import parse_duration, parse_length

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("words", "ours", "theirs"),
    [
        (["train.py", "--budget", "3"], [], ["train.py", "--budget", "3"]),
        (["--budget", "3m", "train.py"], ["--budget", "3m"], ["train.py"]),
        (["--quick", "-m", "pkg", "-x"], ["--quick"], ["-m", "pkg", "-x"]),
        (["-q", "--", "torchrun", "t.py"], ["-q"], ["--", "torchrun", "t.py"]),
        (["--margin=1pp", "t.py"], ["--margin=1pp"], ["t.py"]),
    ],
)
def test_everything_after_the_script_is_its_own(
    words: list[str], ours: list[str], theirs: list[str]
) -> None:
    assert split_words(words) == (ours, theirs)


def test_options_are_read() -> None:
    options = parse_options(["--budget", "90s", "--only", "cache,amp", "--json", "-q"])
    assert options.budget_seconds == 90
    assert options.only == ("cache", "amp")
    assert options.json
    assert options.quiet


@pytest.mark.parametrize(
    "words",
    [["--budget", "soon"], ["--budget", "-3m"], ["--only", "magic"], ["--bugdet", "3m"],
     ["--length", "ten epochs"], ["--price", "free"]],
)  # fmt: skip
def test_wrong_option_is_said_with_what_is_expected(words: list[str]) -> None:
    with pytest.raises(UserError):
        parse_options(words)


def test_folders_named_like_a_command_are_no_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "report").mkdir()
    assert main(["report"]) == 2
    assert "There is no study yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["resume", "--help"], ["tune", "--quick", "-h"], ["store", "-h"]]
)
def test_help_is_given_wherever_it_is_asked_for(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert "exit codes" in capsys.readouterr().out


def test_command_is_kept_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    command = parse_command(["my train.py", "--note", "a b"], sys.executable)
    assert command.asked == "'my train.py' --note 'a b'"
    assert command.script_path == str(tmp_path / "my train.py")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "train.py").write_text("")
    module = parse_command(["-m", "package.train"], sys.executable)
    assert module.script_path == str(tmp_path / "package" / "train.py")
    assert parse_command(["-m", "elsewhere"], sys.executable).script_path is None
    launched = parse_command(["--", "env", "python", "my train.py"], None)
    assert launched.asked == "-- env python 'my train.py'"
    assert launched.script_path == str(tmp_path / "my train.py")


def test_durations_and_lengths() -> None:
    assert [parse_duration(t) for t in ("90s", "30m", "1h", "5")] == [90, 1800, 3600, 300]
    assert parse_length("50epochs") == (50, "epochs")
    assert parse_length("1step") == (1, "steps")


def test_no_such_script_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "nothing.py"]) == 2
    said = capsys.readouterr().err
    assert "No such script: nothing.py" in said
    assert "mlp-pytorch" in said


def test_folder_is_no_script(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        parse_command([str(tmp_path)], sys.executable)


def test_other_systems_are_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(["train.py"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_interpreter_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UserError, match="no such interpreter"):
        parse_command(["mlp-pytorch"], "/nowhere/python")


def test_active_environment_comes_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    assert parse_command(["mlp-pytorch"], None).argv[0] == str(python)


def test_bare_command_shows_three_commands_and_the_machine(halftime: Program) -> None:
    said = halftime().stdout.splitlines()
    assert [line.split()[1] for line in said[:3]] == ["diagnose", "tune", "run"]
    assert said[3].startswith("this machine: ")
    assert len(said) == 4


def test_help_imports_no_framework_and_no_numpy() -> None:
    code = (
        "import sys; from halftime.cli import main; main(['--help']); "
        "sys.exit(bool({'torch', 'numpy', 'scipy', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_listings_answer(halftime: Program) -> None:
    assert "bfloat16" in halftime("techniques", "amp").stdout
    assert "mnist-pytorch" in halftime("workloads").stdout
    assert "overlay" in halftime("doctor").stdout or "copy" in halftime("doctor").stdout
    assert halftime("techniques", "magic").returncode == 2


def test_report_without_a_study_says_how_to_make_one(halftime: Program) -> None:
    answer = halftime("report", env={"XDG_STATE_HOME": os.devnull + "x"})
    assert answer.returncode == 2
    assert "halftime tune train.py" in answer.stderr


def test_table_of_the_readme_is_the_one_that_the_catalogue_gives() -> None:
    from halftime.report.listings import table

    assert table() in (Path(__file__).parents[2] / "README.md").read_text()


def test_environment_that_was_activated_last_is_the_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halftime.measure.command import _active_python

    places = {}
    for name in ("venv", "conda"):
        places[name] = tmp_path / name / "bin"
        places[name].mkdir(parents=True)
        (places[name] / "python").symlink_to(sys.executable)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "mine")
    for first, second in (("venv", "conda"), ("conda", "venv")):
        monkeypatch.setenv("PATH", f"{places[first]}:{places[second]}:/usr/bin")
        assert _active_python() == str(places[first] / "python")
    monkeypatch.delenv("VIRTUAL_ENV")
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "base")
    assert _active_python() is None
