"""Threads within an operation, and between operations.

Changes: how many threads TensorFlow gives to one operation, or that operations run one after the
other. Helps: where operations are small, or where more threads run than cores are free. May change:
the order of sums in parallel reductions.
Needs: more than one core. Source: tf.config.threading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import THREADS as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_ONE_AT_A_TIME = {"name": "one operation at a time", "scope": "inter"}


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """One thread, half of the cores, and one operation at a time, where nothing is said of it."""
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
    counts = sorted({1, max(facts.cores // 2, 1)})
    found: list[dict[str, Any]] = [*({"count": count} for count in counts), _ONE_AT_A_TIME]
    return [
        Proposal(
            switch=Switch(technique=IDEA.name, settings=settings, numerics="rounding"),
            reason=f"one for each of {facts.cores} cores now",
        )
        for settings in found
    ]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Set the count before TensorFlow starts its threads; what the script sets later wins."""
    threading, scope = framework.config.threading, settings.get("scope", "intra")
    count = settings.get("count", 1)
    getattr(threading, f"set_{scope}_op_parallelism_threads")(count)

    def report() -> None:
        now = getattr(threading, f"get_{scope}_op_parallelism_threads")()
        if now == count:
            patches.took_effect(IDEA.name, threads=now)
        else:
            patches.refuse(IDEA.name, f"the script itself sets {now} threads")

    patches.at_exit(report)
