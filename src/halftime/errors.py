"""What the user can fix, against what we must fix."""

from __future__ import annotations

DONE = 0
DIFFERS = 1
USAGE = 2
NO_GAIN = 3
UNPROVEN = 4
UNOBSERVED = 5
BASELINE_FAILED = 6
INTERRUPTED = 130


class NotMeasured(Exception):
    """A run that a study which is only read does not have."""


class UserError(Exception):
    """Expected, found, next step: shown without a traceback. Anything else is a bug of ours."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
