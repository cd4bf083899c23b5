"""Starts halftime's agent in this Python process, then the user's own sitecustomize."""

import importlib
import importlib.machinery
import importlib.util
import os
import sys


def _load(name: str, location: str, folder: str) -> None:
    spec = importlib.util.spec_from_file_location(
        name, location, submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no module at {location}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _start_agent(package_folder: str) -> None:
    if "HALFTIME_ORDERS" not in os.environ:
        return
    # A private name: neither the script's own packages nor its sys.path see anything of ours.
    _load(
        "_halftime",
        os.path.join(package_folder, "agent", "__init__.py"),
        package_folder,
    )
    start = importlib.import_module("_halftime.agent.start")
    start.start(os.environ["HALFTIME_ORDERS"])


def _run_own_sitecustomize() -> None:
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_entry = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != _entry]
try:
    _start_agent(os.path.dirname(os.path.dirname(_entry)))
except Exception as error:
    # A guest that cannot start steps aside and says so; the script runs as it would without it.
    sys.stderr.write(f"halftime: the agent did not start ({type(error).__name__}: {error})\n")
_run_own_sitecustomize()
