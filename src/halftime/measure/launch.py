"""The command, unchanged, in a fresh process with the agent; limits; output kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..frameworks.pytorch.trainers import PACKAGES as TRAINERS
from .command import Command

if TYPE_CHECKING:  # `halftime run` starts without it
    from .workspace import Workspace

PACKAGE = Path(__file__).resolve().parent.parent
_ENTRY = str(PACKAGE / "agent" / "entry")
_KEEPER = str(PACKAGE / "measure" / "keeper.py")
AGENT_FAILED = "halftime's agent failed {during}: {error}"
_POLL_SECONDS = 0.05
_LOG_BYTES = 16_000_000
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
PROBES = {
    "torch": "frameworks.pytorch.probe",
    "tensorflow": "frameworks.tensorflow.probe",
    "keras": "frameworks.keras.probe",
    "tf_keras": "frameworks.keras.probe",
    "jax": "frameworks.jax.probe",
    **dict.fromkeys(TRAINERS, "frameworks.pytorch.trainers"),
}

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the agent is told; crosses to the user's process as JSON."""

    run_folder: str
    in_trial: bool
    seed: dict[str, int] | None = None
    framework: str = "torch"
    """Whose techniques the switches are."""
    switches: tuple[dict[str, Any], ...] = ()
    roots: tuple[str, ...] = ()
    training_loader: int | None = None
    """The number of the loader that feeds the training, as it was observed; None: not known."""
    fed_by: str = ""
    """The kind of that loader, which tells whose techniques act on it."""
    stop_after: dict[str, float] | None = None
    witness: dict[str, Any] | None = None
    ablation: dict[str, Any] | None = None
    looks_closely: bool = False
    """Whether what is too dear for a run that is timed is looked at as well."""
    traces_device: bool = False
    """Whether a GPU's kernels are traced for some steps, which end the run."""
    fingerprint_evaluation: bool = False
    deterministic: bool = False
    """Whether kernels are asked for that give the same each time."""
    window_seconds: float = 0.5
    gpus: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    """The GPUs that the run sees, as CUDA_VISIBLE_DEVICES says it: those that its caller sees."""
    compiled_folder: str = ""
    """Where the runs of a study keep what was compiled; '' for a run on its own."""
    probes: dict[str, str] = field(default_factory=lambda: dict(PROBES))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a run is ended from outside. Seconds."""

    wall_seconds: float
    silence_seconds: float


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended. times: of `time.perf_counter`."""

    spawned: float
    ended: float
    exit_code: int | None
    """None where we ended it."""
    killed: str
    """Why we ended it; '' where it ended by itself."""
    setup_failure: str
    peak_bytes: int


def scratch_folder() -> str:
    """A private folder for the agent's notes; tempfile would cost the script 5 ms of start-up."""
    bases = [base for base in (os.environ.get("TMPDIR"), "/tmp", "/dev/shm") if base]
    number = 0
    while bases:
        folder = os.path.join(bases[0], f"halftime-run-{os.getpid()}-{number}")
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            number += 1
        except OSError:
            del bases[0]
        else:
            return folder
    raise UserError("No folder for notes can be made in TMPDIR, /tmp or /dev/shm: make room there.")


def run_plainly(command: Command, orders: Orders) -> int:
    """Run the script in the foreground, as plain Python would, with the agent beside it.

    Gives the script's own exit code; where a signal ended it, its negative number.
    """
    environment = {**os.environ, **_agent_environment(orders)}
    # The script shares the terminal: Ctrl-C is its own to handle, and we wait for what it does.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    inherited = before if before is signal.SIG_IGN else signal.SIG_DFL
    forwarded = [number for number in _FORWARDED if signal.getsignal(number) is signal.SIG_DFL]
    try:
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env=environment,
            close_fds=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, inherited),
        )
        for number in forwarded:  # what a scheduler tells us is meant for the script
            signal.signal(number, lambda number, frame: process.send_signal(number))
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        for number in forwarded:
            signal.signal(number, signal.SIG_DFL)


def run_in_trial(
    command: Command,
    orders: Orders,
    workspace: Workspace,
    limits: Limits,
    stdin: str,
    on_event: Callable[[Event], None],
) -> Ended:
    """Run the command below a keeper, in its workspace, until it ends or must end.

    `on_event` gets each line of the agent as it is written. Raises KeyboardInterrupt as it comes;
    nothing of the run is left then.
    """
    return run_side_by_side(command, [orders], workspace, limits, stdin, on_event)[0]


def run_side_by_side(
    command: Command,
    orders: Sequence[Orders],
    workspace: Workspace,
    limits: Limits,
    stdin: str,
    on_event: Callable[[Event], None],
) -> list[Ended]:
    """As `run_in_trial`, once for each of the orders, all at the same time."""
    runs: list[_Kept] = []
    try:
        for each in orders:
            runs.append(_Kept(command, each, workspace, limits, stdin, on_event))
        going = list(runs)
        while going:
            for run in [run for run in going if run.is_over()]:
                run.close()
                going.remove(run)
    finally:
        for run in runs:
            run.let_go()
        for run in runs:
            run.close()
    return [run.ended() for run in runs]


class _Kept:
    """A run below its keeper, which ends it and sweeps everything below it when told to."""

    def __init__(
        self,
        command: Command,
        orders: Orders,
        workspace: Workspace,
        limits: Limits,
        stdin: str,
        on_event: Callable[[Event], None],
    ) -> None:
        self._limits = limits
        self._on_event = on_event
        folder = Path(orders.run_folder)
        self._output = [folder / "stdout.txt", folder / "stderr.txt"]
        shared = [s["settings"]["folder"] for s in orders.switches if "folder" in s["settings"]]
        compiled = Path(orders.compiled_folder or folder / "compiled")
        job = {
            **workspace.job(command, folder, shared, compiled),
            "stdin": stdin,
            "stdout": str(self._output[0]),
            "stderr": str(self._output[1]),
            "log_bytes": _LOG_BYTES,
        }
        job["environment"] = {
            **os.environ,
            **_agent_environment(orders),
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),
            **dict(job["environment"]),  # type: ignore[call-overload]  # a dict, seen as object
        }
        # It holds the whole environment, and so perhaps keys: the keeper reads it and deletes it.
        job_file = folder / "job.json"
        with open(os.open(job_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps(job))
        control_reading, control_writing = os.pipe()
        self._control: int | None = control_writing
        self._spawned = time.perf_counter()
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", _KEEPER, str(job_file), str(control_reading)],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            pass_fds=(control_reading,),
            start_new_session=True,
        )
        os.close(control_reading)
        self._events = EventReader(folder)
        self._last_sign = self._spawned
        self._written = -1
        self._over = False
        self._closed = False
        self._killed = ""
        self._script = ""
        """The process that the command began as."""
        self._trains: set[str] = set()
        self._said = b""

    def is_over(self) -> bool:
        """Watch for a moment: true once the run has ended by itself, or must be ended."""
        if not self._over:
            ended = _has_ended(self._keeper)
            self._killed = self._must_end(ended)
            self._over = ended or bool(self._killed)
        return self._over

    def _must_end(self, ended: bool) -> str:
        for event in self._events.new():
            self._last_sign = time.perf_counter()
            self._on_event(event)
            if event["event"] == "end" and event["reason"] == "window":
                return "window"
            if event["event"] == "hello" and not self._script:
                self._script = event["process"]
            elif event["event"] == "training":
                self._trains.add(event["process"])
            is_watched = event["process"] in (self._trains or {self._script})
            if event["event"] == "agent_failure" and is_watched:
                # It has stopped observing, so that nobody would see the end of a window.
                return AGENT_FAILED.format(**event)
        if ended:
            return ""
        written = sum(map(_size_of, self._output))
        if written != self._written and written < _LOG_BYTES:
            # Output is a sign of life only while it is kept: a chatty hang must end too.
            self._written, self._last_sign = written, time.perf_counter()
        now, limits = time.perf_counter(), self._limits
        if now - self._spawned > limits.wall_seconds:
            return f"killed at the wall limit of {limits.wall_seconds:.0f} s"
        if now - self._last_sign > limits.silence_seconds:
            return f"killed after {limits.silence_seconds:.0f} s without progress"
        return ""

    def let_go(self) -> None:
        """Tell the keeper to end, and to sweep everything below it."""
        if self._control is not None:
            os.close(self._control)
            self._control = None

    def close(self) -> None:
        """Leave nothing of the run."""
        self.let_go()
        if not self._closed:
            self._said, _ = self._keeper.communicate()
            self._closed = True

    def ended(self) -> Ended:
        """How the run ended; of one that was closed."""
        last = _last_words(self._said)
        return Ended(
            spawned=self._spawned,
            ended=last.get("time", time.perf_counter()),
            exit_code=None if self._killed else last.get("ended"),
            killed=self._killed,
            setup_failure=last.get("setup_failure", ""),
            peak_bytes=int(last.get("peak_bytes", 0)),
        )


def _has_ended(keeper: subprocess.Popen[bytes]) -> bool:
    """Wait a moment for the keeper; true when it has left."""
    try:
        keeper.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _last_words(said: bytes) -> dict[str, Any]:
    for line in reversed(said.decode("utf-8", "replace").splitlines()):
        if '"ended"' in line:
            words: dict[str, Any] = json.loads(line)
            return words
    return {}


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _agent_environment(orders: Orders) -> dict[str, str]:
    path = Path(orders.run_folder) / "orders.json"
    path.write_text(json.dumps(asdict(orders)))
    own = os.environ.get("PYTHONPATH")
    environment = {
        "PYTHONPATH": _ENTRY + (os.pathsep + own if own else ""),
        "HALFTIME_ORDERS": str(path),
    }
    if orders.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = orders.gpus
    if orders.deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    for switch in orders.switches:
        environment.update(switch["settings"].get("environment", {}))
    return environment


class EventReader:
    """Reads what the agents of a run have written, as it grows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, int] = {}

    def new(self) -> Iterator[Event]:
        """The complete lines since the last call, of all processes."""
        for path in sorted(self._folder.glob("events-*.jsonl")):
            start = self._places.get(path.name, 0)
            if path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                written = file.read()
            whole = written.rfind(b"\n") + 1
            self._places[path.name] = start + whole
            for line in written[:whole].splitlines():
                event = _parsed(line)
                if event is not None:
                    event["process"] = path.stem.partition("-")[2]
                    yield event


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # torn by a kill; what was acknowledged stands before it
    return event if isinstance(event, dict) and "event" in event else None
