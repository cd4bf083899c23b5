"""Calls back when the script itself imports a module that we wait for."""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, List

_waiting: Dict[str, List[Callable[[Any], None]]] = {}


def call_after_import(name: str, callback: Callable[[Any], None]) -> None:
    """Hand the module `name` to `callback` as soon as the script has imported it.

    At once where that has happened already. Never imports anything by itself.
    """
    if name in sys.modules:
        callback(sys.modules[name])
        return
    _waiting.setdefault(name, []).append(callback)
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


class _Watcher:
    """A finder that finds nothing: it only notices which module comes next."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _waiting:
            return None
        spec = _find_below(name, path, target)
        if spec is not None and spec.loader is not None:
            # Somebody may only ask whether the module is there: it is waited for until it runs.
            spec.loader = _CallingLoader(spec.loader)
        return spec


def _find_below(name: str, path: Any, target: Any) -> Any:
    for finder in sys.meta_path:
        if isinstance(finder, _Watcher):
            continue
        find = getattr(finder, "find_spec", None)
        spec = find(name, path, target) if find else None
        if spec is not None:
            return spec
    return None


class _CallingLoader:
    """Loads by the real loader, which is back in place before the module's first line runs."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        for callback in _waiting.pop(module.__name__, []):
            callback(sys.modules.get(module.__name__, module))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
