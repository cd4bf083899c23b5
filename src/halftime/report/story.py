"""What a study has found so far, as a Report at any moment."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..measure.steady import break_even_samples, steady_rate
from ..plan.choose import choose
from ..records import Candidate, Credit, Rate, Report, Run, Verdict
from ..trials.bench import Bench
from ..trials.candidates import Refusal
from ..trials.observing import Seen
from ..trials.proving import Terms
from ..trials.stages import Resolution, times_of


@dataclass(kw_only=True)
class Story:
    """Grows as the stages go by; what is not known yet is None or empty."""

    bench: Bench
    seen: Seen
    status: Literal["complete", "partial", "exploratory", "diagnosis"] = "partial"
    refused: list[Refusal] = field(default_factory=list)
    pilots: list[Run] = field(default_factory=list)
    resolution: Resolution | None = None
    terms: Terms | None = None
    early: list[Verdict] = field(default_factory=list)
    screened: dict[str, Verdict] = field(default_factory=dict)
    confirmed: dict[str, Verdict] = field(default_factory=dict)
    credits: list[Credit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self) -> Report:
        """The record of what is known now."""
        bench, seen = self.bench, self.seen
        winner, unproven = choose(list(self.confirmed.values()))
        open_screens = [v for name, v in self.screened.items() if name not in self.confirmed]
        runs = bench.study.runs()
        base_rate = _middle([steady_rate(run) for run in self.pilots] or [seen.rate])
        even = None
        if winner is not None and winner.rate is not None and base_rate is not None:
            even = break_even_samples(base_rate, winner.rate)
        return Report(
            command=shlex.join(bench.command.argv),
            script=bench.command.script,
            folder=str(bench.study.folder),
            machine=bench.machine,
            framework=f"{seen.facts.framework} {seen.facts.framework_version}",
            status=self.status,
            diagnosis=seen.diagnosis,
            facts=seen.facts,
            baseline_seconds=self._baseline_seconds(),
            baseline_rate=base_rate,
            full_runs=seen.length.full,
            user_samples=seen.length.user_samples,
            resolvable=self.resolution.smallest_gain if self.resolution else None,
            terms=self.terms.describe() if self.terms else "none needed",
            verdicts=(*self.confirmed.values(), *open_screens, *self.early),
            refused=tuple((r.technique, r.reason) for r in self.refused),
            already_on=seen.facts.already_on,
            winner=winner,
            unproven=unproven,
            credits=tuple(self.credits),
            break_even_samples=even,
            spent_seconds=bench.study.spent,
            runs=len(runs),
            failed_runs=tuple((key, run.cause) for key, run in runs if run.outcome == "failed"),
            notes=tuple(dict.fromkeys([*seen.diagnosis.notes, *self.notes])),
            data_sources=_data_sources(bench, seen.run),
            tree_changes=bench.tree_changes(),
            price_an_hour=bench.options.price_an_hour,
        )

    def _baseline_seconds(self) -> float | None:
        length = self.seen.length
        if not self.pilots:
            return self.seen.run.wall_seconds if length.full and self.seen.run.steps else None
        if length.user_samples is None:
            return None
        return statistics.fmean(times_of(self.pilots, length))


def credits_of(stack: Candidate, confirmed: Mapping[str, Verdict]) -> list[Credit]:
    """What each technique gave: the stack's speed-up over that of the stack without it."""
    whole = confirmed[stack.name].comparison
    found = []
    for switch in stack.switches:
        rest = Candidate(switches=tuple(s for s in stack.switches if s is not switch))
        part = confirmed.get(rest.name)
        if whole is not None and part is not None and part.comparison is not None:
            factor = whole.speedup / part.comparison.speedup
            found.append(Credit(technique=switch.label(), factor=factor))
    return found


def _middle(rates: Sequence[Rate | None]) -> Rate | None:
    known = sorted((r for r in rates if r is not None), key=lambda r: r.seconds_per_sample)
    return known[len(known) // 2] if known else None


def _data_sources(bench: Bench, run: Run) -> tuple[str, ...]:
    """What a script says of its data: the bundled ones name their source, real or fallback."""
    path = bench.study.folder / "runs" / Path(run.folder).name / "stdout.txt"
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    return tuple(line.strip() for line in lines[:20] if line.startswith("data: "))
