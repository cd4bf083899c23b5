"""Maps of a tf.data pipeline on whole batches.

Changes: where a map of single elements is followed by `batch`, elements are put into batches first
and the map's function runs on all of a batch, vectorised; a shuffle in between keeps its seeds.
Helps: where a cheap function runs once for each sample, and calling it is what costs. May change:
nothing: the first elements of both are compared bit by bit before the training, and where they
differ the script's own pipeline stays. Needs: a function that gives the same each time, of elements
of one shape. Source: tf.data performance guide, Vectorizing mapping; tf.vectorized_map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence, Tuple

from ...agent.patches import Patches
from ...ideas import BATCHED_MAP as IDEA
from . import pipeline
from .seeds import OpSeeds

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_COMPARED = 64
_NAMED = {"num_parallel_calls", "deterministic", "name"}


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The batch first, where a map of single elements comes before it."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    refusal = ""
    if loader is None or loader.kind != "tf.data":
        refusal = "the training is not fed by a tf.data pipeline"
    elif not loader.batchable_maps:
        refusal = "no map of elements of one shape, the same each time, comes right before a batch"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="exact")
    return [Proposal(switch=switch, reason="a map runs once for each sample of a batch")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Remember the maps; turn the two around when the script asks for batches."""
    tf = framework
    seeds_of = OpSeeds()
    made: list[Any] = []

    def mapped(original: Any) -> Any:
        def map(self: Any, map_func: Any, *args: Any, **named: Any) -> Any:
            result = original(self, map_func, *args, **named)
            if not args and not named.keys() - _NAMED and pipeline.is_batchable_map(result):
                result._halftime_map = _Map(self, map_func, named, lambda: self)
            return result

        return map

    def shuffled(original: Any) -> Any:
        def shuffle(self: Any, *args: Any, **named: Any) -> Any:
            before = getattr(self, "_halftime_map", None)
            seeds = seeds_of.now()
            result = original(self, *args, **named)
            if before is not None and pipeline.can_be_made_again(result):

                def again() -> Any:
                    source = before.source()
                    with seeds_of.under(seeds):
                        return original(source, *args, **named)

                result._halftime_map = _Map(before.raw, before.function, before.named, again)
            return result

        return shuffle

    def batched(original: Any) -> Any:
        def batch(self: Any, *args: Any, **named: Any) -> Any:
            plain = original(self, *args, **named)
            found = getattr(self, "_halftime_map", None)
            if found is None or not tf.executing_eagerly():
                return plain

            def first(source: Any) -> Any:
                return on_batches(tf, found, original(source, *args, **named))

            try:
                turned = first(found.source())
                size = int(named["batch_size"] if "batch_size" in named else args[0])
                few = _steady_part_of(found.raw).take(max(_COMPARED, 2 * size))
                own = original(few.map(found.function), *args, **named)
                same = turned.element_spec == plain.element_spec and _equal(tf, first(few), own)
            except Exception as error:  # the function is the script's own, and so are its failures
                patches.refuse(IDEA.name, f"not vectorised: {type(error).__name__}: {error}"[:200])
                return plain
            if not same:
                patches.refuse(IDEA.name, "the function gives something else on a whole batch")
                return plain
            made.append(turned)
            return turned

        return batch

    def fed(dataset: Any, number: int, trains: bool) -> Any:
        if trains and isinstance(dataset, tf.data.Dataset):
            found = pipeline.how_many_in(dataset, made)
            if found:
                patches.took_effect(IDEA.name, maps=found)
        return dataset

    patches.replace(tf.data.Dataset, "map", mapped)
    patches.replace(tf.data.Dataset, "shuffle", shuffled)
    patches.replace(tf.data.Dataset, "batch", batched)
    patches.feeders.append(fed)


class _Map:
    """A map of the script's: of which dataset, its function, and what its batches are made of."""

    def __init__(
        self, raw: Any, function: Any, named: Mapping[str, Any], source: Callable[[], Any]
    ) -> None:
        self.raw = raw
        self.function = function
        self.named = named
        self.source = source


def on_batches(tf: Any, found: _Map, batches: Any) -> Any:
    """The map's function on whole batches of what it was given one by one."""

    def on_batch(*parts: Any) -> Any:
        if isinstance(found.raw.element_spec, tuple):
            return tf.vectorized_map(lambda one: found.function(*one), parts)
        return tf.vectorized_map(found.function, parts[0])

    return batches.map(on_batch, **found.named)


def _steady_part_of(dataset: Any) -> Any:
    """What elements of this kind come from: to read from a shuffle would change its next order."""
    part = dataset
    while pipeline.why_not_repeatable(part):
        (part,) = pipeline.inputs_of(part)
    if part.element_spec != dataset.element_spec:
        raise ValueError("there are no elements to compare that come in the same order each time")
    return part


def _equal(tf: Any, one: Any, other: Any) -> bool:
    few = list(_bytes_of(tf, one))
    return bool(few) and few == list(_bytes_of(tf, other))


def _bytes_of(tf: Any, dataset: Any) -> Any:
    for element in dataset:
        yield _leaves(tf, element)


def _leaves(tf: Any, element: Any) -> Tuple[bytes, ...]:
    arrays = [leaf.numpy() for leaf in tf.nest.flatten(element)]
    # Strings are objects, whose bytes are pointers.
    return tuple(repr(a.tolist()).encode() if a.dtype == object else a.tobytes() for a in arrays)
