"""A tf.data pipeline as its ops in order, and whether it gives the same elements each time."""

from __future__ import annotations

import importlib
import inspect
import time
import weakref
from typing import Any, Iterator, List, Optional, Tuple

from ...agent.patches import Patches
from ...agent.recorder import Recorder

_SAME_WORDS = {
    "tensorslice": "from_tensor_slices", "tensor": "from_tensors", "paralleltfrecord": "tfrecord",
    "parallelmap": "map", "parallelbatch": "batch", "parallelinterleave": "interleave",
    "memorycache": "cache", "parallelfilter": "filter",
}  # fmt: skip
# Stateful by their registration, and yet the same each time.
_HARMLESS = ("Assert", "LookupTable", "HashTable", "StatefulPartitionedCall", "If", "While", "Case",
             "AnonymousIterator", "NoOp", "Placeholder")  # fmt: skip
_DRAW = ("Random", "FractionalMaxPool", "FractionalAvgPool")
"""Draw numbers, and are not registered as stateful, all of them."""
_CALL_A_FUNCTION = ("map", "filter", "interleave", "flatmap")
_CHANGE_TABLES = ("LookupTableInsert", "LookupTableRemove", "LookupTableImport")
_FOREIGN = ("PyFunc", "EagerPyFunc", "PyFuncStateless", "NumpyFunc")
# What a cache may stand after: these give the same elements in the same order each time.
_REPEATABLE = ("from_tensor_slices", "from_tensors", "range", "tfrecord", "textline",
               "fixedlengthrecord", "map", "filter", "batch", "paddedbatch", "unbatch", "take",
               "skip", "shard", "enumerate", "zip", "concatenate", "interleave", "flatmap",
               "options", "prefetch", "window", "modelandoptions", "assertcardinality",
               "assertnext", "ignoreerrors", "rebatch", "densetoragged")  # fmt: skip
_AT_MOST_AS_MANY = ("filter", "map", "shuffle", "prefetch", "options", "enumerate", "ignoreerrors")
_AS_MANY = ("map", "shuffle", "prefetch", "options", "enumerate", "cache", "modelandoptions")
_BARE = ("from_tensor_slices", "from_tensors", "range", "options", "take", "skip", "shard",
         "batch", "shuffle", "prefetch", "repeat")  # fmt: skip
_TABLES: Any = weakref.WeakSet()
"""The tables of this process that a script may change after it has made them."""
_SIGN_OF_LIFE = 5.0
_MOST_DRAINED, _LONG_ENOUGH, _LONGEST_COSTS = 20_000, 0.15, 20.0


def remember_what_ops_forget(tf: Any, patches: Patches) -> None:
    """Keep what a dataset or a table was made with, and is needed to tell whether it is steady."""

    def interleaved(original: Any) -> Any:
        def interleave(self: Any, *args: Any, **named: Any) -> Any:
            result = original(self, *args, **named)
            asked = named.get("deterministic", args[4] if len(args) > 4 else None)
            if "Parallel" in type(result).__name__:  # else the order is one, whatever is asked
                result._deterministic = asked
            return result

        return interleave

    def generated(original: Any) -> Any:
        def from_generator(generator: Any, *args: Any, **named: Any) -> Any:
            result = original(generator, *args, **named)
            given = named.get("args", args[2] if len(args) > 2 else None) or ()
            result._generator = lambda: generator(*given)
            result._generator_is_fresh = inspect.isgeneratorfunction(generator)
            return result

        return staticmethod(from_generator)

    def made(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            original(self, *args, **named)
            _TABLES.add(self)

        return __init__

    patches.replace(tf.data.Dataset, "interleave", interleaved)
    patches.replace(tf.data.Dataset, "from_generator", generated)
    tables = importlib.import_module("tensorflow.python.ops.lookup_ops")
    for name in ("MutableHashTable", "DenseHashTable"):
        patches.replace(getattr(tables, name), "__init__", made)


def name_of(dataset: Any) -> str:
    """The op that made a dataset, as its method is called: map, shuffle, batch, …"""
    name = type(dataset).__name__.strip("_").replace("Dataset", "").replace("V2", "")
    name = (name[:-2] if name.endswith("Op") else name).lower()
    return _SAME_WORDS.get(name, name)


def inputs_of(dataset: Any) -> List[Any]:
    """The datasets that a dataset is made of; none for a source."""
    try:
        found = list(dataset._inputs())
    except Exception:  # another version of TensorFlow, or a dataset of somebody's own
        return []
    # Lines of text and records of one length come from files, which may be a dataset themselves.
    files = getattr(dataset, "_filenames", None)
    return found if found or not hasattr(files, "_inputs") else [files]


def prefixes_of(dataset: Any) -> List[Any]:
    """A pipeline after each of its ops, from its source on; of several inputs, the first one's."""
    found: List[Any] = []
    part = dataset
    while part is not None:
        if name_of(part) != "options":
            found.append(part)
        above = inputs_of(part)
        part = above[0] if above else None
    return found[::-1]


def parts_of(dataset: Any) -> Iterator[Any]:
    """A dataset and all that it is made of."""
    yield dataset
    for above in inputs_of(dataset):
        yield from parts_of(above)


def how_many_in(dataset: Any, made: List[Any]) -> int:
    """How many of the datasets that we made a dataset is built of."""
    here = {id(part) for part in parts_of(dataset)}
    return sum(id(one) in here for one in made)


def operations(dataset: Any) -> Tuple[str, ...]:
    """The ops of a pipeline from its source on; of several inputs, the first one's."""
    return tuple(map(name_of, prefixes_of(dataset)))


def beside_of(dataset: Any) -> List[str]:
    """For each of its operations the pipelines that it joins to the first one's; '' for none."""
    return [
        " and ".join(" → ".join(operations(other)) for other in inputs_of(part)[1:])
        for part in prefixes_of(dataset)
    ]


def why_not_repeatable(dataset: Any) -> str:
    """Why a pipeline may give other elements, or another order, next time; '' where it cannot."""
    for above in inputs_of(dataset):
        reason = why_not_repeatable(above)
        if reason:
            return reason
    name = name_of(dataset)
    if name not in _REPEATABLE:
        return f"{name} comes first"
    if name in ("map", "batch", "interleave", "tfrecord") and _is_sloppy(dataset):
        return f"{name} gives its elements in an order of its own"
    reason = _chance_in(dataset)
    return f"the function of {name} {reason}" if reason else ""


def _chance_in(dataset: Any) -> str:
    """Why what an op calls may give something else next time; '' where it cannot."""
    functions = _functions_of(dataset)
    if not functions and name_of(dataset) in _CALL_A_FUNCTION:
        return "cannot be looked at"
    return next((reason for reason in map(why_random, functions) if reason), "")


def why_no_cache(dataset: Any) -> str:
    """Why no cache may stand anywhere in a pipeline; '' where one may."""
    if has_cache(dataset):
        return "already on: the script caches its pipeline"
    if not does_work(dataset):
        return "nothing is decoded or mapped: the elements lie in memory already"
    if any(does_work(part) and not why_not_repeatable(part) for part in parts_of(dataset)):
        return ""
    if any(map(_could_move_before_shuffle, parts_of(dataset))):
        return ""
    return why_not_repeatable(dataset)


def place_of_cache(dataset: Any) -> str:
    """The op that a cache may stand after; '' where none may."""
    if why_no_cache(dataset):
        return ""
    part = dataset
    later: List[str] = []
    while part is not None:
        place = name_of(part) if does_work(part) and not why_not_repeatable(part) else ""
        if _could_move_before_shuffle(part):
            place = f"{name_of(part)}, which moves before the shuffle"
        if place:
            return f"{place}; not later, since {' and '.join(later)}" if later else place
        above = inputs_of(part)
        if chance := _chance_in(part):
            later.insert(0, f"the function of {name_of(part)} {chance}")
        elif name_of(part) == "shuffle":
            later.insert(0, "shuffle gives another order each time")
        part = above[0] if len(above) == 1 else None
    return ""


def costs_of(tf: Any, dataset: Any) -> List[float]:
    """Seconds that each op adds to a sample, in the order of `operations`; [] if not known.

    Each prefix of the pipeline is drained alone, within one call of TensorFlow's own, once its
    first element is there, which waits for a shuffle's buffer. Without the tuner, for whose thread
    the end of each pass would wait.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    costs: List[float] = []
    before, began = 0.0, time.perf_counter()
    for prefix in prefixes_of(dataset):
        seconds = _seconds_an_element(tf, prefix.with_options(options))
        if seconds is None or time.perf_counter() - began > _LONGEST_COSTS:
            return []
        seconds /= batch_size_of(prefix) or 1
        costs.append(max(seconds - before, 0.0))
        before = max(seconds, before)
    return costs


def _seconds_an_element(tf: Any, dataset: Any) -> Optional[float]:
    known = elements_in(dataset)
    left = known if known is not None else _MOST_DRAINED
    iterator = iter(dataset)

    def drain(source: Any, count: Any) -> Any:
        def draw(done: Any) -> Any:
            source.get_next()
            return (done + 1,)

        return tf.while_loop(lambda done: done < count, draw, (tf.constant(0),))

    drained = tf.function(drain, autograph=False)
    count, left, each = 1, left - 1, None
    try:
        drained(iterator, tf.constant(1))  # traces, and fills a shuffle's buffer
        while count * 4 <= left:
            count, left = count * 4, left - count * 4
            start = time.perf_counter()
            drained(iterator, tf.constant(count))
            seconds = time.perf_counter() - start
            each = seconds / count
            if seconds > _LONG_ENOUGH or count * 4 > min(left, _MOST_DRAINED):
                break
    except tf.errors.OutOfRangeError:  # of a length that nobody knows
        pass
    except tf.errors.OpError:  # of the script's own functions, which a later op may let pass
        return None
    return each


def _could_move_before_shuffle(dataset: Any) -> bool:
    """Whether this is a deterministic map right after a shuffle of what is repeatable."""
    above = inputs_of(dataset)
    return (
        name_of(dataset) == "map"
        and can_be_made_again(above[0])
        and not _chance_in(dataset)
        and not why_not_repeatable(inputs_of(above[0])[0])
    )


def gives_once(dataset: Any) -> bool:
    """Whether looking at a pipeline uses it up: its generator is the same object each time."""
    return any(map(_is_used_up, parts_of(dataset)))


def _is_used_up(dataset: Any) -> bool:
    make = getattr(dataset, "_generator", None)
    if make is None or dataset._generator_is_fresh:
        return False
    made = make()
    return hasattr(made, "__next__") and make() is made


def can_be_made_again(dataset: Any) -> bool:
    """Whether a shuffle may be built a second time, over something else.

    One whose order is drawn once for all passes may be shared: by inputs and labels that are mapped
    apart, or by the two parts of a split. Made twice, it would have two orders.
    """
    return name_of(dataset) == "shuffle" and dataset._reshuffle_each_iteration is not False


def runs_in_parallel(dataset: Any) -> bool:
    """Whether an op gives its elements from several at once, in order or as they come."""
    return "Parallel" in type(dataset).__name__ and not _is_ordered(dataset)


def may_leave_unfinished(dataset: Any, part: Any) -> bool:
    """Whether a pass over a dataset ends before one over a part of it does."""
    if dataset is part:
        return False
    for above in inputs_of(dataset):
        if not any(one is part for one in parts_of(above)):
            continue
        taken, whole = elements_in(dataset), batches_a_pass(above)
        fewer = taken is not None and whole is not None and taken < whole
        cut = fewer and name_of(dataset) in ("take", "zip")
        if cut or name_of(dataset) == "takewhile" or may_leave_unfinished(above, part):
            return True
    return False


def does_work(dataset: Any) -> bool:
    """Whether a pipeline does more than hand out what lies in memory."""
    return any(name_of(part) not in _BARE for part in parts_of(dataset))


def serial_maps_in(dataset: Any) -> int:
    """The maps and interleaves that could run on several elements at once and give the same."""
    return sum(map(is_serial, parts_of(dataset)))


def is_serial(dataset: Any) -> bool:
    """Whether this maps or interleaves one element after the other, the same way each time."""
    name = name_of(dataset)
    if name not in ("map", "interleave") or type(dataset).__name__.startswith("_Parallel"):
        return False
    # How many it interleaves TensorFlow chooses where nobody says, and may choose anew.
    if name == "interleave":
        static_value_of = importlib.import_module("tensorflow").get_static_value
        if (static_value_of(dataset._cycle_length) or 0) < 2:
            return False
    return not _chance_in(dataset)


def is_batchable_map(dataset: Any) -> bool:
    """Whether this is a map that gives the same each time, of elements that can be stacked."""
    if name_of(dataset) != "map" or _chance_in(dataset):
        return False
    specs = [*_leaves(inputs_of(dataset)[0].element_spec), *_leaves(dataset.element_spec)]
    shapes = [getattr(spec, "shape", None) for spec in specs]
    return all(shape is not None and shape.is_fully_defined() for shape in shapes)


def batchable_maps_in(dataset: Any) -> int:
    """The maps whose elements are put into batches next, shuffled at most before."""
    found = 0
    for part in parts_of(dataset):
        if name_of(part) == "batch":
            below = inputs_of(part)[0]
            while name_of(below) == "shuffle":
                below = inputs_of(below)[0]
            found += is_batchable_map(below)
    return found


def has_cache(dataset: Any) -> bool:
    """Whether the script, or we, cached this pipeline already."""
    return any(name_of(part) in ("cache", "snapshot", "load") for part in parts_of(dataset))


def why_random(function: Any) -> str:
    """Why a traced function may give something else next time; '' where it cannot."""
    registry = _op_registry()
    graph = function.graph.as_graph_def()
    nodes = list(graph.node)
    for part in graph.library.function:
        nodes.extend(part.node_def)
    held = getattr(function, "captured_inputs", ())
    if any(handle is table.resource_handle for handle in held for table in _TABLES):
        return "reads a table that may change"
    for node in nodes:
        if node.op in _FOREIGN:
            return "calls Python code"
        if node.op.startswith(_CHANGE_TABLES):
            return "changes a table"
        if node.op.startswith(_HARMLESS):
            continue
        known = registry(node.op)
        if known is None or (known.is_stateful and not node.op.endswith(("Dataset", "DatasetV2"))):
            return f"uses {node.op}"
        if "Shuffle" in node.op or node.op.startswith(_DRAW):
            return f"uses {node.op}"
        if node.attr["deterministic"].s == b"false":
            return "gives elements in an order of their own"
    return ""


def ends_in_prefetch(dataset: Any) -> bool:
    """Whether the script's pipeline has a prefetch at its end."""
    return operations(dataset)[-1:] == ("prefetch",)


def drawn_from(dataset: Any, recorder: Recorder) -> Iterator[Any]:
    """Its elements, drawn before a training; signs of life tell it from a script that hangs."""
    began = said = time.perf_counter()
    for element in dataset:
        now = time.perf_counter()
        if now - said > _SIGN_OF_LIFE:
            said = now
            recorder.emit("drawing", seconds=now - began)
        yield element


def batches_a_pass(dataset: Any) -> Optional[int]:
    """How many elements a pipeline gives of one pass over its source; None where nobody knows."""
    known = elements_in(dataset)
    if known is not None:
        return known
    above, part = 1, dataset
    while part is not None:
        below, name = inputs_of(part), name_of(part)
        if name == "repeat":
            within = elements_in(below[0])
            return None if within is None else -(-within // above)
        if name in ("batch", "paddedbatch"):
            above *= int(part._batch_size)
        elif name not in _AS_MANY:
            return None
        part = below[0] if len(below) == 1 else None
    return None


def before_batch(dataset: Any) -> Any:
    """What the last `batch` of a pipeline is given: samples; all of it where there is none."""
    part = dataset
    while part is not None:
        above = inputs_of(part)
        if name_of(part) in ("batch", "paddedbatch") and above:
            return above[0]
        part = above[0] if len(above) == 1 else None
    return dataset


def bytes_of_element(dataset: Any) -> Optional[int]:
    """The bytes of one element, where its shape is known."""
    total = 0
    for spec in _leaves(dataset.element_spec):
        shape = getattr(spec, "shape", None)
        if shape is None or not shape.is_fully_defined() or not spec.dtype.size:
            return None  # also text, of whose length nothing is known
        total += int(shape.num_elements()) * spec.dtype.size
    return total


def elements_in(dataset: Any) -> Optional[int]:
    """The number of elements, where it is known and finite."""
    count = int(dataset.cardinality())
    return count if count >= 0 else None


def most_bytes_in(dataset: Any) -> Optional[int]:
    """The bytes of all elements at most; None where shapes or the number are not known."""
    size, count = bytes_of_element(dataset), _most_elements_in(dataset)
    return size * count if size is not None and count is not None else None


def _most_elements_in(dataset: Any) -> Optional[int]:
    """The number of elements, or a bound of it: of what a filter lets through."""
    count = elements_in(dataset)
    if count is None and name_of(dataset) in _AT_MOST_AS_MANY:
        return _most_elements_in(inputs_of(dataset)[0])
    return count


def batch_size_of(dataset: Any) -> Optional[int]:
    """The size that the script gave to `batch`, where it did."""
    for part in reversed(prefixes_of(dataset)):
        if name_of(part) in ("batch", "paddedbatch"):
            return int(part._batch_size)
    return None


def _leaves(spec: Any) -> List[Any]:
    if isinstance(spec, dict):
        return [leaf for value in spec.values() for leaf in _leaves(value)]
    if isinstance(spec, (tuple, list)):
        return [leaf for value in spec for leaf in _leaves(value)]
    return [spec]


def _functions_of(dataset: Any) -> List[Any]:
    names = ("_map_func", "_predicate", "_filter_func")
    found: List[Any] = [getattr(dataset, name, None) for name in names]
    return [wrapped.function for wrapped in found if hasattr(wrapped, "function")]


def _is_sloppy(dataset: Any) -> bool:
    """Whether an op that runs in parallel may give its elements as they come."""
    deterministic = getattr(dataset, "_deterministic", None)
    if deterministic in (False, "false"):
        return True
    in_parallel = "Parallel" in type(dataset).__name__
    in_parallel = in_parallel or getattr(dataset, "_num_parallel_reads", None) is not None
    left_to_options = not _is_ordered(dataset)
    return in_parallel and left_to_options and dataset.options().deterministic is False


def _is_ordered(dataset: Any) -> bool:
    """Whether an op was made to give its elements in order, whatever the options say."""
    return getattr(dataset, "_deterministic", None) in (True, "true")


def _op_registry() -> Any:
    return importlib.import_module("tensorflow.python.framework.op_def_registry").get
