"""Where in the user's own code a call comes from."""

from __future__ import annotations

import os
import sys
import types
from typing import List, Optional

_AGENT = os.path.dirname(os.path.abspath(__file__))
_OURS = (_AGENT + os.sep, os.path.join(os.path.dirname(_AGENT), "frameworks") + os.sep)
_LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}",
              os.path.dirname(os.__file__) + os.sep)  # fmt: skip


def place_of_caller() -> str:
    """`file:line` of the innermost frame that is the user's; `unknown` where there is none."""
    return places_of_callers(1)[0]


def places_of_callers(most: int) -> List[str]:
    """`file:line` of the innermost frames that are the user's; [`unknown`] where there is none."""
    found: List[str] = []
    frame: Optional[types.FrameType] = sys._getframe(1)
    while frame is not None and len(found) < most:
        name = frame.f_code.co_filename
        if not name.startswith((*_OURS, "<frozen")) and not any(
            part in name for part in _LIBRARIES
        ):
            found.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back
    return found or ["unknown"]
