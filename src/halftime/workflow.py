"""Each command's whole flow; start reading here."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DONE, INTERRUPTED, NO_GAIN, UNOBSERVED, UNPROVEN, UserError
from .measure.command import Command
from .options import Options

if TYPE_CHECKING:  # `halftime run` must start at once: nothing heavy is imported for it
    from .records import Candidate, Proof, Report
    from .report.story import Story
    from .report.terminal import Progress
    from .trials.bench import Bench
    from .trials.observing import Seen
    from .trials.proving import Terms
    from .trials.stages import Fill, Trial


def diagnose(command: Command, options: Options) -> int:
    """Where does the time go, and the most that each family of techniques could win."""
    from .report.story import Story
    from .trials.bench import open_bench
    from .trials.candidates import propose
    from .trials.observing import observe, sharpen

    with open_bench(command, options, _progress(options)) as bench:
        seen = observe(bench)
        story = Story(bench=bench, seen=seen, status="diagnosis")
        try:
            story.seen = seen = sharpen(bench, seen)
        except KeyboardInterrupt:
            story.notes.append("interrupted before the replay: ceilings are from waits alone")
        _, story.refused = propose(seen.facts, seen.diagnosis, options.only, options.without)
        _show(story, options)
        return DONE if seen.run.steps else UNOBSERVED


def tune(command: Command, options: Options, folder: Path | None = None) -> int:
    """Search, confirm, prove parity → plan. Given a study's folder, go on with it."""
    from .report.story import Story
    from .trials.bench import open_bench
    from .trials.observing import observe, sharpen
    from .trials.stages import check_finite

    with open_bench(command, options, _progress(options), folder) as bench:
        seen = observe(bench)
        story = Story(bench=bench, seen=seen)
        if not seen.run.steps:
            story.status = "diagnosis"
            _show(story, options)
            return UNOBSERVED
        check_finite(seen.run, command.script)
        try:
            story.seen = seen = sharpen(bench, seen)
            _search(bench, story, seen)
        except KeyboardInterrupt:
            _show(story, options)
            _say(f"stopped; go on with: halftime resume {bench.study.folder}")
            return INTERRUPTED
        report = _show(story, options)
        return _exit_code(report, options)


def _search(bench: Bench, story: Story, seen: Seen) -> None:
    """Preflight → pilot → screen → stack → screen again → confirm → prove (measurement.md §4)."""
    from .trials import stages
    from .trials.candidates import NOT_AT_FIRST, propose, worth_it_beside
    from .trials.metric import parse_margin
    from .trials.proving import settle_terms

    options, executor, length = bench.options, bench.executor, seen.length
    margin = parse_margin(options.margin)
    candidates, story.refused = propose(seen.facts, seen.diagnosis, options.only, options.without)
    _screen_before(bench, seen, candidates)
    if options.dry_run:
        story.status = "diagnosis"
        return
    alive, proofs, story.early = stages.preflight(executor, candidates, seen.facts, seen.diagnosis)
    story.pilots, story.resolution = stages.pilot(executor, length)
    story.terms = settle_terms(story.pilots, margin, options.metric, length)
    bench.narrator.note(_resolution_line(story))
    fill = stages.fill_store(executor, alive, length, seen.facts)
    if options.quick:
        story.status = "exploratory"
        stages_once = stages.screen(
            executor, alive, length, story.pilots, bench.order_seed, "quick", 1
        )
        story.screened = stages.quick_verdicts(stages_once, length, seen.diagnosis, fill)
        return
    arms = _within_budget(bench, story, alive)
    if not arms:
        story.status = "complete"
        return
    trials = _screened(bench, story, arms, "screen", fill)
    winner, stacks = stages.choose_stack(trials, length, alive, fill)
    if winner is None:
        story.status = "complete"
        return
    finalists = [winner]
    gained = story.screened[winner.name].comparison
    small = [r.technique for r in story.refused if NOT_AT_FIRST in r.reason]
    stacks += worth_it_beside(
        winner, gained.speedup if gained else 1.0, seen.facts, seen.diagnosis, small
    )
    stacks = _within_budget(bench, story, stacks, besides=winner)
    if stacks:
        again = _screened(bench, story, [winner, *stacks], "screen again", fill)
        finalists = stages.best_of_stacks(winner, again, length, fill)
        trials.update(again)
    _confirm(bench, story, finalists, trials, proofs, story.terms, fill)
    story.status = "complete"


def _screened(
    bench: Bench, story: Story, arms: list[Candidate], stage: str, fill: Fill | None
) -> dict[str, Trial]:
    from .trials import stages

    length, diagnosis = story.seen.length, story.seen.diagnosis
    trials = stages.screen(bench.executor, arms, length, story.pilots, bench.order_seed, stage)
    for name, trial in trials.items():
        story.screened[name] = stages.conclude(trial, length, "screen", None, diagnosis, fill)
    return trials


def _confirm(
    bench: Bench,
    story: Story,
    finalists: list[Candidate],
    trials: dict[str, Trial],
    proofs: dict[str, Proof],
    terms: Terms,
    fill: Fill | None,
) -> None:
    """Fresh blocks of the baseline, the winner, what is close to it, and its parts; then proofs."""
    from .report.story import credits_of
    from .trials import stages
    from .trials.proving import prove

    executor, seen, length = bench.executor, story.seen, story.seen.length
    for candidate in finalists:
        stages.proof_before_confirm(executor, candidate, proofs, seen.facts)
    finalists = [c for c in finalists if proofs[c.name].status != "failed"] or finalists[-1:]
    blocks = stages.confirm_blocks(trials, finalists[0].name, length, fill)
    cost = story.resolution.run_seconds if story.resolution else 0.0
    parts = stages.leave_one_out(finalists[0])
    arms, blocks = stages.affordable(finalists, parts, blocks, cost, bench.left_seconds)
    if not blocks:
        story.notes.append("the budget has no room for four confirm blocks: give a larger --budget")
        return
    confirmed = stages.screen(
        executor, arms, length, story.pilots, bench.order_seed, "confirm", blocks
    )

    def conclude(trial: Trial, proof: Proof | None) -> None:
        verdict = stages.conclude(trial, length, "confirm", proof, seen.diagnosis, fill)
        story.confirmed[trial.candidate.name] = verdict

    for trial in confirmed.values():
        conclude(trial, None)
    for trial in stages.fastest_first(confirmed, length, fill):
        first = stages.proof_before_confirm(executor, trial.candidate, proofs, seen.facts)
        proof = prove(executor, trial, first, terms, length, bench.left_seconds)
        conclude(trial, proof)
        if proof.holds:
            break
    story.credits = credits_of(arms[0], story.confirmed)


def _within_budget(
    bench: Bench, story: Story, arms: list[Candidate], besides: Candidate | None = None
) -> list[Candidate]:
    """The arms that can be screened and confirmed in what is left; the rest is dropped, said so."""
    from .trials.candidates import Refusal, ceiling_of
    from .trials.schedule import SCREEN_BLOCKS, arms_within_budget

    cost = story.resolution.run_seconds if story.resolution else 0.0
    left = bench.left_seconds - (SCREEN_BLOCKS * cost if besides is not None else 0.0)
    ceilings = [ceiling_of(arm, story.seen.diagnosis) for arm in arms]
    kept, dropped = arms_within_budget(arms, ceilings, cost, left)
    for arm in dropped:
        reason = "the budget has no room for it: give a larger --budget"
        story.refused.append(Refusal(technique=arm.name, reason=reason))
    if arms and not kept and besides is None:
        story.notes.append(
            f"the budget is too small for an answer: one run takes {cost:.0f} s, and one arm needs "
            f"3 screen blocks and 4 confirm blocks; give at least "
            f"--budget {(bench.study.spent + 16 * cost) / 60 + 1:.0f}m"
        )
    return kept


def _screen_before(bench: Bench, seen: Seen, candidates: list[Candidate]) -> None:
    """One screen before the first trial: what will run, until when, what is read, written, sent."""
    import time

    from .measure.environment import describe
    from .trials.bench import workspace_note

    say = bench.narrator.note
    until = time.strftime("%H:%M", time.localtime(time.time() + bench.left_seconds))
    cost = seen.run.wall_seconds
    most = int(bench.left_seconds / max(cost, 0.1))
    kind = "full runs" if seen.length.full else f"windows of {seen.length.window_samples:,} samples"
    say(f"machine: {describe(bench.machine)}; python: {bench.command.argv[0]}")
    say(f"to try: {', '.join(c.name for c in candidates) or 'nothing'}")
    say(f"about {most} {kind} of {cost:.0f} s and less, until {until} at the latest")
    say(f"read: your project and data; {workspace_note(bench.executor.workspace)}; sent: nothing")
    say(f"study: {bench.study.folder}")


def _resolution_line(story: Story) -> str:
    resolution = story.resolution
    if resolution is None or story.terms is None:
        return ""
    return (
        f"this machine resolves speed-ups from {resolution.smallest_gain:.1%} with 6 blocks "
        f"(a block's log-ratio spreads {resolution.spread:.1%}); {story.terms.describe()}"
    )


def _show(story: Story, options: Options) -> Report:
    """Print the record as it is now, and keep every form of it beside the study."""
    from .report.files import as_json, write_report
    from .report.terminal import print_report

    report = story.report()
    folder = Path(report.folder)
    write_report(report, folder)
    _write_plans(story, report, folder)
    if options.json:
        sys.stdout.write(as_json(report).decode() + "\n")
    else:
        print_report(report)
    _say(f"report: {folder / 'report.html'}", options)
    return report


def _write_plans(story: Story, report: Report, folder: Path) -> None:
    """plan.toml for what is proven, plan.unproven.toml for what is only faster."""
    from .measure.environment import fingerprint
    from .plan.apply import write_plan
    from .records import Plan

    for verdict, name in ((report.winner, "plan.toml"), (report.unproven, "plan.unproven.toml")):
        if verdict is None or verdict.comparison is None or verdict.proof is None:
            continue
        plan = Plan(
            command=report.command,
            script_digest=story.bench.study.fixed["script_digest"],
            candidate=verdict.candidate,
            speedup=verdict.comparison.speedup,
            low=verdict.comparison.low,
            high=verdict.comparison.high,
            proof=verdict.proof,
            fingerprint=fingerprint(report.machine),
            study=report.folder,
            roots=tuple(root.class_name for root in report.facts.roots),
        )
        write_plan(plan, folder / name)
        use = f"halftime run --plan {folder / name} {report.script}"
        if name == "plan.toml":
            _say(f"use it: {use}")
        else:
            _say(f"faster, not proven ({verdict.proof.missing}): {use}")


def _exit_code(report: Report, options: Options) -> int:
    if report.winner is None and report.unproven is not None:
        return UNPROVEN
    if report.winner is None and options.require_gain:
        return NO_GAIN
    return DONE


def run(command: Command, options: Options) -> int:
    """The script under a plan, the newest of that script if none is named; else observed only.

    Gives the script's own exit code. stdout belongs to the script.
    """
    from .measure.launch import Orders, run_plainly

    plan = _plan_for(command, options)
    folder = _scratch_folder()
    try:
        status = run_plainly(command, Orders(run_folder=folder, in_trial=False, **plan))
        if not options.quiet:
            _summarise(command, Path(folder), bool(plan))
    finally:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
    if status < 0:
        # Leave as the script did: by the same signal.
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _scratch_folder() -> str:
    """A private folder for the agent's notes; tempfile would cost the script 5 ms of start-up."""
    base = os.environ.get("TMPDIR") or "/tmp"
    number = 0
    while True:
        folder = os.path.join(base, f"halftime-run-{os.getpid()}-{number}")
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            number += 1
        else:
            return folder


def _plan_for(command: Command, options: Options) -> dict[str, Any]:
    """What the orders take from the plan that applies, said on stderr; nothing without one."""
    path = Path(options.plan) if options.plan else _newest_plan(command)
    if path is None:
        return {}
    from dataclasses import asdict

    from .measure.environment import fingerprint, this_machine
    from .plan.apply import differences, read_plan

    plan = read_plan(path)
    _say(
        f"plan {path}: {plan.candidate.name}, at least {plan.low:.2f}× ({plan.proof.status})",
        options,
    )
    for difference in differences(plan, fingerprint(this_machine())):
        _say(f"measured elsewhere: {difference}; its gain may differ: halftime tune", options)
    return {
        "switches": tuple(asdict(switch) for switch in plan.candidate.switches),
        "roots": plan.roots,
    }


def _newest_plan(command: Command) -> Path | None:
    """The newest proven plan that was measured for this script as it is now."""
    import hashlib
    import json

    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    places = sorted(Path(base, "halftime", "studies").glob("*/plan.toml"), reverse=True)
    if not places or command.script_path is None:
        return None
    digest = hashlib.sha256(Path(command.script_path).read_bytes()).hexdigest()[:16]
    for place in places:
        fixed = json.loads(place.with_name("study.json").read_text())
        if fixed["script_digest"] == digest:
            return place
    return None


def _summarise(command: Command, folder: Path, planned: bool) -> None:
    """Where the time of a plain run went, rank by rank, on stderr, at its end."""
    from .measure.diagnose import explain, one_line
    from .measure.environment import this_machine
    from .measure.events import by_rank, read_events, read_facts, read_windows

    events = read_events(folder)
    if not events:
        _say("no Python process greeted: -I, -S or -E make Python ignore us; nothing was observed")
    machine = this_machine()
    for rank, of_one in by_rank(events):
        name = "" if rank is None else f"rank {rank}: "
        for event in of_one:
            if event["event"] == "refused":
                _say(f"{name}{event['technique']}: {event['reason']}")
        windows = read_windows(of_one, 0.0)
        facts = read_facts(of_one, machine)
        if windows and planned:
            on = dict.fromkeys(e["technique"] for e in of_one if e["event"] == "effect")
            _say(f"{name}took effect: {', '.join(on) or 'nothing'}")
        elif windows:
            _say(name + one_line(explain(windows, facts), facts, command.script))


def resume(folder: Path | None) -> int:
    """Go on with a study: acknowledged runs are kept, the rest is made."""
    import msgspec

    from .trials.study import Study

    place = _study_folder(folder)
    study = Study(place, None)
    command = msgspec.convert(study.fixed["command"], Command)
    asked = msgspec.convert(study.fixed["options"], Options)
    study.close()
    return tune(command, asked, place)


def report(folder: Path | None, form: str) -> int:
    """The record of a study again, in another form, on stdout."""
    from .report.files import as_json, read_report
    from .report.html import html
    from .report.markdown import markdown
    from .report.terminal import print_report

    record = read_report(_study_folder(folder))
    if form == "terminal":
        print_report(record)
    else:
        as_text = {"html": html, "markdown": markdown}.get(form)
        sys.stdout.write(as_text(record) if as_text else as_json(record).decode() + "\n")
    return DONE


def _study_folder(folder: Path | None) -> Path:
    from .trials.study import studies

    if folder is not None:
        return folder
    known = studies()
    if not known:
        raise UserError("There is no study yet. Make one with: halftime tune train.py")
    return known[0]


def _progress(options: Options) -> Progress:
    from .report.terminal import Progress

    return Progress(options.budget_seconds, options.quiet)


def _say(text: str, options: Options | None = None) -> None:
    if options is None or not options.quiet:
        sys.stderr.write(f"halftime: {text}\n")
