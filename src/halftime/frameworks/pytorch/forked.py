"""A question that a fork of this process answers: what is opened for it is closed with it."""

from __future__ import annotations

import os
import pickle
import select
import signal
from typing import Any, Callable

_LONGEST_SECONDS = 120.0


def in_a_fork(torch: Any, call: Callable[[], Any]) -> Any:
    """What `call` gives, computed by a fork. Raises RuntimeError where it fails or takes too long.

    As a DataLoader's workers, the fork computes on one thread: those of the parent are not there.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            torch.set_num_threads(1)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps(call()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], _LONGEST_SECONDS)
        if not ready:
            os.kill(process, signal.SIGKILL)
        answer = pipe.read()
    os.waitpid(process, 0)
    if not answer:
        raise RuntimeError("its samples could not be looked at in a process of their own")
    return pickle.loads(answer)
