"""The sentences that every report shares: results in the user's terms."""

from __future__ import annotations

from ..ideas import keeps_samples
from ..records import TOO_BUSY, Diagnosis, Report, Verdict


def duration(seconds: float) -> str:
    """`0.7 ms`, `4.5 s`, `41 min`, `2.3 h`: three digits at most."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


def size(count: int | None) -> str:
    """`64 B`, `3.1 kB`, `79 MB`, `1.2 GB`."""
    if count is None:
        return "–"
    if count < 999_500:
        return f"{count} B" if count < 1e3 else f"{count / 1e3:.3g} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def headline(report: Report) -> str:
    """The verdict, first and in one sentence."""
    if report.status == "diagnosis":
        return finding_line(report)
    if report.status == "exploratory":
        return "Exploratory, one run an arm, no claims."
    if report.status == "comparison":
        return _comparison_line(report)
    winner = report.winner
    if winner is not None and winner.comparison is not None and winner.proof is not None:
        seen = winner.comparison
        return (
            f"{_what_is_faster(report, winner)} at least {seen.low:.2f}× faster (best estimate "
            f"{seen.speedup:.2f}×) with {winner.candidate.name}; result: {winner.proof.words}."
        )
    if report.unproven is not None and report.unproven.word == "fits":
        arm = report.unproven
        return (
            f"{report.script} does not fit in memory; with {arm.candidate.name} it runs, at "
            f"{size(arm.peak_bytes)} ({_pieces(report)}). No speed-up is claimed."
        )
    if report.unproven is not None and report.unproven.comparison is not None:
        seen = report.unproven.comparison
        missing = report.unproven.proof.missing if report.unproven.proof else ""
        return (
            f"No plan is proven. {report.unproven.candidate.name} is at least {seen.low:.2f}× "
            f"faster, but its result is not proven to be as good ({missing})."
        )
    if report.status == "partial":
        return "Stopped before a plan was proven."
    busy = [v.candidate.name for v in report.verdicts if v.reason == TOO_BUSY]
    if busy:
        return f"No answer for {', '.join(busy)}: {TOO_BUSY}. Try again when it is quiet."
    if any(v.stage == "confirm" for v in report.verdicts):
        return f"No gain could be confirmed on this machine{_resolves(report)}."
    # The fastest of a screen is confirmed where there is room for it, however little it is ahead.
    ahead = [v for v in report.verdicts if v.comparison is not None and v.comparison.speedup > 1]
    if ahead:
        best = max(ahead, key=lambda v: v.comparison.speedup if v.comparison else 0.0)
        return (
            f"No answer: {best.candidate.name} was ahead in the screen, and the budget had no room "
            "to confirm it. Give a larger --budget."
        )
    if any("the budget has no room" in reason for _, reason in report.refused):
        if not report.verdicts:
            return "No answer: the budget had no room for a trial."
        return f"No gain among the arms that the budget had room for{_resolves(report)}."
    if any("--only" in reason for _, reason in report.refused):
        tried = ", ".join(verdict.candidate.name for verdict in report.verdicts)
        if not tried:
            return "Nothing was tried: no technique that --only and --without leave acts here."
        return f"Nothing to gain from {tried} on this machine{_resolves(report)}."
    return f"Honestly nothing to gain on this machine{_resolves(report)}."


def _what_is_faster(report: Report, winner: Verdict) -> str:
    """The training; where its length is not known, only its steady state (measurement.md §3)."""
    if report.full_runs or report.user_samples is not None:
        return f"{report.script} trains"
    keeps = any(keeps_samples(switch.technique) for switch in winner.candidate.switches)
    return f"{report.script} trains{' after its first epoch' if keeps else ' in its steady state'}"


def _comparison_line(report: Report) -> str:
    compared = [v.comparison for v in report.verdicts if v.comparison is not None]
    if not compared:
        return "No comparison: the budget had no room for four blocks."
    blocks = max(len(comparison.log_ratios) for comparison in compared)
    resolved = max(comparison.resolvable for comparison in compared)
    return (
        f"{len(report.verdicts)} arms beside the baseline of {report.script}, {blocks} random "
        f"blocks of fresh processes; differences from {resolved:.1%} are resolved in every arm."
    )


def _pieces(report: Report) -> str:
    """How the batch that did not fit goes through memory now."""
    switches = report.unproven.candidate.switches if report.unproven is not None else ()
    for switch in switches:
        if "batch" in switch.settings:
            whole, count = switch.settings["batch"], switch.settings["count"]
            return f"batches of {whole} in {count} pieces of {whole // count}"
    return "the whole batch at once"


def _resolves(report: Report) -> str:
    if report.resolvable is None:
        return ""
    return f" (it resolves differences from {report.resolvable:.1%})"


def finding_line(report: Report) -> str:
    """What bounds the script, from the diagnosis."""
    first = report.diagnosis.findings[0]
    return f"{report.script} is {first.bottleneck}: {first.evidence}."


def pipeline_costs(report: Report) -> list[tuple[str, float, float]]:
    """(op, its seconds a sample, its share) of a tf.data pipeline, where that was measured."""
    loader = report.facts.fed_by()
    if loader is None or not sum(loader.op_seconds):
        return []
    total = sum(loader.op_seconds)
    beside = loader.beside or ("",) * len(loader.pipeline)
    return [
        (f"{name} with ({other})" if other else name, seconds, seconds / total)
        for name, other, seconds in zip(loader.pipeline, beside, loader.op_seconds, strict=True)
    ]


def pipeline_line(report: Report) -> str:
    """What each op of the pipeline takes, and where a cache may stand; '' if not known."""
    loader, costs = report.facts.fed_by(), pipeline_costs(report)
    if loader is None or not costs:
        return ""
    total = sum(seconds for _, seconds, _ in costs)
    sizes = loader.op_bytes or (None,) * len(costs)
    parts = " → ".join(
        f"{name} {share:.0%}" + (f" ({size(held)})" if held is not None else "")
        for (name, _, share), held in zip(costs, sizes, strict=True)
    )
    line = f"of the {duration(total)} that the pipeline takes for a sample: {parts}"
    if loader.cache_after:
        line += f"; a cache may stand after {loader.cache_after}"
    elif loader.randomness:
        line += f"; no cache: {loader.randomness}"
    return line


def savings(report: Report) -> list[str]:
    """What the plan means for the user: minutes saved of each run, runs a day, its price."""
    winner = report.winner
    if winner is None or winner.comparison is None or report.status == "comparison":
        return []
    factor, low = winner.comparison.speedup, winner.comparison.low
    if report.baseline_seconds is None:
        lines = [
            f"a sample costs {1 / factor:.0%} of what it did; name the length of your training "
            "with --length 50epochs to read it in minutes"
        ]
    else:
        saved = report.baseline_seconds * (1 - 1 / factor)
        lines = [
            f"saves {duration(saved)} of each {duration(report.baseline_seconds)} run, "
            f"{factor:.2g} times as many runs a day"
        ]
        sure = report.baseline_seconds * (1 - 1 / low)
        if sure > 0:
            runs = report.spent_seconds / sure
            lines.append(
                f"tuning took {duration(report.spent_seconds)}: paid back after "
                f"{max(round(runs + 0.5), 1)} runs (from the lower bound)"
            )
        if report.price_an_hour is not None:
            price = saved / 3600 * report.price_an_hour
            lines.append(f"at {report.price_an_hour:g} an hour: {price:.3g} less a run")
    lines.append(_gap_line(report, winner, factor))
    if winner.one_off_seconds > 1:
        lines.append(
            f"its first run compiles for {duration(winner.one_off_seconds)} more; later ones find "
            "that on disk"
        )
    if winner.break_even_samples:
        lines.append(f"break-even from {winner.break_even_samples:,.0f} samples on")
    return lines


def _gap_line(report: Report, winner: Verdict, factor: float) -> str:
    """How much the plan takes of what the fastest arm that was tried would save, at what cost."""
    cost = f"{report.runs} runs in {duration(report.spent_seconds)}"
    gains = {v.candidate.name: v.comparison.speedup for v in report.verdicts if v.comparison}
    name, best = max(gains.items(), key=lambda gain: gain[1], default=("", 0.0))
    if best <= factor or name == winner.candidate.name:
        return f"no arm that was tried would save more; found with {cost}"
    share = (1 - 1 / factor) / (1 - 1 / best)
    return f"{share:.0%} of what {name} ({best:.2f}×) would save; found with {cost}"


def run_heading(report: Report) -> str:
    """What the times of the arms are times of."""
    known = report.full_runs or report.user_samples is not None
    return "a run" if known else "a window"


def verdict_cells(verdict: Verdict) -> tuple[str, str, str, str, str]:
    """Arm, verdict, speed-up with interval, time of a run, what is said of the result."""
    seen = verdict.comparison
    gain = f"{seen.speedup:.2f}× ({seen.low:.2f}–{seen.high:.2f})" if seen else "–"
    if verdict.stage == "screen" and seen:
        gain = f"{seen.speedup:.2f}× (screened)"
    run = duration(verdict.run_seconds) if verdict.run_seconds else "–"
    result = ""
    if verdict.proof is not None:
        result = verdict.proof.words
        if verdict.proof.missing and not verdict.proof.holds:
            result += f": {verdict.proof.missing}"
    if verdict.reason:
        result = (
            f"{verdict.reason}"
            if not result or verdict.stage != "confirm"
            else f"{result}; {verdict.reason}"
        )
    return verdict.candidate.name, verdict.word, gain, run, result


def step_line(report: Report) -> str:
    """Where a step's time goes, as shares."""
    seen = report.diagnosis
    if seen.step_seconds is None:
        return "no step was observed"
    parts = [f"{share:.0%} {name}" for name, share in shares_of_step(seen)]
    step = f"a step is {duration(seen.step_seconds)}"
    if seen.median_step_seconds is not None and seen.p95_step_seconds is not None:
        median, most = map(duration, (seen.median_step_seconds, seen.p95_step_seconds))
        step += f" (median {median}, 95 % of them under {most})"
    if seen.wait_share is None:
        whole = f"{step}, the fetching of its batch included"
        return f"{whole}: {', '.join(parts)}" if len(parts) > 1 else whole
    parts[0] = parts[0].replace("data", "waiting for data")
    if report.facts.fetches_inside:
        parts[0] += " (by replay)"
    return (
        f"{step}: " + ", ".join(parts) + (f"; {seen.idle_device} idle {seen.idle_share or 0:.0%}")
    )


def shares_of_step(seen: Diagnosis) -> list[tuple[str, float]]:
    """What a step consists of, data first; on a GPU by its kernels, once these were traced."""
    if seen.step_seconds is None:
        return []
    if seen.kernels_a_step is not None:
        shares = {
            "data": seen.wait_share,
            f"GPU kernels ({seen.kernels_a_step:,.0f} a step)": 1 - (seen.idle_share or 0),
            "copies": seen.copy_share,
            "host": seen.host_share,
        }
    elif seen.backward_share is None:
        # Of a compiled step only what ablations told apart is known.
        optimizer = seen.optimizer_share or 0.0
        model = 1 - (seen.wait_share or 0.0) - (seen.host_share or 0.0) - optimizer
        all_of_it = {"data": seen.wait_share, "model": max(model, 0.0),
                     "optimizer": seen.optimizer_share, "host": seen.host_share}  # fmt: skip
        shares = {name: share for name, share in all_of_it.items() if share is not None}
    else:
        shares = {
            "data": seen.wait_share,
            "forward": seen.forward_share,
            "backward": seen.backward_share,
            "optimizer": seen.optimizer_share,
            "host": seen.host_share,
        }
    return [(name, share or 0.0) for name, share in shares.items()]
