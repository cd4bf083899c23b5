"""What each speed-up means, when it helps, what it may change, its source: once for all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Idea:
    """One speed-up, whatever the framework."""

    name: str
    title: str
    short_names: tuple[str, ...]
    family: str
    """What bounds its gain, a family of the diagnosis' ceilings; some have no bound."""
    usual_share: float
    """Of what that bound leaves to win, what it won in most scripts that were measured
    (docs/benchmarks.md, docs/survey.md). It orders trials where a budget has no room for all, and
    decides nothing else."""
    changes: str
    helps_when: str
    bottlenecks: tuple[str, ...]
    numerics: str
    """exact, draws, rounding or training: in the order of the proof that they need."""
    may_change: str
    needs: str
    trade_off: str
    source: str
    conflicts: tuple[str, ...] = ()
    one_off_seconds: float = 0.0
    """How long its first run may be silent, beyond what the baseline's runs showed."""
    device: str = ""
    """The only type of device that it acts on; '' for any."""
    also_in: str = ""
    """Another family whose ceiling adds to its own."""
    keeps_samples: bool = False
    """Whether it fills a store of samples, which the runs of a study share."""


STORE = Idea(
    name="store",
    title="dataset store",
    short_names=("cache",),
    family="data",
    usual_share=0.9,
    changes="keeps each sample the first time it is drawn; a batch is then one gather in memory",
    helps_when="samples are decoded and collated one by one in Python, again in every epoch",
    bottlenecks=("data-bound",),
    numerics="exact",
    may_change="nothing: same indices, same bytes; random steps of a transform run anew",
    needs="a map-style dataset whose samples, or the first steps to them, are deterministic; RAM",
    trade_off="memory of what is kept; the first epoch runs at its old speed",
    source="pytorch#106704 (3 to 320 times between the loader and a slice)",
    conflicts=("workers",),
    keeps_samples=True,
)
DEVICE_DATA = Idea(
    name="device_data",
    title="dataset on the GPU",
    short_names=("resident",),
    family="transfer",
    usual_share=0.7,
    changes="a store whose samples lie in GPU memory: a batch is gathered there, and never copied",
    helps_when="gathering a batch and copying it to the GPU take a share of the step",
    bottlenecks=("data-bound",),
    numerics="exact",
    may_change="nothing: same indices, same bytes",
    needs="a GPU with room for the dataset; deterministic samples, all copied to the GPU as they "
    "come",
    trade_off="GPU memory; a script that mixes a batch with tensors on the host fails",
    source="datasets held on the GPU, as in arXiv:2404.00498",
    conflicts=("store", "workers", "prefetch", "pinned_memory"),
    also_in="data",
    device="cuda",
    keeps_samples=True,
)
WORKERS = Idea(
    name="workers",
    title="loader workers",
    short_names=(),
    family="data",
    usual_share=0.5,
    changes="the number of worker processes of the DataLoader, or of threads that fetch the "
    "batches of a Keras PyDataset",
    helps_when="decoding waits on one core while others idle; fewer, where batches are cheap",
    bottlenecks=("data-bound", "oversubscribed"),
    numerics="exact",
    may_change="nothing where samples are deterministic; else which random numbers a sample gets",
    needs="free cores; a dataset that can be shared with worker processes",
    trade_off="memory of each worker, and their start in every epoch",
    source="Lightning#17410 (workers made a cheap dataset 50 times slower)",
    conflicts=("store", "prefetch"),
)
PREFETCH = Idea(
    name="prefetch",
    title="prefetch on a thread",
    short_names=(),
    family="data",
    usual_share=0.3,
    changes="the next batch is made on a background thread while the model computes",
    helps_when="loading and computing take turns and loading leaves Python (decoding, reading)",
    bottlenecks=("data-bound",),
    numerics="exact",
    may_change="nothing: refused where samples or the sampler draw global random numbers",
    needs="a single-process loader; a torch sampler; work that releases the interpreter lock",
    trade_off="two batches of memory; contention where the dataset is pure Python",
    source="measurement on this machine decides: the interpreter lock may take all of it",
    conflicts=("workers",),
)
PARALLEL_MAP = Idea(
    name="parallel_map",
    title="maps and interleaves of tf.data on several cores",
    short_names=(),
    family="data",
    usual_share=0.4,
    changes="a map or an interleave that gives the same each time runs on several at once, "
    "in order",
    helps_when="elements are decoded, or files are read, on one core while others idle",
    bottlenecks=("data-bound",),
    numerics="exact",
    may_change="nothing: elements keep their order, and a random map stays as it is",
    needs="tf.data; free cores",
    trade_off="cores that the step could use",
    source="tf.data performance guide, Parallelizing data transformation",
)
BATCHED_MAP = Idea(
    name="batched_map",
    title="maps of tf.data on whole batches",
    short_names=("vectorised_map",),
    family="data",
    usual_share=0.4,
    changes="elements are put into batches first, and a map's function runs on a whole batch",
    helps_when="a cheap function runs once for each sample, and calling it is what costs",
    bottlenecks=("data-bound",),
    numerics="exact",
    may_change="nothing: compared bit by bit before the training, and left alone where it differs",
    needs="tf.data; a map that gives the same each time, of elements of one shape, before a batch",
    trade_off="functions that cannot be vectorised run in a loop of their own",
    source="tf.data performance guide, Vectorizing mapping",
    conflicts=("store", "parallel_map"),
)
LENGTH_BUCKETING = Idea(
    name="length_bucketing",
    title="rows of like length in a batch",
    short_names=("bucketing",),
    family="padding",
    usual_share=0.7,
    changes="shuffled rows are sorted by length, some batches at a time, before they are put "
    "into batches, whose order is shuffled then",
    helps_when="rows of uneven length, as sentences, are padded to the longest of their batch",
    bottlenecks=("compute-bound",),
    numerics="training",
    may_change="which rows share a batch: each comes once an epoch, in as many updates",
    needs="a tf.data pipeline that is shuffled before its batch or padded_batch",
    trade_off="batches are less mixed: long rows come with long ones",
    source="tf.data.Dataset.bucket_by_sequence_length; Khomenko et al. 2016, arXiv:1708.05604",
    conflicts=("batched_map",),
)

AUTOTUNE = Idea(
    name="autotune",
    title="tf.data without its tuner",
    short_names=(),
    family="epochs",
    usual_share=0.3,
    changes="pipelines of tf.data run without the thread that tunes their buffers and parallelism",
    helps_when="epochs are short: TensorFlow's tuning thread delays the end of each",
    bottlenecks=("data-bound",),
    numerics="exact",
    may_change="nothing: the same elements in the same order",
    needs="TensorFlow; a script that says nothing of autotuning itself",
    trade_off="what is left to AUTOTUNE keeps its default",
    source="measured: Keras epochs of 3.2 s took 5.1 s under TensorFlow 2.21 (docs/article.md)",
)
MIXED_PRECISION = Idea(
    name="mixed_precision",
    title="mixed precision (bfloat16; float16 where a GPU has no units for it)",
    short_names=("amp", "bf16", "fp16"),
    family="arithmetic",
    usual_share=0.15,
    changes="the model's forward and backward run in bfloat16 where that is safe; weights stay "
    "float32",
    helps_when="arithmetic bounds the step and the processor has bfloat16 units",
    bottlenecks=("compute-bound", "memory-bound"),
    numerics="rounding",
    may_change="the last digits of activations and gradients",
    needs="AVX512_BF16 or AMX on a CPU; on a GPU below compute capability 8.0 a loop with one "
    "optimizer, whose loss is scaled for float16",
    trade_off="slower on tiny models; rounding, so the result is tested over seeds",
    source="Micikevicius et al. 2018, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322",
)
CHANNELS_LAST = Idea(
    name="channels_last",
    title="channels-last memory layout",
    short_names=("nhwc",),
    family="arithmetic",
    usual_share=0.1,
    changes="convolution weights and inputs are laid out with channels innermost",
    helps_when="convolutions bound the step",
    bottlenecks=("compute-bound",),
    numerics="rounding",
    may_change="the order of sums inside convolution kernels",
    needs="a model with 2-D convolutions",
    trade_off="grouped convolutions and some norm layers can be slower",
    source="PyTorch channels-last tutorial; measured per script",
)
MATMUL_PRECISION = Idea(
    name="matmul_precision",
    title="matrix products on tensor cores",
    short_names=("tf32",),
    family="arithmetic",
    usual_share=0.2,
    changes="float32 matrix products run on the GPU's tensor cores: PyTorch's in TF32, and JAX's, "
    "which has TF32 by itself, in bfloat16",
    helps_when="matrix products in float32 bound the step on a GPU",
    bottlenecks=("compute-bound",),
    numerics="rounding",
    may_change="the last digits of matrix products",
    needs="a GPU of compute capability 8.0",
    trade_off="none where bfloat16 is used; convolutions have it already",
    source="torch.set_float32_matmul_precision",
    device="cuda",
)
CUDNN_AUTOTUNE = Idea(
    name="cudnn_autotune",
    title="cuDNN autotune",
    short_names=("cudnn",),
    family="arithmetic",
    usual_share=0.1,
    changes="cuDNN tries its convolution kernels once for each shape and keeps the fastest",
    helps_when="convolutions of unchanging shape bound the step on a GPU",
    bottlenecks=("compute-bound",),
    numerics="rounding",
    may_change="the order of sums inside convolution kernels",
    needs="a GPU; a model with convolutions",
    trade_off="shapes that change are tried again and again",
    source="PyTorch performance tuning guide",
    device="cuda",
)
PINNED_MEMORY = Idea(
    name="pinned_memory",
    title="pinned memory",
    short_names=("pin",),
    family="transfer",
    usual_share=0.3,
    changes="batches lie in page-locked memory, from which the GPU copies faster and the host need "
    "not wait",
    helps_when="copies to the GPU take a share of the step",
    bottlenecks=("data-bound",),
    numerics="exact",
    may_change="nothing, as long as the script does not write into a batch that it has copied",
    needs="a GPU",
    trade_off="pinning inline can cost more than it saves",
    source="torch.utils.data documentation, Memory Pinning",
    device="cuda",
)
ALLOCATOR = Idea(
    name="allocator",
    title="memory kept by the allocator",
    short_names=("malloc",),
    family="arithmetic",
    usual_share=0.15,
    changes="the C library's malloc keeps the memory of a step for the next one; or jemalloc or "
    "tcmalloc take its place, where they are installed",
    helps_when="steps on a CPU allocate large tensors anew, and the kernel clears page after page",
    bottlenecks=("compute-bound", "host-bound"),
    numerics="exact",
    may_change="nothing",
    needs="glibc; tensors in host memory",
    trade_off="memory stays at its peak",
    source="mallopt(3); measured per script by page faults a step",
    device="cpu",
)
GARBAGE_COLLECTION = Idea(
    name="garbage_collection",
    title="rarer garbage collection",
    short_names=("gc",),
    family="host",
    usual_share=0.1,
    changes="what lives is put aside, and Python's collector runs after 50,000 new containers",
    helps_when="the host bounds short steps while many objects are alive",
    bottlenecks=("host-bound",),
    numerics="exact",
    may_change="nothing",
    needs="a script that leaves the collector alone",
    trade_off="memory in reference cycles stays longer; of what was alive at the start, for good",
    source="Python documentation of gc.freeze",
)
COMPILATION = Idea(
    name="compilation",
    title="graph compilation",
    short_names=("compile",),
    family="arithmetic",
    usual_share=0.15,
    changes="the model's forward and backward become compiled, fused kernels",
    helps_when="many small operations, or the Python between them, bound the step",
    bottlenecks=("host-bound", "compute-bound"),
    numerics="rounding",
    may_change="the last digits; which random numbers dropout gets",
    needs="PyTorch: a C++ compiler on a CPU, Triton on a GPU; shapes that seldom change",
    trade_off="half a minute or more of compiling, so that short trainings lose",
    source="Ansel et al. 2024, PyTorch 2 (ASPLOS); measured per script",
    conflicts=("activation_checkpointing",),
    one_off_seconds=600.0,
    also_in="host",
)
COMPILATION_CACHE = Idea(
    name="compilation_cache",
    title="compiled programs kept on disk",
    short_names=(),
    family="executions",
    usual_share=0.9,
    changes="XLA's programs are kept in a folder and found there by the next run",
    helps_when="compiling is a share of a run that is made again and again",
    bottlenecks=("start-up-bound",),
    numerics="exact",
    may_change="nothing: the program is the same",
    needs="JAX; a script that names no cache itself",
    trade_off="disk",
    source="JAX documentation, Persistent compilation cache",
)
THREADS = Idea(
    name="threads",
    title="thread count",
    short_names=(),
    family="arithmetic",
    usual_share=0.05,
    changes="the number of threads of a parallel operation",
    helps_when="operations are small, or more threads than free cores wait for each other",
    bottlenecks=("host-bound", "compute-bound", "oversubscribed"),
    numerics="rounding",
    may_change="the order of sums inside parallel reductions",
    needs="more than one core",
    trade_off="what wins under a neighbour's load may lose when it is quiet",
    source="measured: a gather of 64 rows fell from 47,000 to 125 a second with 2 threads, under a "
    "neighbour's load",
)
BRAKES = Idea(
    name="brakes",
    title="brakes left on",
    short_names=(),
    family="brakes",
    usual_share=0.9,
    changes="switches off debugging aids: anomaly detection, collecting garbage or emptying the "
    "device cache in every step, eager execution of Keras' steps",
    helps_when="a debugging aid was left in the script",
    bottlenecks=("host-bound", "compute-bound"),
    numerics="exact",
    may_change="nothing in the arithmetic, and rounding where Keras' steps become a graph; errors "
    "are reported later",
    needs="a brake that was seen in the observed run",
    trade_off="anomaly detection no longer names the operation that made a NaN",
    source="PyTorch performance tuning guide; Keras documentation of Model.compile",
)

STEPS_PER_EXECUTION = Idea(
    name="steps_per_execution",
    title="several steps in one execution",
    short_names=("spe",),
    family="executions",
    usual_share=0.3,
    changes="Keras runs 16 steps within one call into the compiled graph",
    helps_when="steps are short, and the Python between them is a large share",
    bottlenecks=("host-bound", "compute-bound"),
    numerics="rounding",
    may_change="nothing in the arithmetic; callbacks and logs see every 16th batch",
    needs="Keras on TensorFlow or JAX; no callback of the script's own for each batch",
    trade_off="progress bars and early stopping within an epoch are coarser",
    source="Keras documentation of Model.compile",
    also_in="host",
)
BACKEND = Idea(
    name="backend",
    title="another backend of Keras",
    short_names=(),
    family="executions",
    usual_share=0.2,
    changes="Keras computes with JAX, PyTorch or TensorFlow in place of the one that it uses now",
    helps_when="another framework runs the same model faster on this machine",
    bottlenecks=("host-bound", "compute-bound"),
    numerics="training",
    may_change="the weights that training starts from, dropout, rounding: the same model trained "
    "anew, which its held-out metric must show as good",
    needs="a script that uses nothing but Keras; the other framework installed",
    trade_off="what is saved as a whole model may hold to the backend; another library to keep",
    source="keras.io, Configuring your backend; measured per script",
    conflicts=("compilation", "fused_optimizer", "threads"),
)
GRADIENT_ACCUMULATION = Idea(
    name="gradient_accumulation",
    title="gradient accumulation",
    short_names=("accumulate",),
    family="memory",
    usual_share=0.0,
    changes="the gradients of 4 batches are averaged before the weights move",
    helps_when="a batch of the wanted size does not fit in memory; never for speed alone",
    bottlenecks=("memory-bound",),
    numerics="training",
    may_change="the training itself: 4 times fewer updates on the same samples",
    needs="a loop without gradient scaler, clipping by hand or a scheduler for each batch",
    trade_off="memory of one more copy of the gradients; learning rate and schedule no longer fit",
    source="Goyal et al. 2017, arXiv:1706.02677, on large batches",
)

MICRO_BATCHES = Idea(
    name="micro_batches",
    title="micro-batches",
    short_names=("micro",),
    family="memory",
    usual_share=0.0,
    changes="a batch is computed in n pieces, and the weights move once it has been seen",
    helps_when="the batch does not fit in memory; never for speed",
    bottlenecks=("memory-bound",),
    numerics="training",
    may_change="the order of sums, where a loss is a mean over the batch; a loss that is summed, "
    "or that compares the samples of a batch, and batch norm see the pieces",
    needs="a DataLoader with a batch size; a loop as for gradient accumulation",
    trade_off="smaller kernels: a step takes longer",
    source="Huang et al. 2019, arXiv:1811.06965",
    conflicts=("gradient_accumulation",),
)
ACTIVATION_CHECKPOINTING = Idea(
    name="activation_checkpointing",
    title="activation checkpointing",
    short_names=("checkpointing",),
    family="memory",
    usual_share=0.0,
    changes="what a repeated block keeps for the backward pass is computed again there",
    helps_when="the activations of the batch do not fit in memory; never for speed",
    bottlenecks=("memory-bound",),
    numerics="rounding",
    may_change="nothing but the order of sums: random layers and batch norm see the same twice",
    needs="a model with blocks that repeat, in a Sequential or a ModuleList",
    trade_off="the forward pass of the blocks runs twice: about a third more time a step",
    source="Chen et al. 2016, arXiv:1604.06174",
)
FUSED_OPTIMIZER = Idea(
    name="fused_optimizer",
    title="fused optimizer",
    short_names=("fused",),
    family="optimizer",
    usual_share=0.3,
    changes="one kernel updates all parameters, instead of several for each",
    helps_when="the optimizer takes a share of the step, as with many small layers",
    bottlenecks=("compute-bound", "host-bound"),
    numerics="rounding",
    may_change="the last digits of an update",
    needs="Adam, AdamW or SGD, or Adagrad of torch; dense parameters on one device",
    trade_off="none known where it is supported; sparse gradients are not",
    source="torch.optim documentation; tf.raw_ops.ResourceApplyAdam",
    also_in="tracing",
)

IDEAS = (
    STORE,
    DEVICE_DATA,
    WORKERS,
    PREFETCH,
    PARALLEL_MAP,
    BATCHED_MAP,
    LENGTH_BUCKETING,
    AUTOTUNE,
    MIXED_PRECISION,
    CHANNELS_LAST,
    FUSED_OPTIMIZER,
    COMPILATION,
    COMPILATION_CACHE,
    MATMUL_PRECISION,
    CUDNN_AUTOTUNE,
    PINNED_MEMORY,
    THREADS,
    ALLOCATOR,
    GARBAGE_COLLECTION,
    STEPS_PER_EXECUTION,
    BACKEND,
    MICRO_BATCHES,
    ACTIVATION_CHECKPOINTING,
    GRADIENT_ACCUMULATION,
    BRAKES,
)


def keeps_samples(technique: str) -> bool:
    """Whether a technique fills a store of samples."""
    idea = find_idea(technique)
    return idea is not None and idea.keeps_samples


def find_idea(name: str) -> Idea | None:
    """The idea of that long or short name, or None."""
    for idea in IDEAS:
        if name == idea.name or name in idea.short_names:
            return idea
    return None
