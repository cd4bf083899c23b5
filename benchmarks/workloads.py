"""Every bundled workload tuned, and the table workload × technique that this gives.

Each workload is a study of its own in the folder that is named (default: benchmarks-study here);
one that is complete is not measured again, so a run that was stopped goes on. The table and the
heat map are written beside the studies, and into docs/benchmarks.md between its markers.

python benchmarks/workloads.py [FOLDER [MINUTES A WORKLOAD]]     (0 minutes: what is there already)
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from halftime import workloads
from side_by_side import heading

WORKLOADS = ("mlp-pytorch", "mnist-pytorch", "resnet-pytorch", "efficientnet-pytorch",
             "transformer-pytorch", "text-pytorch", "audio-pytorch", "gan-pytorch",
             "mnist-keras", "resnet-keras", "efficientnet-keras", "transformer-keras",
             "text-keras", "ddp-pytorch")  # fmt: skip
# Over two processes, as its users start it.
COMMANDS = {"ddp-pytorch": ["--", "torchrun", "--standalone", "--nproc-per-node=2",
                            str(Path(workloads.__file__).with_name("ddp_pytorch.py"))]}  # fmt: skip
DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- workloads: begin -->", "<!-- workloads: end -->"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks-study").absolute()
    minutes = sys.argv[2] if len(sys.argv) > 2 else "12"
    heading("workloads")
    reports = []
    for name in WORKLOADS:
        study = folder / name
        report = read(study)
        complete = report is not None and report["status"] == "complete"
        if not complete and minutes != "0":
            resumed = (study / "study.json").exists()
            words = ["resume", str(study)] if resumed else []
            words = words or ["tune", "--budget", f"{minutes}m", "--study", str(study),
                              *COMMANDS.get(name, [name])]  # fmt: skip
            subprocess.run([sys.executable, "-m", "halftime", *words], check=False)
            report = read(study)
        if report is not None:
            reports.append((name, report))
    text = table(reports)
    print(text)
    draw(reports, DOCS / "workloads.png")
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if rest:
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def read(study: Path) -> dict[str, Any] | None:
    path = study / "report.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def name_of(verdict: dict[str, Any]) -> str:
    return " + ".join(switch["technique"] for switch in verdict["candidate"]["switches"])


def table(reports: list[tuple[str, dict[str, Any]]]) -> str:
    headings = ("workload", "bottleneck", "plan", "speed-up (95 %)", "start", "memory", "result")
    rows = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for name, report in reports:
        finding = report["diagnosis"]["findings"][0]["bottleneck"]
        best = report["winner"] or report["unproven"]
        if best is None or best["comparison"] is None:
            rows.append(f"| `{name}` | {finding} | none | – | – | – | none found in the budget |")
            continue
        gain, proof, rate = best["comparison"], best["proof"], best["rate"]
        start = f"{rate['fixed_seconds']:.1f} s" if rate else "–"
        rows.append(
            f"| `{name}` | {finding} | {name_of(best)} | {gain['speedup']:.2f}× "
            f"({gain['low']:.2f}–{gain['high']:.2f}) | "
            f"{start} | {best['peak_bytes'] / 1e6:,.0f} MB | {proof['status']} |"
        )
    return "\n".join(rows)


def draw(reports: list[tuple[str, dict[str, Any]]], path: Path) -> None:
    """A heat map of what each technique alone gave to each workload, as it was screened."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gains = {
        name: {
            name_of(verdict): verdict["comparison"]["speedup"]
            for verdict in report["verdicts"]
            if len(verdict["candidate"]["switches"]) == 1 and verdict["comparison"] is not None
        }
        for name, report in reports
    }
    techniques = sorted({technique for row in gains.values() for technique in row})
    if not techniques:
        return
    figure = Figure(figsize=(1.6 + 0.9 * len(techniques), 1.4 + 0.42 * len(gains)), dpi=140)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    cells = [[math.log(row.get(name, math.nan)) for name in techniques] for row in gains.values()]
    # As much colour for twice as fast as for half as fast.
    axes.imshow(cells, cmap="RdBu", vmin=-math.log(2), vmax=math.log(2), aspect="auto")
    for y, row in enumerate(cells):
        for x, value in enumerate(row):
            if not math.isnan(value):
                said, colour = f"{math.exp(value):.2f}", "white" if abs(value) > 0.5 else "black"
                axes.text(x, y, said, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(techniques)), techniques, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(gains)), list(gains), fontsize=8)
    title = "speed-up of each technique alone; blue is faster, white the same or not tried"
    axes.set_title(title, fontsize=9, loc="left")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
