"""Garbage collected less often.

Changes: what lives after the first updates is put aside (`gc.freeze`), and Python's collector runs
after 50,000 new containers instead of 700 (2,000 from Python 3.13 on). Helps: where the host bounds
short steps and many objects are alive. May change: nothing. Costs: memory in reference cycles stays
longer, and for good where it was alive at the start. Source: Python documentation of gc.freeze;
Instagram engineering, 2017.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import GARBAGE_COLLECTION as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_THRESHOLD = 50_000
_LONG_STEP = 0.05


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """A higher threshold where steps are short."""
    from ...records import Proposal, Switch

    if (diagnosis.step_seconds or 0.0) > _LONG_STEP:
        reason = f"a step of {diagnosis.step_seconds or 0:.2g} s hides it"
        return [Proposal(switch=None, reason=reason)]
    switch = Switch(technique=IDEA.name, settings={"threshold": _THRESHOLD}, numerics="exact")
    return [Proposal(switch=switch, reason="steps are short")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Freeze and raise the threshold at the third update, unless the script has its own way."""
    before = gc.get_threshold()

    def freeze() -> None:
        if gc.get_threshold() != before or not gc.isenabled():
            patches.refuse(IDEA.name, "the script sets the collector itself")
            return
        gc.collect()
        gc.freeze()
        gc.set_threshold(settings["threshold"], *before[1:])
        patches.took_effect(IDEA.name, frozen=gc.get_freeze_count())

    patches.recorder.at_third_update.append(freeze)
