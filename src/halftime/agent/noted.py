"""What of the script's own lines slows it, with how often a step: told, and seldom changed."""

from __future__ import annotations

from typing import Collection, Dict, NamedTuple

from .places import place_of_caller
from .recorder import Recorder

_EACH_STEP = 0.5


class _Line(NamedTuple):
    name: str
    place: str


class Noted:
    """Counts the calls that slow a step, by name or line by line."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._calls: Dict[_Line, int] = {}
        self._first: Dict[str, _Line] = {}

    def note(self, name: str, everywhere: bool = False) -> None:
        """The user's code does it, from its line or below it.

        everywhere: each line is told for itself, not the first alone.
        """
        if self._recorder.off or self._recorder.settles:
            return
        line = None if everywhere else self._first.get(name)
        if line is None:
            line = _Line(name, place_of_caller())
            if line.place == "unknown":
                return
            self._first.setdefault(name, line)
        self._calls[line] = self._calls.get(line, 0) + 1

    def report(self, standing: Collection[str] = ()) -> None:
        """Tell what is done in every other step or more; of what is standing, once is enough."""
        steps = max(self._recorder.steps, 1)
        for line, calls in self._calls.items():
            if line.name in standing or calls / steps >= _EACH_STEP:
                self._recorder.emit(
                    "brake", name=line.name, place=line.place, times_per_step=calls / steps
                )
