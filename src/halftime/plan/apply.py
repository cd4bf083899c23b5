"""Plans on disk: plan.toml, written by tune, read by run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..frameworks import DATA_LOADER
from ..records import Candidate, Plan, Proof, Switch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as TOML, whole or not at all."""
    import tomli_w

    document: dict[str, Any] = {
        "halftime_plan": 1,
        "command": plan.command,
        "script_digest": plan.script_digest,
        "study": plan.study,
        "framework": plan.framework,
        "roots": list(plan.roots),
        **({} if plan.training_loader is None else {"training_loader": plan.training_loader}),
        "fed_by": plan.fed_by,
        "notes": list(plan.notes),
        "sources": plan.sources,
        "gain": {"speedup": plan.speedup, "low": plan.low, "high": plan.high},
        "proof": {
            "status": plan.proof.status,
            "numerics": plan.proof.numerics,
            "evidence": list(plan.proof.evidence),
            "missing": plan.proof.missing,
            "samples": plan.proof.samples,
        },
        "machine": plan.fingerprint,
        "technique": [
            {"name": s.technique, "numerics": s.numerics, "settings": s.settings}
            for s in plan.candidate.switches
        ],
    }
    partial = path.with_suffix(".part")
    partial.write_bytes(tomli_w.dumps(document).encode())
    partial.rename(path)


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises UserError where the file is none, or of a newer kind."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        if document["halftime_plan"] != 1:
            raise UserError(f"{path} was written by a newer halftime; update this one.")
        return _plan_of(document)
    except OSError as error:
        raise UserError(
            f"No plan at {path}: {error.strerror}. Make one with: halftime tune"
        ) from error
    except (tomllib.TOMLDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no plan of halftime ({error}).") from error


def _plan_of(document: Mapping[str, Any]) -> Plan:
    return Plan(
        command=document["command"],
        script_digest=document["script_digest"],
        candidate=Candidate(
            switches=tuple(
                Switch(technique=t["name"], numerics=t["numerics"], settings=t["settings"])
                for t in document["technique"]
            )
        ),
        speedup=document["gain"]["speedup"],
        low=document["gain"]["low"],
        high=document["gain"]["high"],
        proof=Proof(
            status=document["proof"]["status"],
            numerics=document["proof"]["numerics"],
            evidence=tuple(document["proof"]["evidence"]),
            missing=document["proof"]["missing"],
            samples=document["proof"].get("samples", 0),
        ),
        fingerprint=document["machine"],
        study=document["study"],
        framework=document["framework"],
        roots=tuple(document["roots"]),
        training_loader=document.get("training_loader"),
        # A plan that does not say it is of when JAX was served by these alone.
        fed_by=document.get("fed_by", DATA_LOADER if document["framework"] == "jax" else ""),
        sources=dict(document.get("sources", {})),
        notes=tuple(document["notes"]),
    )


def differences(plan: Plan, machine: Mapping[str, str]) -> list[str]:
    """What is different here from where the plan was measured, in words."""
    return [
        f"{name.replace('_', ' ')}: measured on {plan.fingerprint[name]}, here {machine.get(name)}"
        for name in ("processor", "cores", "gpu")
        if name in plan.fingerprint and plan.fingerprint[name] != machine.get(name)
    ]
