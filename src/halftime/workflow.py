"""Each command's whole flow; start reading here."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import (
    BASELINE_FAILED,
    DIFFERS,
    DONE,
    INTERRUPTED,
    NO_GAIN,
    UNOBSERVED,
    UNPROVEN,
    UserError,
)
from .measure.command import Command
from .options import Options

if TYPE_CHECKING:  # `halftime run` must start at once: nothing heavy is imported for it
    from collections.abc import Sequence

    from .records import Candidate, Report
    from .report.terminal import Progress
    from .trials.search import Search


def measure(command: Command, options: Options, folder: Path | None = None) -> int:
    """diagnose, tune and compare: observe the script, go through the flow, show what is known.

    folder: of a study that is gone on with.
    """
    from .trials.bench import open_bench
    from .trials.observing import observe
    from .trials.search import Search

    with open_bench(command, options, _progress(options), folder) as bench:
        search = Search(bench=bench, seen=observe(bench))
        try:
            _flow(search)
        except KeyboardInterrupt:
            return _stopped(search)
        except UserError:
            if search.screened or search.confirmed:
                _stopped(search)
            raise
        return _exit_code(search, _show(search))


def _flow(search: Search) -> None:
    """What a command does once the script was seen; `verify` goes through it again."""
    options = search.bench.options
    if options.diagnoses:
        _diagnose(search)
    elif options.compares:
        _compare(search)
    else:
        _tune(search)


def _diagnose(search: Search) -> None:
    """Where does the time go, and the most that each family of techniques could win."""
    from .errors import NotMeasured
    from .trials.observing import sharpen

    search.status = "diagnosis"
    try:
        search.seen = sharpen(search.bench, search.seen)
    except (KeyboardInterrupt, NotMeasured):
        search.notes.append("interrupted before the replay: ceilings are from waits alone")
        search.propose()
        raise
    search.propose()


def _tune(search: Search) -> None:
    """Search, confirm, prove parity → plan."""
    from .trials.execute import check_finite
    from .trials.observing import sharpen

    bench, seen = search.bench, search.seen
    if seen.run.cause == "out of memory" and not bench.options.dry_run:
        search.rescue()
    elif seen.run.cause == "out of memory" or not seen.run.steps:
        search.status = "diagnosis"
    else:
        check_finite(seen.run, bench.command.script)
        search.seen = sharpen(bench, seen)
        _find_plan(search)


def _find_plan(search: Search) -> None:
    """Preflight → pilot → screen → stack → screen again → confirm → prove (measurement.md §4)."""
    options = search.bench.options
    candidates = search.propose()
    _screen_before(search, candidates)
    if options.dry_run:
        search.status = "diagnosis"
        return
    if options.quick:
        search.look(search.preflight(search.for_one_look(candidates)))
        return
    if candidates:
        candidates = search.within_reach(candidates)
        if not candidates:
            search.status = "complete"
            return
    alive = search.preflight(candidates)
    search.pilot()
    trials = search.screen(alive)
    if trials:
        finalists, trials = search.screen_again(trials, alive)
    else:
        finalists = search.without_a_screen(alive)
    if finalists:
        search.confirm(finalists, trials)
    search.status = "complete"


def _compare(search: Search) -> None:
    """Named techniques side by side: the article's experiment, for any script."""
    from .trials.execute import check_finite
    from .trials.observing import sharpen
    from .trials.protocol import repeat_protocol

    bench, seen = search.bench, search.seen
    if seen.run.cause == "out of memory":
        raise UserError(
            f"{bench.command.script} does not fit in memory: there is no baseline to compare with. "
            "halftime tune looks for what lets it run.",
            BASELINE_FAILED,
        )
    if not seen.run.steps:
        search.status = "diagnosis"
        return
    check_finite(seen.run, bench.command.script)
    search.seen = sharpen(bench, seen)
    arms = search.named(_arms_to_compare(search))
    _screen_before(search, arms)
    if bench.options.dry_run:
        search.status = "diagnosis"
    else:
        _measure_arms(search, arms)
    if bench.options.article and search.confirmed:
        search.protocols = repeat_protocol(bench)


def _arms_to_compare(search: Search) -> Sequence[Sequence[str]]:
    """The arms that the user names; else the article's, as far as this framework has them."""
    from .frameworks import technique_modules
    from .report.article import ARMS

    known = technique_modules(search.seen.facts.framework)
    return search.bench.options.arms or [arm for arm in ARMS if all(name in known for name in arm)]


def _measure_arms(search: Search, arms: list[Candidate]) -> None:
    """Preflight → pilot → blocks with an A/A arm; or one run an arm, without a claim."""
    if search.bench.options.quick:
        search.look(search.preflight(search.for_one_look(arms)))
        return
    if search.can_compare(arms):
        alive = search.preflight(arms)
        search.pilot()
        search.compare(alive)
    search.status = "comparison"


def _screen_before(search: Search, candidates: list[Candidate]) -> None:
    """One screen before the first trial: what will run, until when, what is read, written, sent."""
    import time

    from .measure.environment import describe, holders_of_gpu_memory
    from .trials.bench import workspace_note

    bench, seen = search.bench, search.seen
    say = bench.narrator.note
    until = time.strftime("%H:%M", time.localtime(time.time() + bench.left_seconds))
    cost = seen.trial_seconds
    most = int(bench.left_seconds / max(cost, 0.1))
    kind = "full runs" if seen.length.full else f"windows of {seen.length.window_samples:,} samples"
    say(f"machine: {describe(bench.machine)}; python: {bench.command.argv[0]}")
    for holder in holders_of_gpu_memory():
        say(f"not alone: {holder}")
    proves = not (bench.options.quick or bench.options.dry_run)
    if proves and (pairs := len(bench.executor.gpus_for()) // 2):
        say(
            f"runs that prove, which are not timed, go side by side on {2 * pairs} free GPUs; to "
            "keep some out, set CUDA_VISIBLE_DEVICES"
        )
    say(f"to try: {', '.join(c.name for c in candidates) or 'nothing'}")
    say(f"about {most} {kind} of {cost:.0f} s and less, until about {until}")
    say(
        f"read: your project and data; {workspace_note(bench.executor.workspace)}; sent: nothing "
        "by halftime"
    )
    say(f"study: {bench.study.folder}")


def _show(search: Search) -> Report:
    """Print the record as it is now, and keep every form of it beside the study."""
    from .report.files import as_json, write_report
    from .report.story import report_of
    from .report.terminal import print_report

    report, options = report_of(search), search.bench.options
    folder = Path(report.folder)
    write_report(report, folder)
    if report.status == "comparison":
        from .report.chart import draw_chart

        for path in draw_chart(report, folder):
            _say(f"chart: {path}", options)
    _write_plans(report, search.bench.study.fixed["script_digest"], folder)
    if options.json:
        sys.stdout.write(as_json(report).decode() + "\n")
    else:
        print_report(report)
    _say(f"report: {folder / 'report.html'}", options)
    return report


def _stopped(search: Search) -> int:
    """Print what is known so far, and how to go on."""
    _show(search)
    _say(f"stopped; go on with: halftime resume {search.bench.study.folder}")
    return INTERRUPTED


def _write_plans(report: Report, script_digest: str, folder: Path) -> None:
    """plan.toml for what is proven, plan.unproven.toml for what is only faster."""
    import shlex

    from .measure.environment import fingerprint
    from .plan.apply import write_plan
    from .plan.dialect import in_words_of
    from .records import Plan

    for verdict, name in ((report.winner, "plan.toml"), (report.unproven, "plan.unproven.toml")):
        if verdict is None or verdict.proof is None:
            if report.status == "complete":  # of an earlier search with a smaller budget
                (folder / name).unlink(missing_ok=True)
            continue
        gain = verdict.comparison
        plan = Plan(
            command=report.command,
            script_digest=script_digest,
            candidate=verdict.candidate,
            speedup=gain.speedup if gain else 1.0,
            low=gain.low if gain else 1.0,
            high=gain.high if gain else 1.0,
            proof=verdict.proof,
            fingerprint=fingerprint(report.machine),
            study=report.folder,
            framework=report.facts.framework,
            roots=tuple(root.class_name for root in report.facts.roots),
            training_loader=report.facts.training_loader,
            fed_by=report.facts.kind_of_feed,
            sources=dict(report.facts.sources),
            notes=in_words_of(report.facts.trainer, verdict.candidate),
        )
        write_plan(plan, folder / name)
        for note in plan.notes:
            _say(note)
        use = f"halftime run --plan {shlex.quote(str(folder / name))} {report.asked}"
        if name == "plan.toml":
            _say(f"use it: {use}")
        else:
            word = "faster" if gain else "it runs"
            _say(f"{word}, not proven ({verdict.proof.missing}): {use}")
            if verdict.proof.missing_seconds:
                more = 1.1 * verdict.proof.missing_seconds
                minutes = (report.spent_seconds + more) / 60 + 1
                _say(
                    f"about {more / 60:.0f} min more would prove it: halftime tune --budget "
                    f"{minutes:.0f}m --study {shlex.quote(report.folder)}, its other options as "
                    f"they were, {report.asked}"
                )


def _exit_code(search: Search, report: Report) -> int:
    options, run = search.bench.options, search.seen.run
    if not run.steps and run.cause != "out of memory":
        return UNOBSERVED
    if options.diagnoses or options.compares:
        return DONE
    if report.winner is None and report.unproven is not None:
        return UNPROVEN
    if report.winner is None and options.require_gain:
        return NO_GAIN
    return DONE


def run(command: Command, options: Options) -> int:
    """The script under a plan, the newest of that script if none is named; else observed only.

    Gives the script's own exit code. stdout belongs to the script.
    """
    from .measure.launch import Orders, run_plainly, scratch_folder

    plan = _plan_for(command, options)
    folder = scratch_folder()
    try:
        status = run_plainly(command, Orders(run_folder=folder, in_trial=False, **plan))
        if not options.quiet:
            from .report.summary import summary

            for line in summary(Path(folder), command.script, bool(plan)):
                _say(line)
    finally:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
    if status < 0:
        _leave_by(-status)
    return status


def _leave_by(number: int) -> None:
    """Leave as the script did: by the same signal, and without a core file beside its own."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:  # which cannot be handled anyway
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _plan_for(command: Command, options: Options) -> dict[str, Any]:
    """What the orders take from the plan that applies, said on stderr; nothing without one."""
    from .measure.command import changed_files, digest_of_script
    from .plan.newest import newest_plan

    path, outdated = (Path(options.plan), None) if options.plan else newest_plan(command)
    if path is None:
        if outdated is not None and command.script_path is None:
            _say(f"whether {command.script} is what {outdated} was proven for is not known: it is "
                 "only observed, unless --plan names that", options)  # fmt: skip
        elif outdated is not None:
            _say(f"{command.script}, or a module of it, has changed since {outdated} was proven: "
                 "it is only observed; halftime tune makes a new plan", options)  # fmt: skip
        return {}
    import shlex
    from dataclasses import asdict

    from .ideas import keeps_samples
    from .measure.environment import fingerprint, this_machine
    from .plan.apply import differences, read_plan

    plan = read_plan(path)
    _say(
        f"plan {path}: {plan.candidate.name}, at least {plan.low:.2f}× ({plan.proof.words})",
        options,
    )
    switches = [asdict(switch) for switch in plan.candidate.switches]
    if options.store is not None:
        for switch in switches:
            if keeps_samples(switch["technique"]):
                switch["settings"]["reuse"] = os.path.abspath(options.store)
    other_script = plan.script_digest != digest_of_script(command.script_path)
    other_command = plan.command != shlex.join(command.argv)
    changed = changed_files(plan.sources)
    if other_script or other_command or changed:
        for switch in switches:
            switch["settings"].pop("shown", None)  # of other data, it may be
    if other_command and not other_script:
        _say("measured with another command: its gain"
             + ("" if plan.proof.numerics == "exact" else " and its result")
             + f" may differ here: {plan.command}", options)  # fmt: skip
    if changed and not other_script:
        names = ", ".join(os.path.basename(file) for file in changed)
        _say(f"{names} changed since this plan was proven: its gain and its result may differ: "
             "halftime tune", options)  # fmt: skip
    if other_script:
        _say(f"{command.script} is not the script that this plan was proven for, or has changed "
             "since: its gain and its result may differ: halftime tune", options)  # fmt: skip
    for difference in differences(plan, fingerprint(this_machine())):
        _say(f"measured elsewhere: {difference}; its gain may differ: halftime tune", options)
    return {
        "switches": tuple(switches),
        "framework": plan.framework,
        "roots": plan.roots,
        "training_loader": plan.training_loader,
        "fed_by": plan.fed_by,
    }


def resume(folder: Path | None) -> int:
    """Go on with a study: acknowledged runs are kept, the rest is made."""
    import msgspec

    from .trials.study import Study

    place = _study_folder(folder).absolute()
    study = Study(place, None)
    command = msgspec.convert(study.fixed["command"], Command)
    asked = msgspec.convert(study.fixed["options"], Options)
    study.close()
    return measure(command, asked, place)


def verify(folder: Path | None) -> int:
    """Recompute every figure and word of a study from its raw files; nothing is run."""
    from .errors import NotMeasured
    from .report.files import differences, read_report
    from .report.story import report_of
    from .trials.bench import measured_by_another, open_read_only
    from .trials.execute import unlike_its_files
    from .trials.observing import observe
    from .trials.search import Search

    place = _study_folder(folder).absolute()
    kept = read_report(place)
    with open_read_only(place) as bench:
        runs = bench.study.runs()
        wrong = [said for key, run in runs if (said := unlike_its_files(key, run))]
        search = Search(bench=bench, seen=observe(bench))
        with contextlib.suppress(NotMeasured, UserError):  # stopped, or a baseline failed
            _flow(search)
        wrong += differences(kept, report_of(search))
        another = measured_by_another(bench.study)
    if another:
        sys.stdout.write(f"{another}\n")
    for line in wrong:
        sys.stdout.write(f"differs: {line}\n")
    state = f"{len(wrong)} differ" if wrong else "every figure and word is the same"
    sys.stdout.write(f"{place}: {len(runs)} runs read again from their raw files; {state}\n")
    return DIFFERS if wrong else DONE


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
