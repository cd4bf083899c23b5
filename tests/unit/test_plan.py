"""The plan: the fastest proven stack, on disk and back."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from halftime.agent.places import digests_of_modules
from halftime.errors import UserError
from halftime.measure.command import Command, changed_files, digest_of_script, parse_command
from halftime.plan.apply import differences, read_plan, write_plan
from halftime.plan.choose import choose
from halftime.plan.newest import newest_plan
from halftime.records import Plan, Proof, Verdict
from halftime.trials.speedup import compare
from tests.conftest import make_candidate


def verdict(name: str, gain: float, status: str, word: str = "faster") -> Verdict:
    proof = Proof(status=status, numerics="exact", evidence=("e",), missing="")  # type: ignore[arg-type]
    return Verdict(
        candidate=make_candidate(name), word=word, reason="", stage="confirm",  # type: ignore[arg-type]
        comparison=compare([gain, gain + 0.01, gain - 0.01]), proof=proof, rate=None,
        run_seconds=1.0, peak_bytes=None,
    )  # fmt: skip


def test_fastest_proven_stack_is_chosen() -> None:
    fast, faster = verdict("store", 0.5, "exact"), verdict("prefetch", 0.7, "exact")
    assert choose([fast, faster]) == (faster, None)


def test_luckiest_of_two_that_blocks_cannot_tell_apart_is_not_chosen() -> None:
    chosen, lucky = verdict("store", 0.5, "exact"), verdict("prefetch", 0.5, "exact")
    lucky = replace(lucky, comparison=compare([0.60, 0.49, 0.51]))
    assert lucky.comparison is not None
    assert chosen.comparison is not None
    assert lucky.comparison.speedup > chosen.comparison.speedup
    assert choose([chosen, lucky]) == (chosen, None)
    assert choose([lucky, chosen]) == (lucky, None)


def test_faster_one_that_is_not_proven_stands_beside_it() -> None:
    proven, open_one = verdict("store", 0.5, "exact"), verdict("threads", 0.9, "not proven")
    assert choose([open_one, proven]) == (proven, open_one)


def test_slower_one_that_is_not_proven_is_not_offered() -> None:
    proven, open_one = verdict("store", 0.9, "exact"), verdict("threads", 0.5, "not proven")
    assert choose([open_one, proven]) == (proven, None)


def test_failed_parity_is_never_a_plan() -> None:
    lost = verdict("mixed_precision", 0.9, "failed", word="parity failed")
    assert choose([lost]) == (None, None)


def make_plan() -> Plan:
    return Plan(
        command="python train.py", script_digest="ab", candidate=make_candidate("threads", count=1),
        speedup=1.5, low=1.4, high=1.6,
        proof=Proof(status="exact", numerics="exact", evidence=("e",), missing=""),
        fingerprint={"processor": "a CPU", "cores": "2", "gpu": "none"}, study="/s",
        framework="torch", roots=("__main__:Net",),
    )  # fmt: skip


def test_plan_survives_the_disk(tmp_path: Path) -> None:
    plan = replace(make_plan(), sources={"/project/data.py": "ab12"})
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == plan
    assert differences(plan, plan.fingerprint) == []
    assert differences(plan, {**plan.fingerprint, "cores": "64"}) == [
        "cores: measured on 2, here 64"
    ]


@pytest.mark.parametrize(
    "text", ["", "halftime_plan = 1", "not toml at all [", "halftime_plan = 9"]
)
def test_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(UserError):
        read_plan(tmp_path / "plan.toml")


def test_newest_plan_is_the_one_of_this_script_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train.py"
    script.write_text("1")
    command = parse_command(["train.py"], sys.executable)
    module = parse_command(["-m", "package.train"], sys.executable)

    def study(name: str, of: Command, **options: bool) -> Path:
        folder = tmp_path / "halftime" / "studies" / name
        folder.mkdir(parents=True)
        digest = digest_of_script(of.script_path)
        fixed = {"command": asdict(of), "script_digest": digest, "options": options}
        (folder / "study.json").write_text(json.dumps(fixed))
        write_plan(make_plan(), folder / "plan.toml")
        return folder / "plan.toml"

    assert newest_plan(command) == (None, None)
    first = study("1", command)
    study("2", command, compares=True)
    of_module = study("3", module)
    assert newest_plan(command) == (first, None)
    assert newest_plan(module) == (None, of_module)  # its file is not known, and may have changed
    script.write_text("2")
    assert newest_plan(command) == (None, first)


def test_module_that_changed_since_is_told(tmp_path: Path) -> None:
    module = tmp_path / "data.py"
    module.write_text("AUGMENTED = False\n")
    gone = str(tmp_path / "gone.py")
    plan = replace(make_plan(), sources={str(module): digest_of_script(str(module)), gone: "1"})
    assert changed_files(plan.sources) == []
    module.write_text("AUGMENTED = True\n")
    assert changed_files(plan.sources) == [str(module)]


def test_modules_of_the_user_are_known_by_their_digests() -> None:
    found = digests_of_modules()
    here = [file for file in found if file.endswith("tests/conftest.py")]
    assert [found[file] for file in here] == [digest_of_script(file) for file in here] != []
    assert not any("site-packages" in file or "halftime/agent" in file for file in found)
