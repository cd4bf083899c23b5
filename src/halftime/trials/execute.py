"""One run of an arm on this machine: orders, limits, workspace, journal."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from ..agent.memory import available_bytes
from ..errors import BASELINE_FAILED, UserError
from ..ideas import find_idea, keeps_samples
from ..measure.command import Command
from ..measure.environment import Meter, free_gpus
from ..measure.events import read_run
from ..measure.launch import AGENT_FAILED, Ended, Event, Limits, Orders, run_side_by_side
from ..measure.workspace import Workspace
from ..records import Candidate, Reading, Run
from .study import Study

_SHORTEST_SILENCE = 120.0
_SHARE_OF_MEMORY = 0.8
_ENDED = "ended.json"
_PACKAGES = {"tensorflow": "tensorflow (or tensorflow-cpu)", "sklearn": "scikit-learn"}
BASELINE = Candidate()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one run is for."""

    stage: str
    candidate: Candidate
    seed: int
    block: int = 0
    stop_after: dict[str, float] | None = None
    witness: dict[str, Any] | None = None
    ablation: dict[str, Any] | None = None
    traces_device: bool = False
    fingerprint_evaluation: bool = False
    deterministic: bool = False
    store_folder: str | None = None
    beside: str = ""
    """Of a claim: what its blocks are made of, so that no other block's run stands in for it."""

    @property
    def key(self) -> str:
        """What names this run in the journal."""
        return f"{self.stage}{self.beside}/{self.block}/{self.candidate.name}"


@dataclass(kw_only=True)
class Executor:
    """Makes the runs of a study: one at a time, but for those of which nothing is timed."""

    study: Study
    command: Command
    workspace: Workspace
    stdin: str
    base_seed: int
    on_task: Callable[[Task], None]
    on_event: Callable[[Event], None]
    on_run: Callable[[Task, Run], None]
    limits: Limits
    budget_seconds: float = math.inf
    framework: str = "torch"
    roots: tuple[str, ...] = field(default=())
    training_loader: int | None = None
    fed_by: str = ""
    witness_seconds: float = 0.0
    """What the longest witness takes, which may come at any time."""
    on_one_gpu: bool = False
    """Whether the script uses the first GPU that it sees, and no other."""

    @property
    def left_seconds(self) -> float:
        """What is left of the budget, as of the last acknowledged run."""
        return self.budget_seconds - self.study.spent

    def run(self, task: Task) -> Run:
        """The run of this task: from the journal, or made now."""
        return self.run_side_by_side([task])[0]

    def run_side_by_side(self, tasks: Sequence[Task], gpus: Sequence[str] = ()) -> list[Run]:
        """The runs of these tasks, all at once: for those alone of which nothing is timed.

        gpus: one for each task, by its UUID; (): each sees what the caller sees. What failed beside
        others is not in the journal, and nothing is put side by side after it.
        """
        for task in tasks:
            if task.candidate == BASELINE and task.witness is None:
                self.study.set_failure_aside(task.key)
        new = [task for task in tasks if not self.study.knows(task.key)]
        for task in new:
            self.on_task(task)
        runs = self.study.obtain_together(
            [task.key for task in tasks], lambda folders: self._make(new, folders, gpus)
        )
        if len(new) > 1 and any(run.outcome == "failed" for run in runs):
            self.on_one_gpu = False
        for task, run in zip(tasks, runs, strict=True):
            if task in new:
                self.on_run(task, run)
        return runs

    def gpus_for(self, runs: int | None = None) -> list[str]:
        """Free GPUs for so many runs that are not timed, at most; [] where they cannot be apart.

        A script that uses several GPUs needs them itself; runs that share a folder disturb each
        other; and all of them have to fit in the memory of the host.
        """
        if not self.on_one_gpu or self.workspace.kind == "none":
            return []
        gpus = free_gpus()[:runs]
        if len(gpus) < 2:
            return gpus  # and the journal is not read for it
        held = max((run.peak_bytes for _, run in self.study.runs()), default=0)
        return gpus[: int(available_bytes() * _SHARE_OF_MEMORY / max(held, 1))]

    def learn_limits(self, seen: Sequence[Run], to_come_seconds: float = 0.0) -> None:
        """3 × the longest run + 60 s, 3 × the longest silence, at least 120 s (measurement.md §6).

        seen: baseline runs. to_come_seconds: of runs to come that may be longer than those.
        """
        longest = max(to_come_seconds, self.witness_seconds, *(run.wall_seconds for run in seen))
        silence = max(_longest_silence(run) for run in seen)
        self.limits = Limits(
            wall_seconds=3 * longest + 60,
            silence_seconds=max(3 * silence, _SHORTEST_SILENCE),
        )

    def _limits_of(self, task: Task) -> Limits:
        """The limits of a run, with what its techniques may take in their first one."""
        more = 0.0
        for switch in task.candidate.switches:
            idea = find_idea(switch.technique)
            # The journal is asked for the few alone that have such a first run.
            takes = idea.one_off_seconds if idea is not None else 0.0
            more += takes if takes and not self.study.runs_under(switch.label()) else 0.0
        return Limits(
            wall_seconds=self.limits.wall_seconds + more,
            silence_seconds=self.limits.silence_seconds + more,
        )

    def _make(self, tasks: Sequence[Task], folders: list[Path], gpus: Sequence[str]) -> list[Run]:
        orders = [self._orders_of(*pair) for pair in zip(tasks, folders, strict=True)]
        if gpus:
            orders = [replace(one, gpus=gpu) for one, gpu in zip(orders, gpus, strict=False)]
        meter = Meter.start()
        limits = [self._limits_of(task) for task in tasks]
        # They share the cores.
        most = Limits(
            wall_seconds=len(tasks) * max(each.wall_seconds for each in limits),
            silence_seconds=len(tasks) * max(each.silence_seconds for each in limits),
        )
        ended = run_side_by_side(
            self.command, orders, self.workspace, most, self.stdin, self.on_event
        )
        runs = []
        for folder, end in zip(folders, ended, strict=True):
            raw = _Raw(ended=end, reading=meter.read())
            (folder / _ENDED).write_bytes(msgspec.json.encode(raw))
            runs.append(read_run(folder, raw.ended, raw.reading))
        return runs

    def _orders_of(self, task: Task, folder: Path) -> Orders:
        return Orders(
            run_folder=str(folder),
            in_trial=True,
            seed={"base": self.base_seed, "offset": task.seed},
            framework=self.framework,
            switches=tuple(_switch_orders(task, self.study.folder)),
            roots=self.roots,
            training_loader=self.training_loader,
            fed_by=self.fed_by,
            stop_after=task.stop_after,
            witness=task.witness,
            ablation=task.ablation,
            looks_closely=task.stage == "observe",
            traces_device=task.traces_device,
            fingerprint_evaluation=task.fingerprint_evaluation,
            deterministic=task.deterministic,
            compiled_folder=str(self.study.folder / "compiled"),
        )


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """What of a run is not in the files that the run itself wrote."""

    ended: Ended
    reading: Reading


def unlike_its_files(key: str, run: Run) -> str:
    """What the raw files of a run say against its record in the journal; '' where they agree."""
    folder = Path(run.folder)
    try:
        raw = msgspec.json.decode((folder / _ENDED).read_bytes(), type=_Raw)
    except (OSError, msgspec.MsgspecError) as error:
        return f"run {key}: its raw files cannot be read ({error})"
    if read_run(folder, raw.ended, raw.reading) == run:
        return ""
    return f"run {key}: its raw files in {folder} give another record"


def check_baseline(run: Run, script: str) -> None:
    """Raise UserError where the baseline itself failed (measurement.md §6)."""
    if run.outcome != "failed":
        return
    if run.cause.startswith(AGENT_FAILED.partition("{")[0]):
        raise UserError(
            f"{run.cause}. This is a fault of halftime's, not of {script}: please report it with "
            f"{run.folder}/events-*.jsonl."
        )
    raise UserError(
        f"{script} ended with {run.cause.removeprefix('crashed: ')} after {run.steps} steps; its "
        f"last lines are below. {_next_step(run)}\n\n{run.last_lines}",
        BASELINE_FAILED,
    )


def _next_step(run: Run) -> str:
    missing = re.findall(r"No module named '([\w.]+)'", run.last_lines)
    if not missing:
        return "Run it without halftime first."
    package = _PACKAGES.get(missing[-1], missing[-1].partition(".")[0])
    return (
        f"Its interpreter has no {missing[-1]}: install {package} there, or name another one with "
        "--python PATH."
    )


def check_finite(run: Run, script: str) -> None:
    """Raise UserError where the baseline's own loss is not finite: nothing can be proven then."""
    if run.nonfinite:
        raise UserError(
            f"The loss of {script} becomes NaN or infinite without halftime too, so no result can "
            "be proven as good. Find the cause first (a smaller learning rate, "
            "torch.autograd.detect_anomaly), or use halftime diagnose, which needs no loss.",
            BASELINE_FAILED,
        )


def _switch_orders(task: Task, study: Path) -> list[dict[str, Any]]:
    """The switches of a run; a folder of the study for what later runs find again."""
    orders = [asdict(switch) for switch in task.candidate.switches]
    for order in orders:
        if keeps_samples(order["technique"]) and task.store_folder is not None:
            order["settings"]["folder"] = task.store_folder
        elif order["technique"] == "compilation_cache":
            folder = study / "compiled" / "xla"
            folder.mkdir(parents=True, exist_ok=True)
            order["settings"]["folder"] = str(folder)
    return orders


def _longest_silence(run: Run) -> float:
    """The longest gap between any two events of a run. Seconds."""
    times = [0.0, run.imported_at or 0.0, run.training_start or 0.0]
    times += [window.end for window in run.windows] + [end for _, end in run.evaluations]
    times = sorted([*times, run.wall_seconds])
    return max(after - before for before, after in itertools.pairwise(times))
