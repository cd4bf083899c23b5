"""Whether a dataset gives the same sample each time it is asked (measurement.md §5)."""

from __future__ import annotations

import os
import random
import sys
import threading
import types
import zlib
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from ...agent.recorder import clock
from ..tensorflow.seeds import EAGER_CONTEXT, OpSeeds
from .batches import bytes_of

_SAMPLES, DRAWS, _STATE_DRAWS = 8, 16, 64
AUDIT_EVERY = 1000
"""Of what is served from memory, one in so many is drawn afresh and compared."""
_LONGEST_SECONDS = 60.0
_LARGEST_WALK = 20_000
_LARGEST_LOOK, _LONGEST_LOOK, _MOST_LOOKED_AT = 2_000_000, 20_000, 6_000_000
_MOST_HOLDERS, _FEW, _SHORT = 2_000, 64, 256
_SMALL = (str, bytes, int, float, type(None))
_NO_HOLDERS = (type, types.ModuleType, types.FunctionType, types.MethodType,
               types.BuiltinFunctionType, *_SMALL)  # fmt: skip
_LIBRARIES = ("torch", "numpy", "PIL", "tensorflow", "keras")
_PYTHON_FOLDER = os.path.dirname(os.__file__)
_OF_PYTHON = getattr(sys, "stdlib_module_names", None) or {  # Python 3.9 has no list of them
    name.partition(".")[0]
    for folder in (_PYTHON_FOLDER, os.path.join(_PYTHON_FOLDER, "lib-dynload"))
    for name in (*sys.builtin_module_names, *(os.listdir(folder) if os.path.isdir(folder) else ()))
}


def randomness_of(torch: Any, dataset: Any, shown_before: bool = False) -> str:
    """Why the samples of a map-style dataset are not deterministic; '' where they are.

    8 samples drawn 16 times each, without restoring the random state in between, are equal; no
    global random state moved over these and 64 more draws; no generator of its own is reachable
    from the dataset. Only then are the states put back. Takes 193 draws; 17 where an earlier run
    of the same script has shown it in full: a first pass then costs little more than a plain one.
    """
    try:
        length = len(dataset)
    except Exception as error:  # the user's own code
        return f"the dataset has no length ({type(error).__name__})"
    if length == 0:
        return "the dataset is empty"
    if owner := own_generator(dataset):
        return f"the dataset holds a random generator of its own ({owner})"
    before = random_states(torch)
    try:
        if owner := generator_made_late(dataset):
            return f"the dataset holds a random generator of its own ({owner})"
        draws, more = (2, 0) if shown_before else (DRAWS, _STATE_DRAWS)
        return _randomness(torch, dataset, length, before, draws, more)
    finally:
        restore(torch, before)


def generator_made_late(dataset: Any) -> Optional[str]:
    """The type of a random generator that a dataset makes at its first sample; None without one.

    Draws a sample. Where there is one, the attributes of the dataset are put back as they were.
    """
    held = [(found, dict(vars(found))) for found in objects_of_the_script(dataset)]
    dataset[0]
    owner = own_generator(dataset)
    if owner is not None:
        for found, attributes in held:
            vars(found).clear()
            vars(found).update(attributes)
    return owner


def _randomness(
    torch: Any, dataset: Any, length: int, before: RandomStates, draws: int, more: int
) -> str:
    started = clock()
    places = probe_places(length)
    first = [dataset[place] for place in places]
    for _ in range(draws - 1):
        for place, sample in zip(places, first):
            if not same(torch, sample, dataset[place]):
                return "a sample changed between two draws (a random transform)"
        if clock() - started > _LONGEST_SECONDS:
            return f"drawing samples takes too long to show it within {_LONGEST_SECONDS:.0f} s"
    for draw in range(more):
        dataset[draw * (length - 1) // (more - 1)]
    owner = what_moved(torch, before)
    return f"drawing a sample moves the global random state of {owner}" if owner else ""


def probe_places(length: int) -> List[int]:
    """The indices of the samples that are drawn again and again, across the dataset."""
    return [i * (length - 1) // max(_SAMPLES - 1, 1) for i in range(_SAMPLES)]


def same(torch: Any, one: Any, other: Any) -> bool:
    """Whether two samples are equal, bit for bit, through tuples, lists and dicts."""
    if type(one) is not type(other):
        return False
    if torch.is_tensor(one):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(torch.equal(one, other)) or bytes_of(one) == bytes_of(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(torch, one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(torch, a, b) for a, b in zip(one, other))
    if hasattr(one, "tobytes"):  # numpy arrays and scalars, PIL images
        return bool(one.tobytes() == other.tobytes())
    try:
        return bool(one == other)
    except Exception:  # an equality of the user's own that fails proves nothing
        return False


RandomStates = Tuple[Any, Any, Any, Any, Any]


def random_states(torch: Any) -> RandomStates:
    """The global random streams of random, numpy, torch and TensorFlow, as they stand.

    torch: None where a script has none.
    """
    numpy = sys.modules.get("numpy")
    cuda = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    return (
        random.getstate(),
        numpy.random.get_state() if numpy else None,
        torch.get_rng_state() if torch else None,
        cuda,
        OpSeeds().now() if sys.modules.get(EAGER_CONTEXT) is not None else None,
    )


def what_moved(torch: Any, before: RandomStates) -> Optional[str]:
    """The module whose global stream has moved since `before`; None where none has."""
    now = random_states(torch)
    if before[4] is not None and now[4] != before[4]:
        return "tensorflow"
    if now[0] != before[0]:
        return "random"
    if before[1] is not None and (now[1][2:] != before[1][2:] or (now[1][1] != before[1][1]).any()):
        return "numpy"
    if torch is None:
        return None
    moved = not torch.equal(now[2], before[2])
    if before[3] is not None and now[3] is not None:
        moved = moved or not all(map(torch.equal, now[3], before[3]))
    return "torch" if moved else None


def restore(torch: Any, before: RandomStates) -> None:
    """Put the global streams back to where they stood."""
    random.setstate(before[0])
    if before[1] is not None:
        sys.modules["numpy"].random.set_state(before[1])
    if torch is not None:
        torch.set_rng_state(before[2])
    if before[3] is not None:
        torch.cuda.set_rng_state_all(before[3])
    if before[4] is not None:
        OpSeeds().put_back(before[4])


class Watched:
    """The global random streams over some draws.

    Beside the main thread, which may draw numbers for a model meanwhile, nothing can be told of
    them, and nothing put back.
    """

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        here = threading.current_thread() is threading.main_thread()
        self._before = random_states(torch) if here else None

    def moved(self) -> Optional[str]:
        """The module whose stream was moved; None where none was, or none can tell."""
        return None if self._before is None else what_moved(self._torch, self._before)

    def put_back(self) -> None:
        """As they stood before."""
        if self._before is not None and self.moved() is not None:
            restore(self._torch, self._before)


def own_generator(dataset: Any) -> Optional[str]:
    """The type of a random generator that the dataset can reach by itself, or None.

    Walks attributes, containers, closures, and the globals that its own functions name.
    """
    for found in reachable(dataset):
        name = type(found).__name__
        module = type(found).__module__
        if isinstance(found, random.Random) and found is not random._inst:
            return "random.Random"
        if name == "SeedGenerator" and module.startswith("keras"):
            return "keras.random.SeedGenerator"
        if name == "Generator" and module.startswith(("torch", "numpy", "tensorflow")):
            return f"{module.split('.')[0]}.Generator"
        if name == "RandomState" and module.startswith("numpy"):
            numpy = sys.modules.get("numpy")
            if numpy is None or found is not getattr(numpy.random.mtrand, "_rand", None):
                return "numpy.random.RandomState"
    return None


def reachable(root: Any) -> Iterator[Any]:
    """Objects that `root` can reach in the user's own code; large arrays are not entered."""
    waiting: List[Any] = [root]
    seen: Set[int] = set()
    while waiting and len(seen) < _LARGEST_WALK:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, (str, bytes, int, float, type(None), type)):
            continue
        seen.add(id(found))
        if _is_ours(getattr(found, "__module__", None)):
            continue  # what we put into the place of something of the user's
        yield found
        waiting.extend(_held_by(found))


def objects_of_the_script(root: Any) -> Iterator[Any]:
    """Those that `root` can reach whose class is the script's own, and which have attributes."""
    for found in reachable(root):
        if hasattr(found, "__dict__") and not is_library(type(found).__module__):
            yield found


def contents_of(dataset: Any) -> Dict[int, int]:
    """Checksums of the tensors, arrays and lists that a dataset holds, by their id.

    As far as it is cheap: of large ones a part is looked at, and no code of the script's is called.
    Tensors count themselves how often they were written to. Also which of them each object holds.
    """
    torch, numpy = sys.modules["torch"], sys.modules.get("numpy")
    arrays = () if numpy is None else (numpy.ndarray,)
    data = (list, tuple, torch.Tensor, *arrays)
    found: Dict[int, int] = {}
    waiting, left = [dataset], _MOST_LOOKED_AT
    while waiting and left > 0 and len(found) < _MOST_HOLDERS:
        held = waiting.pop()
        if id(held) in found:
            continue
        said = b""
        if isinstance(held, torch.Tensor):
            said = b"" if held.is_inference() else str(held._version).encode()
        elif isinstance(held, arrays):
            said = _part_of(held)
        elif type(held) in (list, tuple):
            said = ",".join(map(_word_of, held[:: -(-len(held) // _LONGEST_LOOK) or 1])).encode()
            waiting += [one for one in held[:_FEW] if not isinstance(one, _SMALL)]
        elif type(held) is dict:
            waiting += [one for one in list(held.values())[:_FEW] if not isinstance(one, _SMALL)]
        elif isinstance(held, torch.utils.data.Dataset) or (
            not isinstance(held, _NO_HOLDERS) and not is_library(type(held).__module__)
        ):
            names = _vars(held)
            said = repr([(n, id(v)) for n, v in names.items() if isinstance(v, data)]).encode()
            waiting += [one for one in names.values() if not isinstance(one, _SMALL)]
        left -= len(said)
        found[id(held)] = zlib.crc32(said)
    return found


def _vars(held: Any) -> Dict[str, Any]:
    """The attributes of an object, whatever it answers to names of its own."""
    try:
        names: Dict[str, Any] = object.__getattribute__(held, "__dict__")
    except AttributeError:
        return {}
    return names if type(names) is dict else {}


def _part_of(array: Any) -> bytes:
    """Bytes of an array, of a large one of elements all over it."""
    if array.dtype == object or not array.size or not array.flags.c_contiguous:
        return b""
    step = -(-array.nbytes // _LARGEST_LOOK)
    part: bytes = array.reshape(-1)[::step].tobytes()
    return part


def _word_of(value: Any) -> str:
    """A number or a short text as it is, anything else by its place."""
    if isinstance(value, (int, float)) or (isinstance(value, str) and len(value) <= _SHORT):
        return repr(value)
    if type(value) is tuple and len(value) <= 4:
        return "(" + ",".join(map(_word_of, value)) + ")"
    return str(id(value))


def _held_by(found: Any) -> Iterator[Any]:
    if isinstance(found, (list, tuple, set, frozenset)):
        # Homogeneous data is long; what matters (transforms) stands among few.
        yield from list(found)[:64]
    elif isinstance(found, dict):
        yield from list(found.values())[:64]
    elif isinstance(found, types.MethodType):
        yield found.__self__
        yield found.__func__
    elif isinstance(found, types.FunctionType):
        yield from (cell.cell_contents for cell in found.__closure__ or () if _is_filled(cell))
        yield from found.__defaults__ or ()
        if not is_library(found.__module__):
            for name in _names_in(found.__code__):
                named = found.__globals__.get(name)
                if not isinstance(named, types.ModuleType):
                    yield named
    elif hasattr(found, "__dict__") and not isinstance(found, types.ModuleType):
        yield from list(vars(found).values())
        cls = type(found)
        if not is_library(cls.__module__):
            for owner in cls.__mro__:
                if not is_library(owner.__module__):
                    yield from (v for v in vars(owner).values() if callable(v) or _is_state(v))
    partial = getattr(found, "func", None)
    if partial is not None and hasattr(found, "keywords"):
        yield partial
        yield from found.args
        yield from found.keywords.values()


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_state(value: Any) -> bool:
    return type(value).__name__ in ("Generator", "RandomState", "Random")


def _is_ours(module: Any) -> bool:
    return isinstance(module, str) and module.split(".", 1)[0] == __name__.split(".", 1)[0]


def is_library(module: Optional[str]) -> bool:
    """Whether a module is Python's or one of these libraries', and holds no state of the user's."""
    top = (module or "").split(".", 1)[0]
    return top in _OF_PYTHON or top in _LIBRARIES
