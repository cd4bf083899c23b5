"""Rows of like length in a batch, where batches are padded to their longest row.

Changes: before a pipeline of tf.data puts shuffled rows into batches, those of a pool of up to 32
batches are sorted by length; then the batches of a pool are shuffled. Helps: where padding takes a
share of what a step computes. May change: which rows share a batch; each comes once an epoch, in as
many batches. Needs: a shuffle before `padded_batch`, or before `batch` of text that is cut into
tokens later. Source: tf.data.Dataset.bucket_by_sequence_length, which makes other numbers of
batches; Khomenko et al. 2016, arXiv:1708.05604.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence, Tuple

from ...agent.patches import Patches
from ...ideas import LENGTH_BUCKETING as IDEA
from . import pipeline

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_MOST_BATCHES, _FEWEST_BATCHES = 32, 2
_POOLS_AN_EPOCH = 4
"""At least so many, so that rows of a length do not meet the same rows in every epoch."""
_LONGEST_LOOK = 3.0
_WORTH_IT = 0.05


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """Pools of a part of an epoch, where padding was seen that sorting would save."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    refusal, pool = "", _MOST_BATCHES
    if loader is None or loader.kind != "tf.data":
        refusal = "the training is not fed by a tf.data pipeline"
    elif loader.padding_share is None or loader.padding_share_sorted is None:
        refusal = "no batches were seen that are padded to their longest row"
    elif "shuffle" not in loader.pipeline:
        refusal = "the pipeline is not shuffled: the order of its rows may have a meaning"
    else:
        pool = min(_MOST_BATCHES, (loader.batches or _MOST_BATCHES**2) // _POOLS_AN_EPOCH)
        saved = loader.padding_share - loader.padding_share_sorted
        if saved < _WORTH_IT:
            refusal = f"{loader.padding_share:.0%} of a batch is padding, and little of it is saved"
        elif pool < _FEWEST_BATCHES:
            refusal = f"an epoch has only {loader.batches} batches"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={"batches": pool}, numerics="training")
    return [Proposal(switch=switch, reason="rows of uneven length share a batch")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Sort pools of rows while the script puts shuffled ones into batches."""
    tf, pool = framework, settings["batches"]
    dataset_class = tf.data.Dataset
    plain = {
        name: getattr(dataset_class, name) for name in ("ragged_batch", "map", "unbatch", "shuffle")
    }
    made: List[Any] = []
    building: List[Any] = []

    def sorted_by_length(rows: Any, size: int, length_of: Any) -> Any:
        """The rows, of each pool the shortest first."""

        def in_order(*columns: Any) -> Any:
            order = tf.argsort(length_of(columns), stable=True)
            moved = tf.nest.map_structure(lambda column: tf.gather(column, order), columns)
            return moved if isinstance(rows.element_spec, tuple) else moved[0]

        def as_they_were(*columns: Any) -> Any:
            given = columns if isinstance(rows.element_spec, tuple) else columns[0]
            return tf.nest.map_structure(_dense, given, rows.element_spec)

        pools = plain["ragged_batch"](rows, pool * size)
        pools = plain["map"](pools, in_order)
        return plain["map"](plain["unbatch"](pools), as_they_were)

    def batched(original: Any) -> Any:
        def batch(self: Any, batch_size: Any, *args: Any, **named: Any) -> Any:
            result = original(self, batch_size, *args, **named)
            length_of = _length_of(tf, self)
            shuffled = "shuffle" in pipeline.operations(self)
            # TensorFlow makes one kind of batch of the other.
            if length_of is None or not shuffled or building or not tf.executing_eagerly():
                return result
            building.append(self)
            try:
                rows = sorted_by_length(self, int(batch_size), length_of)
                batches = original(rows, batch_size, *args, **named)
                batches = with_length_of(result, plain["shuffle"](batches, pool))
            except (
                Exception
            ) as error:  # rows of a kind that cannot be sorted: they stay as they are
                patches.refuse(IDEA.name, f"not sorted: {type(error).__name__}: {error}"[:200])
                return result
            finally:
                building.pop()
            if batches.element_spec != result.element_spec:
                patches.refuse(IDEA.name, "sorting changes the shape of the batches")
                return result
            made.append(batches)
            return batches

        return batch

    def with_length_of(known: Any, batches: Any) -> Any:
        """As many as before, of which a sort by pools knows nothing."""
        count = known.cardinality()
        if int(count) == tf.data.UNKNOWN_CARDINALITY:
            return batches
        return batches.apply(tf.data.experimental.assert_cardinality(count))

    def fed(dataset: Any, number: int, trains: bool) -> Any:
        if trains and isinstance(dataset, dataset_class):
            if pipeline.how_many_in(dataset, made):
                patches.took_effect(IDEA.name, batches_a_pool=pool)
            else:
                patches.refuse(IDEA.name, "no batch of shuffled rows of uneven length was found")
        return dataset

    for name in ("batch", "padded_batch"):
        patches.replace(dataset_class, name, batched)
    patches.feeders.append(fed)


def _length_of(tf: Any, dataset: Any) -> Any:
    """What tells the lengths of a pool of rows: their first text or uneven tensor; None without."""
    specs = tf.nest.flatten(dataset.element_spec)
    if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None for spec in specs):
        return None
    for place, spec in enumerate(specs):
        if spec.dtype == tf.string and spec.shape.rank == 0:
            return lambda columns, place=place: tf.strings.length(tf.nest.flatten(columns)[place])
        if spec.shape.rank and spec.shape[0] is None:
            return lambda columns, place=place: tf.nest.flatten(columns)[place].row_lengths()
    return None


def _dense(row: Any, spec: Any) -> Any:
    """A row as it was before it came into a ragged batch."""
    return row.to_tensor(shape=spec.shape) if hasattr(row, "to_tensor") else row


def padding_of(tf: Any, dataset: Any) -> Optional[Tuple[float, float]]:
    """The share of what batches hold that is padding: as they are, and of rows sorted in pools.

    Of the first tensor whose second dimension differs from batch to batch; zeros, or empty text, at
    the end of a row are padding. None where there is none.
    """
    numpy = importlib.import_module("numpy")
    specs = tf.nest.flatten(dataset.element_spec)
    place = next((i for i, spec in enumerate(specs) if _is_uneven(tf, spec)), None)
    if place is None:
        return None
    lengths: List[Any] = []
    held, began = 0, time.perf_counter()
    for batch in dataset.take(_MOST_BATCHES):
        values = tf.nest.flatten(batch)[place].numpy()
        filled = (values != (b"" if values.dtype == object else 0)).reshape(*values.shape[:2], -1)
        from_the_end = filled.any(axis=2)[:, ::-1]
        empty = numpy.where(from_the_end.any(axis=1), from_the_end.argmax(axis=1), values.shape[1])
        lengths.append(values.shape[1] - empty)
        held += values.shape[0] * values.shape[1]
        if time.perf_counter() - began > _LONGEST_LOOK:
            break
    rows = numpy.sort(numpy.concatenate(lengths)) if lengths else numpy.zeros(0)
    if not held or not rows.sum():
        return None
    size = len(lengths[0])
    starts = range(0, len(rows), size)
    together = sum(
        len(rows[start : start + size]) * rows[start : start + size].max() for start in starts
    )
    return float(1 - rows.sum() / held), float(1 - rows.sum() / max(together, 1))


def _is_uneven(tf: Any, spec: Any) -> bool:
    shape = spec.shape if isinstance(spec, tf.TensorSpec) else None
    return shape is not None and (shape.rank or 0) >= 2 and shape[1] is None
