"""Where in the user's own code a call comes from."""

from __future__ import annotations

import os
import sys
import types
from typing import Dict, Iterable, List, Optional

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
        if _is_the_users(frame.f_code.co_filename):
            found.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        frame = frame.f_back
    return found or ["unknown"]


def calls_itself() -> bool:
    """Whether the user's own code made the call that our caller stands in for, and no library."""
    frame: Optional[types.FrameType] = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return frame is not None and _is_the_users(frame.f_code.co_filename)


def files_of_the_user() -> List[str]:
    """The source files of the script and of what it imported of its own."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return sorted(file for file in files if file and file.endswith(".py") and _is_the_users(file))


def digests_of_modules() -> Dict[str, str]:
    """What tells a changed module of the user's from the one that was measured, by its file."""
    import hashlib  # 2 ms of a script's start

    main = getattr(sys.modules.get("__main__"), "__file__", None)
    found = {}
    for file in files_of_the_user():
        if file != main and os.path.isfile(file):
            with open(file, "rb") as source:
                found[file] = hashlib.sha256(source.read()).hexdigest()[:16]
    return found


def packages_in(folders: Iterable[str]) -> Dict[str, List[str]]:
    """`name-version` of the packages that are installed in each folder that has any."""
    ending, found = ".dist-info", {}
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:  # there is none, or nobody may read it
            continue
        if here := sorted(name[: -len(ending)] for name in names if name.endswith(ending)):
            found[folder] = here
    return found


def _is_the_users(file: str) -> bool:
    return not file.startswith((*_OURS, "<frozen")) and not any(part in file for part in _LIBRARIES)
