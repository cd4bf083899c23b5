"""Every value that crosses a stage or a process; the words of the project are defined here.

script    the user's training command, never changed
run       one fresh process of the script: the unit of evidence
step      from "batch requested" to "next batch requested"
fact      what the observed run showed of the script
diagnosis where the time goes, with rule and evidence
idea      a speed-up, in `ideas.py`; technique: its switch in one framework
candidate techniques with settings, worth a trial
trial     a candidate beside the baseline in random blocks of runs
verdict   what the blocks allow to say of a candidate
plan      the fastest candidate whose result is proven as good
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Numerics = Literal["exact", "draws", "rounding", "training"]
VerdictWord = Literal[
    "faster",
    "same speed",
    "slower",
    "inconclusive",
    "no effect",
    "not comparable",
    "failed",
    "parity failed",
    "fits",
]
TOO_BUSY = "other work kept the machine too busy"
Status = Literal["complete", "partial", "exploratory", "diagnosis", "comparison"]
Stage = Literal["preflight", "screen", "confirm"]
Bottleneck = Literal[
    "data-bound",
    "host-bound",
    "compute-bound",
    "memory-bound",
    "evaluation-bound",
    "start-up-bound",
    "oversubscribed",
    "balanced",
    "unobserved",
]


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A technique switched on with its settings."""

    technique: str
    settings: dict[str, Any]
    numerics: Numerics

    def label(self) -> str:
        value = self.settings.get("count", self.settings.get("name"))
        mode = self.settings.get("mode", "default")
        value = mode if value is None and mode != "default" else value
        return self.technique if value is None else f"{self.technique}({value})"


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a technique answers when asked for settings: a switch to try, or why not."""

    switch: Switch | None
    reason: str
    worth_a_trial: bool = True
    """False: only where the user asks for it by name, as `compare --with` does."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Techniques with settings, as one arm of a study; the baseline has none."""

    switches: tuple[Switch, ...] = ()
    again: bool = False
    """The baseline against itself: what this machine makes of no difference at all."""

    @property
    def name(self) -> str:
        if self.again:
            return "baseline again"
        return " + ".join(switch.label() for switch in self.switches) or "baseline"

    @property
    def numerics(self) -> Numerics:
        order: tuple[Numerics, ...] = ("exact", "draws", "rounding", "training")
        return max((s.numerics for s in self.switches), key=order.index, default="exact")


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of at least half a second of training, steps whole; seconds inside it.

    start, end: seconds since the run was spawned. losses: (step, number within the step, loss),
    where None stands for a loss that is not finite.
    """

    start: float
    end: float
    steps: int
    samples: int
    updates: int
    wait: float
    forward: float
    backward: float
    optimizer: float
    evaluation: float
    durations: tuple[float, ...]
    losses: tuple[tuple[int, int, float | None], ...]
    peak_bytes: int
    page_faults: int = 0
    """Pages of host memory that were touched for the first time, or again after they were freed."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a study runs on. available_bytes: memory free before the first run."""

    processor: str
    bfloat16: bool
    cores: int
    available_bytes: int
    gpu: str | None
    gpu_bfloat16: bool
    system: str


@dataclass(frozen=True, kw_only=True)
class LoaderFacts:
    """One DataLoader of the script, in the order of its making."""

    ordinal: int
    """Its number; of one that a trainer of Keras' is fed, the trainer's."""
    dataset: str
    dataset_length: int | None
    batch_size: int | None
    batches: int | None
    workers: int
    iterable: bool
    shuffles: bool
    default_collate: bool
    torch_sampler: bool
    pinned: bool
    place: str
    """file:line where the script made it."""
    forms_batches: bool = True
    """Whether indices come in batches: by a batch size, or by a batch sampler."""
    deterministic: bool | None = None
    """None: not known."""
    randomness: str = ""
    """Why the samples are not deterministic, or not known to be."""
    split: str = ""
    """What could be kept of a random sample: steps before the first random one, decoded files."""
    goes_to_gpu: bool = False
    """Whether the script copies every tensor of its batches to a GPU."""
    handle: str = ""
    """An open file or connection of the dataset, which worker processes would share."""
    item_seconds: float | None = None
    collate_seconds: float | None = None
    alone_samples_per_second: float | None = None
    """Drained without training."""
    sample_bytes: int | None = None
    kind: str = "DataLoader"
    """DataLoader, tf.data, arrays in memory, a PyDataset, a generator, or a library's own class."""
    left_early: bool = False
    """Whether the script begins another pass before one has come to its end."""
    pipeline: tuple[str, ...] = ()
    """The ops of a tf.data pipeline, in their order; of several inputs, the first one's."""
    beside: tuple[str, ...] = ()
    """The further pipelines that each of them joins, as zip does; '' for none."""
    op_seconds: tuple[float, ...] = ()
    """What each of them adds to a sample, where each prefix was drained alone."""
    op_bytes: tuple[int | None, ...] = ()
    """The size of a sample after each of them, where its shape tells."""
    cache_after: str = ""
    """The op of a tf.data pipeline that a cache may stand after, and why after no later one."""
    serial_maps: int = 0
    """How many of its maps and interleaves run on one element after the other, alike each time."""
    batchable_maps: int = 0
    """How many of its maps come right before a batch and could run on a whole one."""
    padding_share: float | None = None
    """Of what its batches hold, where they are padded to their longest row."""
    padding_share_sorted: float | None = None
    """The same, were rows of like length to share a batch."""
    made_as: int = 0
    """Of a DataLoader: its number among those that the script made."""
    prefetched_by_itself: bool = False
    """TensorFlow ends this pipeline in a prefetch without being told."""
    autotuned: bool = False
    """TensorFlow tunes its pipeline without being told."""

    @property
    def can_be_replayed(self) -> bool:
        """Whether its batches can be handed out again, to see what free data would give."""
        return self.kind in ("DataLoader", "tf.data", "a PyDataset")


@dataclass(frozen=True, kw_only=True)
class RootFacts:
    """A module that the script calls to compute what it trains."""

    class_name: str
    parameters: int
    calls_per_update: float
    convolutions: int
    grouped_convolutions: int
    random_layers: bool
    compiled: bool
    last_operations: tuple[str, ...]
    """What its calls end in, by autograd's names."""
    batch_norms: int = 0


@dataclass(frozen=True, kw_only=True)
class Brake:
    """A debugging aid left on, with the place that the script switches it on or calls it."""

    name: str
    place: str
    times_per_step: float


@dataclass(frozen=True, kw_only=True)
class DeviceStep:
    """What a GPU does in a step, by a trace of its kernels."""

    computing_seconds: float
    """In kernels; what runs at the same time is counted once."""
    copying_seconds: float
    """In copies between it and the host or other GPUs, while no kernel runs."""
    kernels: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the observed run showed."""

    framework: str
    framework_version: str
    device: str
    device_name: str
    threads: int | None
    training_loader: int | None
    loaders: tuple[LoaderFacts, ...]
    roots: tuple[RootFacts, ...]
    brakes: tuple[Brake, ...]
    already_on: tuple[str, ...]
    notes: tuple[str, ...]
    cores: int
    available_bytes: int
    bfloat16_units: bool
    optimizer: str = ""
    """The class of the first optimizer that made an update."""
    trainer: str = ""
    """Whose training loop it is: lightning, transformers, ignite, accelerate; '' for its own."""
    backend: str = ""
    """Of Keras: tensorflow, torch or jax."""
    other_backends: tuple[str, ...] = ()
    """Of Keras: those that are installed beside the one in use."""
    random_layers: bool = False
    """Of Keras: whether its layers draw numbers, which another precision or kernel may change."""
    bound_to_backend: str = ""
    """Why a Keras script runs on this backend alone; '' where it uses nothing but Keras."""
    own_code: str = ""
    """Of Keras: what of the script's own a step runs, as a layer or a loss; '' for nothing."""
    batch_callbacks: tuple[str, ...] = ()
    """The script's own callbacks that Keras calls for every batch."""
    own_loop: str = ""
    """Of a Keras script that does not call fit: train_on_batch, or GradientTape."""
    limited_steps: tuple[int, ...] = ()
    """Of Keras: how many steps an epoch or an evaluation of fit is to have, where fit is told."""
    planned_samples: float | None = None
    """Of the whole training, where a trainer was told its epochs."""
    device_step: DeviceStep | None = None
    """None: no GPU, or not traced."""
    optimizer_seconds: float | None = None
    """Of one update, where it runs within a compiled step and was timed alone."""
    optimizer_tracing_seconds: float = 0.0
    """What tracing it takes of each run, where that was timed too."""
    on_one_gpu: bool = False
    """Whether the first GPU that it is given is all that the script uses of them."""
    sources: tuple[tuple[str, str], ...] = ()
    """The script's own modules: file, digest."""

    @property
    def fetches_inside(self) -> bool:
        """Whether the step fetches its own batch, so that nobody can see it wait."""
        return self.framework == "keras" and not self.own_loop

    def fed_by(self) -> LoaderFacts | None:
        """The loader that feeds the training, if one does."""
        for loader in self.loaders:
            if loader.ordinal == self.training_loader:
                return loader
        return None

    def fed_by_torch(self) -> LoaderFacts | None:
        """The DataLoader of torch that feeds the training, if one does."""
        loader = self.fed_by()
        return loader if loader is not None and loader.kind == "DataLoader" else None

    @property
    def kind_of_feed(self) -> str:
        """The kind of that loader; '' where none was seen."""
        loader = self.fed_by()
        return loader.kind if loader is not None else ""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the machine itself did during a run (measurement.md §2)."""

    cpu_pressure_share: float | None
    steal_share: float | None
    load_before: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as the raw files tell it. Seconds count from its spawn."""

    folder: str
    outcome: Literal["completed", "window", "failed"]
    cause: str
    """Typed cause of a failure: crashed, out of memory, killed at the wall limit, … else ''."""
    exit_code: int | None
    wall_seconds: float
    imported_at: float | None
    training_start: float | None
    training_end: float | None
    windows: tuple[Window, ...]
    evaluations: tuple[tuple[float, float], ...]
    steps: int
    samples: int
    updates: int
    effects: dict[str, dict[str, Any]]
    refused: tuple[tuple[str, str], ...]
    checkpoints: tuple[str, ...]
    """A digest of the keys of each checkpoint that the script saved."""
    evaluation_losses: tuple[float | None, ...]
    """None: not a finite number."""
    reported_metrics: tuple[tuple[str, float | None], ...]
    """None: not a finite number."""
    evaluation_fingerprints: tuple[str, ...]
    nonfinite: bool
    peak_bytes: int
    device_peak_bytes: int | None
    reading: Reading
    last_lines: str
    processes_observed: int
    set_aside_seconds: float = 0.0
    """Spent before the training on what only a trial does, such as filling a store for it."""

    @property
    def memory_bytes(self) -> int:
        """The most that it held: on the GPU where it computes on one, else on the host."""
        return self.peak_bytes if self.device_peak_bytes is None else self.device_peak_bytes

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(
            loss for window in self.windows for _, _, loss in window.losses if loss is not None
        )


@dataclass(frozen=True, kw_only=True)
class Rate:
    """T(L) = fixed + L · per_sample (measurement.md §3)."""

    fixed_seconds: float
    seconds_per_sample: float
    training_seconds_per_sample: float
    """Evaluation left aside, of which short runs may have none."""
    cut_samples: int
    """Samples given up as warm-up."""
    kept_windows: int
    kept_seconds: float
    mean_step_seconds: float
    drift: float
    """The trend over what is kept, as a share; above 0: it slows."""
    cut_at_edge: bool
    """The warm-up may not have ended within the run."""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The most that a family of techniques could win, as a factor; why we think so."""

    family: str
    factor: float
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One verdict of the diagnosis."""

    bottleneck: Bottleneck
    rule: str
    evidence: str
    ideas: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Where the time goes. Shares are of a step, from 0 to 1."""

    findings: tuple[Finding, ...]
    steps: int
    step_seconds: float | None
    """The mean: users pay for stalls and checkpoints too."""
    wait_share: float | None
    forward_share: float | None
    backward_share: float | None
    optimizer_share: float | None
    host_share: float | None
    """None where nobody can tell: a trainer's compiled step, of which several were not run in one
    call."""
    idle_share: float | None
    """Of the device that computes: on a GPU what no kernel takes, by a trace, or until there is one
    by device events; on a CPU what is no phase."""
    idle_device: str
    evaluation_share: float | None
    start_up_share: float | None
    ceilings: tuple[Ceiling, ...]
    notes: tuple[str, ...]
    median_step_seconds: float | None = None
    p95_step_seconds: float | None = None
    """Of the steps one by one, where each was seen alone."""
    page_faults_a_step: float | None = None
    copy_share: float | None = None
    """In copies to and from a GPU, where its kernels were traced."""
    kernels_a_step: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the baseline over blocks. log_ratios: (blocks,), ln T_base − ln T_arm."""

    log_ratios: tuple[float, ...]
    speedup: float
    low: float
    high: float
    word: VerdictWord
    resolvable: float
    """The smallest effect found with 80 % power at this noise and number of blocks, as a share."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Whether the result is as good, by the cheapest sufficient proof (measurement.md §5)."""

    status: Literal[
        "exact", "proven at full length", "proven on the first N samples", "not proven", "failed"
    ]
    numerics: Numerics
    evidence: tuple[str, ...]
    missing: str
    """What would prove it, where it is not proven."""
    metric: str | None = None
    margin: float | None = None
    p_value: float | None = None
    seeds: int = 0
    missing_seconds: float = 0.0
    """What proving it would still take, where that is known."""
    reproducible: bool = True
    """False: the baseline's own losses differ from run to run, so that timed ones tell nothing."""
    samples: int = 0
    """Of a proof on the first samples: how many."""

    @property
    def words(self) -> str:
        """The status as it is told."""
        return self.status.replace("N", f"{self.samples:,}") if self.samples else self.status

    @property
    def holds(self) -> bool:
        return self.status not in ("not proven", "failed")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What may be said of one candidate."""

    candidate: Candidate
    word: VerdictWord
    reason: str
    stage: Stage
    comparison: Comparison | None
    proof: Proof | None
    rate: Rate | None
    run_seconds: float | None
    """Of a run of the user's length; of a trial where that length is not known."""
    peak_bytes: int | None
    predicted_ceiling: float | None = None
    """The most that it could win, as a factor; None: nothing bounds it beforehand."""
    quality: float | None = None
    """The held-out metric, mean over the runs of the arm."""
    break_even_samples: float | None = None
    """The length from which it wins; 0: at once, None: never, or no rate is claimed."""
    one_off_seconds: float = 0.0
    """What its first run compiles for, and later ones find on disk; not in any other figure."""


@dataclass(frozen=True, kw_only=True)
class Credit:
    """What one technique gave within a stack: the stack against the stack without it."""

    technique: str
    factor: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a study found; every report is a reading of this record."""

    command: str
    script: str
    folder: str
    machine: Machine
    framework: str
    status: Status
    diagnosis: Diagnosis
    facts: Facts
    baseline_seconds: float | None
    """Of a full run, or of the user's length; None where the length is not known."""
    full_runs: bool
    user_samples: float | None
    resolvable: float | None
    terms: str
    verdicts: tuple[Verdict, ...]
    refused: tuple[tuple[str, str], ...]
    already_on: tuple[str, ...]
    winner: Verdict | None
    unproven: Verdict | None
    credits: tuple[Credit, ...]
    spent_seconds: float
    runs: int
    failed_runs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    data_sources: tuple[str, ...]
    tree_changes: tuple[str, ...]
    asked: str = ""
    """The script and its arguments as the user wrote them, for commands to go on with."""
    price_an_hour: float | None = None
    baseline: Verdict | None = None
    """Its own time, rate and memory in the blocks of the arms; of a comparison its quality too."""
    metric: str = ""
    article: tuple[ArticleRow, ...] = ()
    protocols: tuple[ProtocolRun, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ArticleRow:
    """A row of the article that the project grew from, and the arm here that answers it."""

    arm: str
    title: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ProtocolRun:
    """The article's own protocol once: every arm in one process. seconds: by arm, in its order."""

    order: str
    seconds: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `halftime run` applies."""

    command: str
    script_digest: str
    candidate: Candidate
    speedup: float
    low: float
    high: float
    proof: Proof
    fingerprint: dict[str, str]
    framework: str
    roots: tuple[str, ...]
    study: str
    training_loader: int | None = None
    fed_by: str = ""
    """The kind of that loader."""
    sources: dict[str, str] = field(default_factory=dict)
    """The script's own modules: digest by file."""
    notes: tuple[str, ...] = field(default=())
