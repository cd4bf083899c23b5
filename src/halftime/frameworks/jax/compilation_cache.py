"""Compiled programs kept on disk.

Changes: XLA's programs are written to a folder and found there by the next run. Helps: where
compiling is a share of a run that is made again and again. May change: nothing, the program is the
same. Costs: disk. Source: JAX documentation, Persistent compilation cache.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import COMPILATION_CACHE as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_HITS = "/jax/compilation_cache/cache_hits"


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """A cache, unless the script names one itself."""
    from ...records import Proposal, Switch

    if IDEA.name in facts.already_on:
        return [Proposal(switch=None, reason="already on: the script names a folder itself")]
    switch = Switch(technique=IDEA.name, settings={}, numerics="exact")
    return [Proposal(switch=switch, reason="every run compiles anew")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Name the folder; a program that is found there is the proof."""
    jax = framework
    if jax.config.jax_compilation_cache_dir:
        patches.refuse(IDEA.name, "the script names a folder itself")
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = settings.get("folder") or os.path.join(home, "halftime", "jax")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    hits = [0]

    def heard(event: str, **more: Any) -> None:
        if event == _HITS:
            hits[0] += 1

    def look() -> None:
        if jax.config.jax_compilation_cache_dir != folder:
            patches.refuse(IDEA.name, "the script names a folder itself")
            return
        kept = len(os.listdir(folder))
        if kept:
            patches.took_effect(IDEA.name, programs=kept, found=hits[0])

    jax.monitoring.register_event_listener(heard)
    patches.at_exit(look)


def note(jax: Any, recorder: Any) -> None:
    """Say where the script, or its environment, names a folder itself."""
    if jax.config.jax_compilation_cache_dir:
        recorder.emit("already_on", idea=IDEA.name)
