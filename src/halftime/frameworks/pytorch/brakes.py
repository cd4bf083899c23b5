"""Brakes left on.

Changes: switches off anomaly detection, and garbage collection or cache emptying in every step.
Helps: where a debugging aid was left in the script. May change: nothing in the arithmetic. Needs: a
brake seen in the observed run. A synchronisation is only named: a copy to the host may rely on it.
Source: PyTorch performance tuning guide.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ...agent.imports import call_after_import
from ...agent.noted import Noted
from ...agent.patches import Patches
from ...agent.places import calls_itself
from ...agent.recorder import Recorder
from ...ideas import BRAKES as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_RELEASABLE = ("anomaly detection", "gc.collect", "cuda.empty_cache")
_STANDING = ("anomaly detection", "deterministic algorithms", "evaluation with gradients on",
             "a profiler", "wandb.watch")  # fmt: skip
_SYNCS = {"item": ".item()", "tolist": ".tolist()", "cpu": ".cpu()", "nonzero": ".nonzero()",
          "__bool__": "a condition", "__float__": "float()", "__int__": "int()"}  # fmt: skip


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """One switch for all brakes that may be released without changing a result."""
    from ...records import Proposal, Switch

    seen = sorted({brake.name for brake in facts.brakes})
    release = [name for name in seen if name in _RELEASABLE]
    if not release:
        left = f"; only named: {', '.join(seen)}" if seen else ""
        return [Proposal(switch=None, reason=f"no brake that can be released was seen{left}")]
    switch = Switch(technique=IDEA.name, settings={"release": release}, numerics="exact")
    places = ", ".join(f"{b.name} at {b.place}" for b in facts.brakes if b.name in release)
    return [Proposal(switch=switch, reason=places)]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Make the named brakes do nothing when the script pulls them."""
    release = settings["release"]
    idle = _idle_in(patches)
    if "anomaly detection" in release:
        patches.replace(framework, "set_anomaly_enabled", _never_on(patches))
    if "gc.collect" in release:
        patches.replace(gc, "collect", idle("gc.collect", 0))
    if "cuda.empty_cache" in release:
        patches.replace(framework.cuda, "empty_cache", idle("cuda.empty_cache", None))


def _idle_in(patches: Patches) -> Callable[[str, Any], Callable[[Any], Any]]:
    def idle(name: str, result: Any) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def do_nothing(*args: Any, **named: Any) -> Any:
                if not calls_itself():
                    return original(*args, **named)  # a library's own call keeps its meaning
                patches.took_effect(IDEA.name, released=name)
                return result

            return do_nothing

        return make

    return idle


def _never_on(patches: Patches) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def set_anomaly_enabled(mode: bool, *rest: Any, **named: Any) -> Any:
            if mode:
                patches.took_effect(IDEA.name, released="anomaly detection")
            return original(False, *rest, **named)

        return set_anomaly_enabled

    return make


def observe(torch: Any, recorder: Recorder, patches: Patches, syncs: bool) -> None:
    """Note each brake that the script pulls, with file and line.

    syncs: also where the host waits for a GPU; too dear for a run that is timed.
    """
    lines = Noted(recorder)
    note = lines.note

    def noted(name: str, when: Callable[..., bool] = lambda *args, **named: True) -> Any:
        def make(original: Any) -> Any:
            def call(*args: Any, **named: Any) -> Any:
                if when(*args, **named):
                    note(name)
                return original(*args, **named)

            return call

        return make

    def switched_on(mode: Any = True, *rest: Any, **named: Any) -> bool:
        return bool(mode)

    def by_the_user(*args: Any, **named: Any) -> bool:
        return calls_itself()  # what a library does in its own course is no brake

    patches.replace(torch, "set_anomaly_enabled", noted("anomaly detection", switched_on))
    patches.replace(
        torch, "use_deterministic_algorithms", noted("deterministic algorithms", switched_on)
    )
    patches.replace(torch.profiler.profile, "start", noted("a profiler"))
    call_after_import("wandb", lambda wandb: patches.replace(wandb, "watch", noted("wandb.watch")))
    patches.replace(gc, "collect", noted("gc.collect", by_the_user))
    patches.replace(torch.cuda, "empty_cache", noted("cuda.empty_cache", by_the_user))
    patches.replace(torch.cuda, "synchronize", noted("cuda.synchronize", by_the_user))
    if syncs and torch.cuda.device_count():
        for name, said in _SYNCS.items():
            patches.replace(torch.Tensor, name, _noting_sync(said, note))
    recorder.at_evaluation_with_gradients = lambda: note("evaluation with gradients on")

    def report() -> None:
        lines.report(_STANDING)
        if not torch.cuda.is_available():
            return
        standing = {
            "CUDA_LAUNCH_BLOCKING": os.environ.get("CUDA_LAUNCH_BLOCKING") == "1",
            "cudnn.deterministic": torch.backends.cudnn.deterministic,
        }
        for name in (name for name, is_on in standing.items() if is_on):
            recorder.emit("brake", name=name, place="the whole process", times_per_step=1.0)

    patches.at_exit(report)


def _noting_sync(said: str, note: Callable[[str, bool], None]) -> Any:
    """Note where the script makes the host wait for the GPU, line by line: advice only."""

    def make(original: Any) -> Any:
        def read(self: Any, *args: Any, **named: Any) -> Any:
            if self.is_cuda:
                note(f"the host waits for the GPU in {said}", True)
            return original(self, *args, **named)

        return read

    return make
