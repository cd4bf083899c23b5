"""Memory that the C library keeps.

Changes: glibc's malloc maps no large block on its own and gives nothing back to the kernel, so that
a step finds the pages which the one before it used. Helps: on a CPU, where steps allocate and free
large tensors; each new page is a fault in which the kernel clears 4 KB. May change: nothing.
Needs: glibc, tensors in host memory. Costs: memory stays at its peak.
Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD; getrusage(2), ru_minflt.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import ALLOCATOR as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

# What the kernel needs at least to clear a page and map it (measured: 0.5 to 2 µs).
_SECONDS_A_FAULT = 0.5e-6
_SMALLEST_SHARE = 0.01
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1
_PAD_BYTES = 64 * 2**20


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """Memory kept, where page faults take a share of a step; or why not."""
    from ...records import Proposal, Switch

    faults, step = diagnosis.page_faults_a_step, diagnosis.step_seconds
    refusal = ""
    if facts.device == "cuda":
        refusal = "tensors live on the GPU, whose allocator keeps its memory already"
    elif faults is None or step is None:
        refusal = "page faults were not counted"
    elif faults * _SECONDS_A_FAULT < _SMALLEST_SHARE * step:
        refusal = f"{faults:,.0f} page faults in a step of {step * 1e3:.3g} ms cost next to nothing"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="exact")
    return [Proposal(switch=switch, reason=f"{faults:,.0f} page faults a step")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Tell malloc now: what the script allocates from here on is kept."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        patches.refuse(IDEA.name, "the C library is not glibc")
        return
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, _PAD_BYTES))
    if all(mallopt(name, value) for name, value in wanted):
        patches.took_effect(IDEA.name, pad_bytes=_PAD_BYTES)
    else:
        patches.refuse(IDEA.name, "malloc takes no options here")
