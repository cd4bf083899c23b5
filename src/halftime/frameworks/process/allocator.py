"""Memory that the allocator keeps.

Changes: glibc's malloc maps no large block on its own and gives nothing back to the kernel, so that
a step finds the pages which the one before it used; or jemalloc or tcmalloc, where this machine has
one, is loaded in malloc's place. Helps: on a CPU, where steps allocate and free large tensors; each
new page is a fault in which the kernel clears 4 KB. May change: nothing. Needs: glibc, tensors in
host memory. Costs: memory stays at its peak.
Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD; getrusage(2), ru_minflt; ld.so(8), LD_PRELOAD.
"""

from __future__ import annotations

import ctypes
import os
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
_LIBRARIES = ("jemalloc", "tcmalloc_minimal", "tcmalloc", "mimalloc")
_PRELOAD = "LD_PRELOAD"


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """Each allocator of this machine, where page faults take a share of a step; or why none."""
    from ctypes.util import find_library

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
    libraries = map(find_library, _LIBRARIES) if _PRELOAD not in os.environ else ()
    found = [{"name": name, "environment": {_PRELOAD: name}} for name in libraries if name]
    return [
        Proposal(
            switch=Switch(technique=IDEA.name, settings=settings, numerics="exact"),
            reason=f"{faults:,.0f} page faults a step",
        )
        for settings in ({}, *found)
    ]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Tell malloc now: what the script allocates from here on is kept.

    Another library was loaded before the script began: see whether it was.
    """
    library = settings.get("name")
    if library is not None:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            loaded = any(f"/{library}" in line for line in maps)
        if loaded:
            patches.took_effect(IDEA.name, library=library)
        else:
            patches.refuse(IDEA.name, f"{library} was not loaded")
        return
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
