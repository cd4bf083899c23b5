"""What a dataset holds open, which forked processes would read from at the same time."""

from __future__ import annotations

import io
import os
import socket
from typing import Any

from .determinism import reachable

_STANDARD_STREAMS = 3
_BY_MODULE = {"sqlite3": "a database connection", "psycopg": "a database connection",
              "psycopg2": "a database connection", "pymysql": "a database connection",
              "h5py": "an open HDF5 file", "lmdb": "an open LMDB database"}  # fmt: skip


def open_handle(dataset: Any) -> str:
    """The first open file or connection that a dataset can reach, in words; '' without one.

    Forks share the position of a file and the stream of a connection, so that one gets what
    another has asked for.
    """
    return next(filter(None, map(_in_words, reachable(dataset))), "")


def _in_words(found: Any) -> str:
    known = _BY_MODULE.get(type(found).__module__.split(".", 1)[0])
    if known:
        return known
    try:
        if isinstance(found, socket.socket):
            return "an open connection" if found.fileno() >= 0 else ""
        if isinstance(found, io.IOBase) and found.readable() and found.seekable():
            name = os.path.basename(str(getattr(found, "name", "")))
            return f"an open file ({name})" if found.fileno() >= _STANDARD_STREAMS else ""
    except (OSError, ValueError):  # closed, or a file in memory
        pass
    return ""
