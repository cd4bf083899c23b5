"""One record, several readers; what users wrote stays text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from halftime.records import TOO_BUSY, Proof, Report, Verdict
from halftime.report.files import as_json, differences, read_report, write_report
from halftime.report.html import html
from halftime.report.markdown import markdown
from halftime.report.words import duration, headline, pipeline_line, savings
from halftime.trials.speedup import compare
from halftime.trials.verdicts import verdict_of
from tests.conftest import MACHINE, make_candidate, make_diagnosis, make_facts, make_loader


def make_report(**more: object) -> Report:
    fields: dict[str, object] = {
        "command": "python train.py", "script": "train.py", "folder": "/s", "machine": MACHINE,
        "framework": "torch 2.13", "status": "complete", "diagnosis": make_diagnosis(),
        "facts": make_facts(), "baseline_seconds": 4440.0,
        "full_runs": True, "user_samples": None, "resolvable": 0.04, "terms": "", "verdicts": (),
        "refused": (("store", "a random transform"),), "already_on": (), "winner": None,
        "unproven": None, "credits": (), "spent_seconds": 1800.0,
        "runs": 30, "failed_runs": (), "notes": (), "data_sources": (), "tree_changes": (),
    }  # fmt: skip
    return Report(**{**fields, **more})  # type: ignore[arg-type]


def make_verdict(status: str = "exact") -> Verdict:
    proof = Proof(
        status=status, numerics="exact", evidence=("bytes equal",), missing="needs 9 seeds"  # type: ignore[arg-type]
    )  # fmt: skip
    return Verdict(
        candidate=make_candidate("store"), word="faster", reason="", stage="confirm",
        comparison=compare([0.80, 0.81, 0.79, 0.80]), proof=proof, rate=None, run_seconds=2000.0,
        peak_bytes=10**9,
    )  # fmt: skip


def test_verdict_comes_first_with_its_lower_bound() -> None:
    won = make_verdict()
    report = make_report(winner=won, verdicts=(won,))
    assert headline(report).startswith("train.py trains at least 2.")
    assert headline(report).endswith("result: exact.")
    assert markdown(report).splitlines()[2].startswith("**train.py trains at least 2.")


def test_gain_is_told_in_the_users_terms() -> None:
    report = make_report(winner=make_verdict())
    assert savings(report)[0] == "saves 40.7 min of each 74 min run, 2.2 times as many runs a day"
    assert "paid back after 1 runs" in savings(report)[1]


def test_what_the_plan_leaves_of_the_fastest_arm_is_said_with_its_cost() -> None:
    won = make_verdict()
    ahead = replace(
        won, candidate=make_candidate("store", "mixed_precision"), comparison=compare([1.3] * 4)
    )
    assert "no arm that was tried would save more; found with 30 runs in 30 min" in savings(
        make_report(winner=won, verdicts=(won,))
    )
    said = savings(make_report(winner=won, verdicts=(won, ahead)))
    assert (
        "76% of what store + mixed_precision (3.67×) would save; found with 30 runs in 30 min"
        in said
    )


def test_unproven_gain_is_no_plan() -> None:
    report = make_report(unproven=make_verdict("not proven"))
    assert headline(report).startswith("No plan is proven.")
    assert "needs 9 seeds" in headline(report)


def test_nothing_to_gain_is_said_with_what_the_machine_resolves() -> None:
    assert headline(make_report()) == (
        "Honestly nothing to gain on this machine (it resolves differences from 4.0%)."
    )


def test_budget_without_room_is_no_verdict_on_the_script() -> None:
    reason = "the budget has no room for it: give a larger --budget"
    assert headline(make_report(refused=(("threads(1)", reason),))) == (
        "No answer: the budget had no room for a trial."
    )


def test_page_shows_hostile_names_as_text() -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    page = html(make_report(script=hostile, command=hostile, refused=(("store", hostile),)))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_markdown_shows_hostile_names_as_text() -> None:
    text = markdown(make_report(script="<b>|x|`", refused=(("store", "a | b\n# c"),)))
    assert "<b>" not in text
    assert "\n# c" not in text


def test_json_is_the_whole_record() -> None:
    report = make_report(winner=make_verdict(), verdicts=(make_verdict(),))
    assert msgspec.json.decode(as_json(report), type=Report) == report


def test_pipeline_is_told_op_by_op_with_the_place_of_a_cache() -> None:
    after = "map; not later, since shuffle gives another order each time"
    loader = make_loader(
        kind="tf.data", pipeline=("from_tensor_slices", "map", "shuffle", "batch"),
        op_seconds=(1e-6, 2e-6, 0.0, 1e-6), op_bytes=(784, 3136, 3136, None), cache_after=after,
    )  # fmt: skip
    report = make_report(facts=make_facts(loader))
    said = pipeline_line(report)
    assert "from_tensor_slices 25% (784 B) → map 50% (3.14 kB) → shuffle 0% (3.14 kB) →" in said
    assert said.endswith(f"batch 25%; a cache may stand after {after}")
    page = html(report)
    assert said in page.replace("&#39;", "'")
    assert page.index("from_tensor_slices 0.001 ms") < page.index("map 0.002 ms")
    unordered = make_loader(
        kind="tf.data", pipeline=("map",), op_seconds=(1e-6,), randomness="map draws"
    )
    assert pipeline_line(make_report(facts=make_facts(unordered))).endswith("no cache: map draws")


def test_pipelines_that_a_zip_joins_are_all_shown() -> None:
    loader = make_loader(
        kind="tf.data", pipeline=("range", "zip", "batch"), op_seconds=(1e-6, 3e-6, 0.0),
        beside=("", "from_tensor_slices → map", ""),
    )  # fmt: skip
    said = pipeline_line(make_report(facts=make_facts(loader)))
    assert "range 25% → zip with (from_tensor_slices → map) 75% → batch 0%" in said


def test_proof_on_the_first_samples_says_how_many() -> None:
    won = make_verdict("proven on the first N samples")
    assert won.proof is not None
    won = replace(won, proof=replace(won.proof, samples=12_800))
    said = headline(make_report(winner=won, verdicts=(won,)))
    assert said.endswith("result: proven on the first 12,800 samples.")


def test_durations_have_three_digits_at_most() -> None:
    assert [duration(s) for s in (0.00071, 4.51, 2460, 8280)] == [
        "0.71 ms",
        "4.51 s",
        "41 min",
        "2.3 h",
    ]


def test_busy_machine_is_no_answer() -> None:
    lost = replace(make_verdict(), comparison=None, word="inconclusive", reason=TOO_BUSY)
    said = headline(make_report(verdicts=(lost,)))
    assert said.startswith("No answer for store: other work kept the machine too busy.")


def test_record_with_an_arm_that_nothing_bounds_reads_back_the_same(tmp_path: Path) -> None:
    unbounded = verdict_of(
        make_candidate("brakes"), ("slower", ""), "screen", None, make_diagnosis()
    )
    report = make_report(verdicts=(unbounded, make_verdict()))
    write_report(report, tmp_path)
    assert differences(read_report(tmp_path), report) == []
    touched = replace(report, verdicts=(unbounded, replace(make_verdict(), peak_bytes=1)))
    assert differences(read_report(tmp_path), touched) == [
        "verdicts[1].peak_bytes: kept 1000000000, recomputed 1"
    ]


def test_arm_ahead_in_the_screen_alone_is_neither_a_gain_nor_nothing() -> None:
    ahead = replace(make_verdict(), stage="screen", proof=None)
    said = headline(make_report(verdicts=(ahead,), refused=()))
    assert said.startswith("No answer: store was ahead in the screen")


def test_training_of_unknown_length_is_told_of_its_steady_state_alone() -> None:
    won = make_verdict()
    unknown = make_report(winner=won, verdicts=(won,), full_runs=False, baseline_seconds=None)
    assert headline(unknown).startswith("train.py trains after its first epoch at least 2.")
    other = replace(won, candidate=make_candidate("mixed_precision"))
    unknown = make_report(winner=other, verdicts=(other,), full_runs=False, baseline_seconds=None)
    assert headline(unknown).startswith("train.py trains in its steady state at least 2.")
