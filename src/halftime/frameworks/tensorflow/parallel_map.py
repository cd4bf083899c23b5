"""Maps and interleaves of a tf.data pipeline on several cores.

Changes: `num_parallel_calls` of each map or interleave whose function gives the same each time,
where the script gives none. Helps: where elements are decoded, or files read, one after the other
while cores idle. May change: nothing, since the elements keep their order; what has anything random
in it stays as it is, because its numbers would come to other elements. Source: tf.data performance
guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import PARALLEL_MAP as IDEA
from . import pipeline

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """One call a core, where a map runs on one element after the other."""
    from ...records import Proposal, Switch

    loader = facts.fed_by()
    refusal = ""
    if loader is None or loader.kind != "tf.data":
        refusal = "the training is not fed by a tf.data pipeline"
    elif not loader.serial_maps:
        refusal = (
            "no map or interleave that gives the same each time runs on one element after the other"
        )
    elif facts.cores < 2:
        refusal = "there is one core"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={"count": facts.cores}, numerics="exact")
    return [Proposal(switch=switch, reason="elements are made on one core")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Build each of them anew with a count."""
    tf = framework
    count = settings["count"]
    made: list[Any] = []

    def parallel(before_the_count: int) -> Any:
        def wrapped(original: Any) -> Any:
            def method(self: Any, map_func: Any, *args: Any, **named: Any) -> Any:
                serial = original(self, map_func, *args, **named)
                told = len(args) > before_the_count or "num_parallel_calls" in named
                if told or not pipeline.is_serial(serial):
                    return serial
                named = {**named, "num_parallel_calls": count, "deterministic": True}
                made.append(original(self, map_func, *args, **named))
                return made[-1]

            return method

        return wrapped

    def fed(dataset: Any, number: int, trains: bool) -> Any:
        if trains and isinstance(dataset, tf.data.Dataset):
            found = pipeline.how_many_in(dataset, made)
            if found:
                patches.took_effect(IDEA.name, maps=found, count=count)
        return dataset

    patches.replace(tf.data.Dataset, "map", parallel(before_the_count=0))
    patches.replace(tf.data.Dataset, "interleave", parallel(before_the_count=2))
    patches.feeders.append(fed)
