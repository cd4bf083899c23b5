"""Batches as the script gets them: their size, their tensors, their bytes."""

from __future__ import annotations

import sys
import types
import weakref
import zlib
from typing import Any, Iterator, Mapping, Optional

_DEPTH, _DEEPEST = 3, 6
_NO_BATCH = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType,
             types.ModuleType, weakref.ref)  # fmt: skip


class ScriptsOwn:
    """Calls of the script's own code: what they raise is the script's to handle, not ours."""

    def __init__(self) -> None:
        self.raised: Optional[BaseException] = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> None:
        if error is not None:
            self.raised = error


def first_dimension(batch: Any) -> int:
    """The number of samples in a batch: the first dimension of its first tensor; 0: not known."""
    try:
        return _first_dimension(batch)
    except Exception:  # a batch of the script's own kind, or tensors without a size
        return 0


def _first_dimension(batch: Any) -> int:
    for _ in range(_DEPTH):
        if type(batch) in (list, tuple) and batch:
            batch = batch[0]
        elif hasattr(batch, "shape"):
            shape = batch.shape
            return int(shape[0]) if len(shape) else 1
        elif isinstance(batch, (list, tuple)) and batch:
            batch = batch[0]
        elif callable(getattr(batch, "values", None)):
            batch = next(iter(batch.values()), None)
        else:
            return 0
    return 0


def tensors_in(batch: Any, depth: int = _DEEPEST) -> Iterator[Any]:
    """The tensors of a batch, in order."""
    if hasattr(batch, "element_size"):
        yield batch
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors_in(value, depth)
    elif depth:
        for value in _named_in(batch).values():
            yield from tensors_in(value, depth - 1)


def _named_in(batch: Any) -> Mapping[Any, Any]:
    """What a mapping, or an object of the script's own, holds by name; {} of all else."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, _NO_BATCH) or hasattr(type(batch), "named_parameters"):
        return {}
    held = getattr(batch, "__dict__", {})
    # As torch_geometric's, whose attributes lie in stores that know them in turn.
    return {name: value for name, value in held.items() if value is not batch and name[:2] != "__"}


def copy_of(batch: Any) -> Any:
    """A batch of the same structure with fresh tensors."""
    if hasattr(batch, "clone"):
        return batch.clone()
    if isinstance(batch, dict):
        return type(batch)((key, copy_of(value)) for key, value in batch.items())
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(copy_of(value) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(copy_of(value) for value in batch)
    return batch.copy() if hasattr(batch, "copy") else batch


def bytes_of(tensor: Any) -> bytes:
    """The bytes of a tensor's elements, NaN and signed zero included."""
    dense = tensor.detach() if str(tensor.layout) == "torch.strided" else tensor.detach().to_dense()
    flat = dense.cpu().contiguous().reshape(-1)
    if not flat.numel():
        return b""
    raw: bytes = flat.view(sys.modules["torch"].uint8).numpy().tobytes()
    return raw


def digest_of(batch: Any) -> int:
    """A checksum of a batch: its structure, dtypes, shapes and bytes."""
    digest = zlib.crc32(_outline(batch).encode())
    for tensor in tensors_in(batch):
        digest = zlib.crc32(bytes_of(tensor), digest)
    return digest


def _outline(batch: Any, depth: int = _DEEPEST) -> str:
    if hasattr(batch, "element_size"):
        return f"{batch.dtype}{tuple(batch.shape)}"
    if hasattr(batch, "tobytes") and str(getattr(batch, "dtype", "")) != "object":
        shape = getattr(batch, "shape", None) or getattr(batch, "size", None)
        kind = f"{type(batch).__name__}{getattr(batch, 'dtype', '')}{shape}"
        return f"{kind}:{zlib.crc32(batch.tobytes())}"  # of NumPy, or an image
    if isinstance(batch, (list, tuple)):
        return f"{type(batch).__name__}(" + ",".join(_outline(v, depth) for v in batch) + ")"
    named = _named_in(batch) if depth else {}
    if named or isinstance(batch, Mapping):
        return "{" + ",".join(f"{k}:{_outline(v, depth - 1)}" for k, v in named.items()) + "}"
    said = repr(batch)
    return type(batch).__name__ if " at 0x" in said else said  # an address is no content
