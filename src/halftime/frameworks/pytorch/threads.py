"""Thread count.

Changes: the number of threads of a parallel operation. Helps: where operations are small, or
where more threads run than cores are free. May change: the order of sums in parallel reductions.
Needs: more than one core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import THREADS as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """One thread, half of the cores, all of the cores: those that differ from now."""
    from ...records import Proposal, Switch

    if facts.threads is None:
        return [Proposal(switch=None, reason="the number of threads is not known")]
    counts = sorted({1, max(facts.cores // 2, 1), facts.cores} - {facts.threads})
    proposals = [
        Proposal(
            switch=Switch(technique=IDEA.name, settings={"count": count}, numerics="rounding"),
            reason=f"{facts.threads} now, {facts.cores} cores",
        )
        for count in counts
    ]
    return proposals or [Proposal(switch=None, reason="one core, one thread")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Set the count before the script's first operation; what the script sets later wins."""
    count = settings["count"]
    framework.set_num_threads(count)

    def report() -> None:
        now = framework.get_num_threads()
        if now == count:
            patches.took_effect(IDEA.name, threads=now)
        else:
            patches.refuse(IDEA.name, f"the script itself sets {now} threads")

    patches.at_exit(report)
