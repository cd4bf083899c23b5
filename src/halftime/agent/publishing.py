"""What a trial must not do: publish a model that was trained for a minute, over the user's own."""

from __future__ import annotations

from typing import Any

from .imports import call_after_import
from .patches import Patches

_PUBLISHES = ("create_repo", "delete_repo", "create_commit", "upload_file", "upload_folder",
              "upload_large_folder")  # fmt: skip
_SAID = (
    "halftime: a trial publishes nothing to the Hub. Leave it out of the runs that are measured, "
    'for example with --trial-args "--push_to_hub False".'
)


def refuse(patches: Patches) -> None:
    """Let calls that write to the Hugging Face Hub fail, with the next step."""

    def refusing(original: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            raise RuntimeError(_SAID)

        return call

    def stand_before(module: Any) -> None:
        for owner in (module.HfApi, module):  # whose functions are those of one instance
            for name in _PUBLISHES:
                if hasattr(owner, name):
                    patches.replace(owner, name, refusing)

    call_after_import("huggingface_hub.hf_api", stand_before)
