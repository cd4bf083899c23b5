"""What every framework offers: a probe that observes, and techniques that act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Protocol, Sequence

if TYPE_CHECKING:
    from ..agent.patches import Patches
    from ..agent.recorder import Recorder
    from ..ideas import Idea
    from ..records import Diagnosis, Facts, Proposal


class Probe(Protocol):
    """Observes a framework in the user's process."""

    def attach(
        self, framework: Any, recorder: Recorder, patches: Patches, orders: Mapping[str, Any]
    ) -> None:
        """Hook in, and install the techniques that the orders name. Runs in the user's process."""


class Technique(Protocol):
    """One way to switch an idea on in one framework."""

    IDEA: Idea

    def settings_to_try(self, facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
        """What is worth a trial here, or why it is refused. Pure; runs in our process.

        Settings may hold an `environment`: variables that the script is started with.
        """

    def install(self, framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
        """Switch it on and prove that it acts. Runs in the user's process, before the script's
        first line that uses the framework."""
