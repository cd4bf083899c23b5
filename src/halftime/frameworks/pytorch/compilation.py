"""Compilation of the roots in place.

Changes: each root's call becomes compiled kernels (torch.compile with Inductor), in place, so that
no name of a parameter changes. Helps: where many small operations, or the Python between them,
bound the step. May change: rounding; which random numbers dropout gets. Costs: compiling, once for
each shape; PyTorch keeps what it compiled for later runs. Needs: a C++ compiler on a CPU, Triton on
a GPU. Source: Ansel et al. 2024, "PyTorch 2"; pytorch#169545 (modes that do not accumulate).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence

from ...agent.patches import Patches
from ...agent.recorder import clock
from ...ideas import COMPILATION as IDEA
from . import roots
from .batches import copy_of

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_SHORT_TRAINING = 60.0


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The default mode; on a GPU also the one with CUDA graphs; or why none."""
    from ...records import Proposal, Switch

    refusal = ""
    if "compile" in facts.already_on or any(root.compiled for root in facts.roots):
        refusal = "already on: the script compiles by itself"
    elif not facts.roots:
        refusal = "no module was seen that the script calls to compute what it trains"
    elif diagnosis.start_up_share is not None and diagnosis.step_seconds is not None:
        training = diagnosis.steps * diagnosis.step_seconds
        if training < _SHORT_TRAINING:
            refusal = f"a training of {training:.0f} s is over before compiling has paid"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    modes = ["default"]
    # CUDA graphs do not add up gradients: pytorch#169545.
    if facts.device == "cuda" and all(root.calls_per_update <= 1 for root in facts.roots):
        modes.append("reduce-overhead")
    return [
        Proposal(
            switch=Switch(technique=IDEA.name, settings={"mode": mode}, numerics="rounding"),
            reason=f"{facts.roots[0].class_name} is not compiled",
        )
        for mode in modes
    ]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Compile a root at its second call; its first shows other techniques its layers."""
    torch = framework
    watch = roots.watch(torch, patches.recorder, patches, settings["roots"])
    torch_compile = watch.plain_compile
    calls: Dict[int, int] = {}
    failed: List[Any] = []

    def compiling(call: Any) -> Any:
        def called(module: Any, *args: Any, **named: Any) -> Any:
            number = calls[id(module)] = calls.get(id(module), 0) + 1
            if number != 2:
                return call(module, *args, **named)
            start = clock()
            try:
                compiled = torch_compile(module._call_impl, mode=settings["mode"])
                if settings["mode"] == "reduce-overhead":
                    compiled = _giving_copies(compiled)
                module._compiled_call_impl = compiled
                output = call(module, *args, **named)
            except Exception as error:
                # The compiler's failure, or the model's own: without it the model decides.
                module._compiled_call_impl = None
                failed.append(module)
                reason = str(error).strip().partition("\n")[0]
                patches.refuse(IDEA.name, f"{type(error).__name__}: {reason}")
                return call(module, *args, **named)
            if _graphs():
                patches.took_effect(IDEA.name, seconds=clock() - start)
            return output

        return called

    watch.around(compiling)
    patches.at_exit(lambda: None if failed else _report(patches))


def _giving_copies(compiled: Any) -> Any:
    """The next replay of a CUDA graph writes over what this one gives; the script may keep that."""

    def called(*args: Any, **named: Any) -> Any:
        return copy_of(compiled(*args, **named))

    return called


def _graphs() -> int:
    counters = importlib.import_module("torch._dynamo.utils").counters
    return int(counters["stats"]["unique_graphs"])


def _report(patches: Patches) -> None:
    """How many graphs there are, and how often Python had to step in between them."""
    if not _graphs():
        patches.refuse(IDEA.name, "PyTorch's compiler made no graph of this model")
        return
    counters = importlib.import_module("torch._dynamo.utils").counters
    breaks = sum(counters["graph_break"].values())
    patches.took_effect(IDEA.name, graphs=_graphs(), graph_breaks=int(breaks))
