"""What a search has found so far, as a Report at any moment."""

from __future__ import annotations

import shlex
import statistics
from pathlib import Path

from ..measure.steady import common_cut
from ..plan.choose import choose
from ..records import Report, Run
from ..trials.search import Search
from ..trials.timing import times_of
from .article import ROWS


def report_of(search: Search) -> Report:
    """The record of what is known now."""
    bench, seen = search.bench, search.seen
    winner, unproven = choose([*search.confirmed.values(), *search.early])
    open_screens = [v for name, v in search.screened.items() if name not in search.confirmed]
    runs = bench.study.runs()
    return Report(
        command=shlex.join(bench.command.argv),
        script=bench.command.script,
        asked=bench.command.asked or bench.command.script,
        folder=str(bench.study.folder),
        machine=bench.machine,
        framework=f"{seen.facts.framework} {seen.facts.framework_version}",
        status=search.status,
        diagnosis=seen.diagnosis,
        facts=seen.facts,
        baseline_seconds=_baseline_seconds(search),
        full_runs=seen.length.full,
        user_samples=seen.length.user_samples,
        resolvable=search.resolution.smallest_gain if search.resolution else None,
        terms=search.terms.describe() if search.terms else "none needed",
        verdicts=(*search.confirmed.values(), *open_screens, *search.early),
        refused=tuple((r.technique, r.reason) for r in search.refused),
        already_on=seen.facts.already_on,
        winner=winner,
        unproven=unproven,
        credits=tuple(search.credits),
        spent_seconds=bench.study.spent,
        runs=len(runs),
        failed_runs=tuple((key, run.cause) for key, run in runs if run.outcome == "failed"),
        notes=tuple(dict.fromkeys([*seen.diagnosis.notes, *search.notes])),
        data_sources=_data_sources(seen.run),
        tree_changes=bench.tree_changes(),
        price_an_hour=bench.options.price_an_hour,
        baseline=search.baseline,
        metric=search.terms.metric.name if search.terms and search.terms.metric else "",
        article=ROWS if bench.options.article else (),
        protocols=tuple(search.protocols),
    )


def _baseline_seconds(search: Search) -> float | None:
    length, run = search.seen.length, search.seen.run
    known = length.full or length.user_samples is not None or search.status == "exploratory"
    if search.baseline is not None and known:
        return search.baseline.run_seconds
    if not search.pilots:
        return run.wall_seconds if length.full and run.steps else None
    if length.user_samples is None:
        return None
    return statistics.fmean(times_of(search.pilots, length, common_cut(search.pilots)))


def _data_sources(run: Run) -> tuple[str, ...]:
    """What a script says of its data: the bundled ones name their source, real or fallback."""
    path = Path(run.folder, "stdout.txt")
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    return tuple(line.strip() for line in lines[:20] if line.startswith("data: "))
