"""A cache in a tf.data pipeline, placed while the script builds it.

Changes: elements are kept in memory after the last op that gives the same each time, and before
shuffle and anything random; a deterministic map that follows a shuffle moves before it, under the
shuffle's own seeds. Helps: where files are decoded, or a map runs for each sample, in every epoch.
May change: nothing; the order and the bytes of the batches are the same. Needs: memory for the
elements. Source: tf.data performance guide; tensorflow#47755 (a cache past randomness froze it).
"""

from __future__ import annotations

import glob
import itertools
import os
import time
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence

from ...agent.memory import available_bytes
from ...agent.patches import Patches
from ...ideas import STORE as IDEA
from . import pipeline
from .seeds import OpSeeds

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_SHARE_OF_MEMORY = 0.3
_ENDS_THE_PREFIX = ("batch", "padded_batch", "ragged_batch", "bucket_by_sequence_length",
                    "group_by_window", "repeat")  # fmt: skip


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """A cache where it may stand, or why it may not."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    most = int(facts.available_bytes * _SHARE_OF_MEMORY)
    refusal = ""
    if loader is None or loader.kind != "tf.data":
        kind = loader.kind if loader is not None else "nothing that could be cached"
        refusal = f"the training is fed by {kind}, not by a tf.data pipeline"
    elif loader.left_early:
        refusal = "the script leaves a pass before its end: a cache would never be full"
    elif "cache" in loader.pipeline:
        refusal = "already on: the script caches its pipeline"
    elif not loader.deterministic:
        refusal = f"not cached: {loader.randomness}"
    elif loader.sample_bytes is not None and loader.dataset_length is not None:
        needed = loader.sample_bytes * loader.dataset_length
        if needed > most:
            refusal = f"{needed / 1e9:.1f} GB of samples, and {most / 1e9:.1f} GB may be used"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={"most_bytes": most}, numerics="exact")
    return [Proposal(switch=switch, reason="samples are the same in every epoch")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Cache while the pipeline is built; say so once a trainer is fed from it."""
    tf = framework
    dataset_class = tf.data.Dataset
    seeds_of = OpSeeds()
    folder: Optional[str] = settings.get("folder")
    too_large: list[str] = []
    # The plan was made when more may have been free.
    left = [min(settings["most_bytes"], int(available_bytes() * _SHARE_OF_MEMORY))]
    made = itertools.count()
    if folder is not None:
        _delete_unfinished(folder)
    trained_on: List[Any] = []
    plain = {name: getattr(dataset_class, name) for name in ("cache", "map", "shuffle")}

    def may_stand_after(dataset: Any) -> bool:
        if not tf.executing_eagerly():  # within a function of the script's own, as of interleave
            return False
        if pipeline.has_cache(dataset) or not pipeline.does_work(dataset):
            return False
        if pipeline.why_not_repeatable(dataset):
            return False
        size = pipeline.most_bytes_in(dataset)
        if size is not None and size > left[0]:
            too_large.append(f"{size / 1e9:.1f} GB are over the memory share")
            return False
        return True

    def cached(dataset: Any) -> Any:
        size, name = pipeline.most_bytes_in(dataset), pipeline.name_of(dataset)
        left[0] -= size or 0
        if size is None and patches.recorder.in_trial:
            dataset = _at_most(tf, left[0], dataset)
        kept = plain["cache"](dataset)
        if folder is not None:
            # One file a study, read into memory before the window: bounded trials time hits alone.
            on_disk = plain["cache"](dataset, os.path.join(folder, f"elements-{next(made)}"))
            kept = plain["cache"](on_disk)
        kept._halftime_placed = {"after": name, "bytes": size}
        return kept

    def before(original: Any) -> Any:
        def method(self: Any, *args: Any, **named: Any) -> Any:
            return original(cached(self) if may_stand_after(self) else self, *args, **named)

        return method

    def shuffled(original: Any) -> Any:
        def shuffle(self: Any, *args: Any, **named: Any) -> Any:
            if may_stand_after(self):
                return original(cached(self), *args, **named)
            seeds = seeds_of.now()
            result = original(self, *args, **named)
            # A deterministic map may follow; it would have to come before.
            if pipeline.can_be_made_again(result):
                result._halftime_shuffle = (self, args, named, seeds)
            return result

        return shuffle

    def mapped(original: Any) -> Any:
        def map(self: Any, map_func: Any, *args: Any, **named: Any) -> Any:
            after = getattr(self, "_halftime_shuffle", None)
            if after is None or pipeline.why_not_repeatable(after[0]):
                result = original(self, map_func, *args, **named)
                is_random = bool(pipeline.why_not_repeatable(result))
                if is_random and may_stand_after(self):
                    return original(cached(self), map_func, *args, **named)
                return result
            moved = original(after[0], map_func, *args, **named)
            if not may_stand_after(moved):
                return original(self, map_func, *args, **named)
            with seeds_of.under(after[3]):
                return plain["shuffle"](cached(moved), *after[1], **after[2])

        return map

    def fed(dataset: Any, number: int, trains: bool) -> Any:
        if not isinstance(dataset, dataset_class):
            return dataset
        known = getattr(dataset, "_halftime_cached", None)
        if known is None and may_stand_after(dataset):  # nothing random in all of it
            known = dataset._halftime_cached = cached(dataset)
        dataset = dataset if known is None else known
        if trains:
            on_the_way = list(pipeline.parts_of(dataset))
            caches = [part for part in on_the_way if hasattr(part, "_halftime_placed")]
            if caches and dataset.options().deterministic is False:
                # Set after the cache was placed, it makes an order of chance of what comes before.
                above = [part for cache in caches for part in pipeline.parts_of(cache)]
                if any(map(pipeline.runs_in_parallel, above)):
                    patches.void(IDEA.name, "elements come in an order of their own")
            if any(pipeline.may_leave_unfinished(dataset, cache) for cache in caches):
                patches.void(IDEA.name, "a pass ends before the cache is full (take or zip)")
            new = [cache for cache in caches if cache not in trained_on]
            if new and trained_on and folder is not None:
                # Filled before the window, it would seem to be hit where it is filled each time.
                patches.void(IDEA.name, "the script builds its pipeline anew")
            elif new:
                trained_on[:] = new
            for cache in new if new == trained_on else ():
                samples = _drain(cache, patches) if folder is not None else None
                patches.took_effect(IDEA.name, **cache._halftime_placed, samples=samples)
            if not caches:
                reason = pipeline.why_no_cache(dataset) or "its place was not found in time"
                patches.refuse(IDEA.name, (too_large or [f"not cached: {reason}"])[-1])
        return dataset

    patches.replace(dataset_class, "shuffle", shuffled)
    patches.replace(dataset_class, "map", mapped)
    for name in _ENDS_THE_PREFIX:
        patches.replace(dataset_class, name, before)
    patches.feeders.append(fed)


def _delete_unfinished(folder: str) -> None:
    """What an ended run left of a cache that it had not filled: TensorFlow would refuse it."""
    for lock in glob.glob(os.path.join(glob.escape(folder), "*.lockfile")):
        for part in glob.glob(glob.escape(lock.rpartition("_")[0]) + "_*"):
            os.unlink(part)


def _at_most(tf: Any, most: int, dataset: Any) -> Any:
    """The same elements, counted on their way into the cache: nobody knows beforehand how many.

    The trial fails and says so, where they take more than `most` bytes: memory does not run out.
    """
    said = f"halftime: the store would take more than the {most / 1e9:.1f} GB that it may use"

    def counted(seen: Any, element: Any) -> Any:
        for leaf in tf.nest.flatten(element, expand_composites=True):
            if leaf is None:
                continue
            if leaf.dtype == tf.string:
                seen += tf.reduce_sum(tf.cast(tf.strings.length(leaf), tf.int64))
            else:
                seen += tf.size(leaf, out_type=tf.int64) * leaf.dtype.size
        tf.debugging.Assert(seen <= most, [said])
        return seen, element

    return dataset.scan(tf.constant(0, tf.int64), counted)


def _drain(dataset: Any, patches: Patches) -> int:
    """Fill a cache before the training; what that takes is not the script's. Gives its samples."""
    start = time.perf_counter()
    elements = sum(1 for _ in pipeline.drawn_from(dataset, patches.recorder))
    patches.recorder.emit("set_aside", seconds=time.perf_counter() - start)
    return elements * (pipeline.batch_size_of(dataset) or 1)
