"""Replaces functions, and remembers what took effect and what was refused."""

from __future__ import annotations

import contextlib
import functools
import importlib
import types
from typing import Any, Callable, Dict, Mapping, Optional

from .recorder import Recorder


class Patches:
    """Everything that halftime changed in this process, with the proof that it acted.

    One process a trial, so nothing has to be undone.
    """

    def __init__(self, recorder: Recorder, training_loader: Optional[int] = None) -> None:
        self.recorder = recorder
        self.training_loader = training_loader
        """The number of the loader that feeds the training; None: not known beforehand."""
        self._effects: Dict[str, Dict[str, Any]] = {}
        self._at_exit: list[Callable[[], None]] = []
        self._refused: set[tuple[str, str]] = set()
        self._void: set[str] = set()
        self.is_spawned = False
        """Whether Python's multiprocessing spawned this process, which may be but a helper."""
        self.feeders: list[Callable[[Any, int, bool], Any]] = []
        """What is done, in this order, to the data that a trainer is given.

        Each is told its number as a loader, and whether it trains.
        """

    def switch_on(
        self, orders: Mapping[str, Any], modules: Mapping[str, str], framework: Any, **more: Any
    ) -> None:
        """Install what is ordered of these techniques.

        modules: the module of each by its name. more: settings beside those that were ordered.
        """
        for switch in orders["switches"]:
            if switch["technique"] in modules:
                technique = importlib.import_module(modules[switch["technique"]])
                technique.install(framework, {**switch["settings"], **more}, self)

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
        """Put `make(original)` in the place of `owner.name`; gives the original."""
        original = getattr(owner, name)
        replacement = make(original)
        # Of an extension, whose names are no text; of a property, which has none.
        with contextlib.suppress(TypeError, AttributeError):
            functools.update_wrapper(replacement, original)
        if isinstance(replacement, types.FunctionType):
            # What torch.jit compiles in its place: a source and the names that belong to it.
            replacement.__dict__["__prepare_scriptable__"] = lambda: original
        setattr(owner, name, replacement)
        return original

    def took_effect(self, technique: str, **evidence: Any) -> None:
        """Say once that `technique` acts, with what was seen of it; later evidence is added up."""
        if technique in self._void:
            return
        known = self._effects.get(technique)
        self._effects[technique] = {**(known or {}), **evidence}
        if known is None:
            self.recorder.emit("effect", technique=technique, **evidence)

    def refuse(self, technique: str, reason: str) -> None:
        """Say that `technique` leaves this script, or a part of it, alone, and why."""
        if (technique, reason) not in self._refused:
            self._refused.add((technique, reason))
            self.recorder.emit("refused", technique=technique, reason=reason)

    def void(self, technique: str, reason: str) -> None:
        """Say that `technique` turned out to be of no use after all, whatever it did before."""
        self._void.add(technique)
        self._effects.pop(technique, None)
        self.recorder.emit("void", technique=technique)
        self.refuse(technique, reason)

    def feed(self, data: Any, number: int, trains: bool) -> Any:
        """The data that a trainer is to have in the place of `data`.

        trains: what is thought where it is not known which loader feeds the training.
        """
        if self.training_loader is not None:
            trains = number == self.training_loader
        for feeder in self.feeders:
            try:
                data = feeder(data, number, trains)
            except Exception as error:  # ours: the script goes on with its data, the trial is void
                self.recorder.report_failure("looking at what feeds a training", error)
        return data

    def at_exit(self, report: Callable[[], None]) -> None:
        """Call `report` when the observation ends, for evidence that is only known then."""
        self._at_exit.append(report)

    def finish(self) -> None:
        """Collect the last evidence and write all of it, whichever part of it fails."""
        if self.is_spawned and not self.recorder.updates:
            return
        failures = []
        for report in self._at_exit:
            try:
                report()
            except Exception as error:
                failures.append(error)
        for technique, evidence in self._effects.items():
            self.recorder.emit("effect", technique=technique, **evidence)
        if failures:
            raise failures[0]
