"""Threads within an operation.

Changes: how many threads TensorFlow gives to one operation. Helps: where operations are small, or
where more threads run than cores are free. May change: the order of sums in parallel reductions.
Needs: more than one core. Source: tf.config.threading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import THREADS as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """One thread, and half of the cores, where the script leaves it to TensorFlow."""
    from ...records import Proposal, Switch

    refusal = ""
    if facts.backend != "tensorflow":
        refusal = f"Keras' {facts.backend} backend has threads of its own"
    elif facts.threads is not None:
        refusal = f"the script itself sets {facts.threads} threads"
    elif facts.device != "cpu":
        refusal = "operations run on the GPU"
    elif facts.cores < 2:
        refusal = "there is one core"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    return [
        Proposal(
            switch=Switch(technique=IDEA.name, settings={"count": count}, numerics="rounding"),
            reason=f"one for each of {facts.cores} cores now",
        )
        for count in sorted({1, max(facts.cores // 2, 1)})
    ]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Set the count before TensorFlow starts its threads; what the script sets later wins."""
    threading, count = framework.config.threading, settings["count"]
    threading.set_intra_op_parallelism_threads(count)

    def report() -> None:
        now = threading.get_intra_op_parallelism_threads()
        if now == count:
            patches.took_effect(IDEA.name, threads=now)
        else:
            patches.refuse(IDEA.name, f"the script itself sets {now} threads")

    patches.at_exit(report)
