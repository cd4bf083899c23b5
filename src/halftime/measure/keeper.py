"""The process between us and the command: ends and sweeps everything below it.

Run as `python -I -S keeper.py JOB.json CONTROL_FD`. Standard library only. It is a subreaper, so
orphans and new sessions stay below it; when the control pipe says so or closes (we were killed),
it kills them all. The command itself runs in a private working folder where the job asks for one.
Speaks JSON lines on stdout: {"started": …}, {"ended": …}.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import shutil
import signal
import struct
import sys
import time
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
# Everything that writes: files, folders, links, truncation (bit 14 from ABI 3, bit 13 from ABI 2).
_WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))
_O_PATH = 0o10000000
_TAIL_BYTES = 65536


def main() -> int:
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    os.unlink(sys.argv[1])
    control = int(sys.argv[2])
    _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    streams = {name: os.pipe() for name in ("stdout", "stderr", "setup")}
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        _become_the_command(job, control, streams)
    try:
        for _, writing in streams.values():
            os.close(writing)
        _say(started=child, time=started)
        log = {
            streams["stdout"][0]: _Log(job["stdout"], job["log_bytes"]),
            streams["stderr"][0]: _Log(job["stderr"], job["log_bytes"]),
        }
        setup_failure = _read_all(streams["setup"][0])
        memory = _Memory()
        status, usage = _watch(child, control, log, memory)
        ended = time.perf_counter()
    finally:
        _sweep()  # whatever went wrong here, nothing goes on below us
    for stream, kept in log.items():
        _drain(stream, kept)
        kept.close()
    shutil.rmtree(job["scratch"], ignore_errors=True)
    _say(
        ended=status,
        time=ended,
        peak_bytes=max(usage.ru_maxrss * 1024 if usage else 0, memory.peak_bytes),
        setup_failure=setup_failure,
    )
    return 0


def _watch(
    child: int, control: int, log: dict[int, _Log], memory: _Memory
) -> tuple[int | None, resource.struct_rusage | None]:
    """Copy output until the child has ended or the control pipe speaks; reap what is orphaned."""
    wake_reading, wake_writing = os.pipe()
    os.set_blocking(wake_writing, False)
    signal.set_wakeup_fd(wake_writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    open_streams = set(log)
    while True:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return None, None
            if pid == 0:
                break
            if pid == child:
                return os.waitstatus_to_exitcode(status), usage
        memory.look()
        ready, _, _ = select.select([control, wake_reading, *open_streams], [], [], 1.0)
        if control in ready:
            return None, None
        if wake_reading in ready:
            os.read(wake_reading, 4096)
        for stream in open_streams & set(ready):
            if not log[stream].take(stream):
                open_streams.discard(stream)


class _Memory:
    """The most memory that all processes below held together, looked at once a second."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._next = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 1.0
        below = _below(os.getpid())
        if len(below) > 1:  # of one process alone the kernel itself keeps the peak
            self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, below)))


def _proportional_bytes(pid: int) -> int:
    """The memory of a process, pages shared by n counted as 1/n of each."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


class _Log:
    """The first part of a stream, and its last lines; nothing in between is kept."""

    def __init__(self, path: str, most: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._left = most
        self._tail = b""

    def take(self, stream: int) -> bool:
        try:
            piece = os.read(stream, 1 << 16)
        except BlockingIOError:
            return False
        if not piece:
            return False
        head, rest = piece[: self._left], piece[self._left :]
        self._left -= len(head)
        try:
            os.write(self._file, head)
        except OSError:
            self._left = 0
        if rest:
            self._tail = (self._tail + rest)[-_TAIL_BYTES:]
        return True

    def close(self) -> None:
        if self._tail:
            try:
                os.write(self._file, b"\n[halftime: output over the limit is left out here]\n")
                os.write(self._file, self._tail)
            except OSError:
                pass
        os.close(self._file)


def _drain(stream: int, kept: _Log) -> None:
    os.set_blocking(stream, False)
    while kept.take(stream):
        pass


def _sweep() -> None:
    """Kill everything below us until nothing is left, and unlink its shared memory."""
    swept: set[int] = set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        below = _below(os.getpid())
        for pid in below:
            swept.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(0.005)
    for name in _listed("/dev/shm"):
        parts = name.split("_")
        if parts[0] == "torch" and len(parts) > 1 and parts[1].isdigit() and int(parts[1]) in swept:
            with contextlib.suppress(OSError):
                os.unlink(f"/dev/shm/{name}")


def _below(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in _listed("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rsplit(b")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    found, waiting = [], [root]
    while waiting:
        parent = waiting.pop()
        children = [pid for pid, above in parents.items() if above == parent]
        found.extend(children)
        waiting.extend(children)
    return found


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read_all(stream: int) -> str:
    """What the child said before it became the command; empty where all went well."""
    said = b""
    while True:
        piece = os.read(stream, 4096)
        if not piece:
            return said.decode("utf-8", "replace")
        said += piece


def _become_the_command(
    job: dict[str, Any], control: int, streams: dict[str, tuple[int, int]]
) -> None:
    try:
        os.close(control)
        stdin = os.open(job["stdin"], os.O_RDONLY)
        os.dup2(stdin, 0)
        os.dup2(streams["stdout"][1], 1)
        os.dup2(streams["stderr"][1], 2)
        setup = streams["setup"][1]
        os.set_inheritable(setup, False)
        if job["overlays"]:
            _mount(job["overlays"], job["keep"])
        if job["writable"] is not None:
            _deny_writes_outside(job["writable"], bool(job["overlays"]))
        os.chdir(job["cwd"])
        # Should the keeper itself be killed; the kernel clears this where namespaces are made.
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.execvpe(job["argv"][0], job["argv"], job["environment"])
    except BaseException as error:
        os.write(streams["setup"][1], f"{type(error).__name__}: {error}".encode())
    os._exit(127)


def _mount(overlays: list[dict[str, str]], keep: list[str]) -> None:
    """Lay a private upper folder over each project folder, in a mount namespace of our own."""
    libc = _libc()
    user, group = os.geteuid(), os.getegid()
    if user != 0 or libc.unshare(_CLONE_NEWNS) != 0:
        _check(libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER), "unshare")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "make mounts private")
    # Opened before anything is covered, to be put back on top of the overlays.
    kept = [(path, os.open(path, _O_PATH)) for path in keep if os.path.isdir(path)]
    opened = [
        {name: f"/proc/self/fd/{os.open(path, _O_PATH)}" for name, path in overlay.items()}
        for overlay in overlays
    ]
    for overlay, layers in zip(overlays, opened, strict=True):
        options = ",".join(f"{name}dir={layers[name]}" for name in ("lower", "upper", "work"))
        over = overlay["lower"].encode()
        if libc.mount(b"overlay", over, b"overlay", 0, options.encode()) != 0:
            in_user_namespace = (options + ",userxattr").encode()
            _check(
                libc.mount(b"overlay", over, b"overlay", 0, in_user_namespace),
                f"overlay over {overlay['lower']}",
            )
    for path, descriptor in kept:
        source = f"/proc/self/fd/{descriptor}".encode()
        _check(libc.mount(source, path.encode(), None, _MS_BIND | _MS_REC, None), f"keep {path}")
        os.close(descriptor)


def _deny_writes_outside(writable: list[str], in_overlay: bool) -> None:
    """Landlock: reading stays free, writing is allowed below these folders alone."""
    if not denies_writes(in_overlay):
        return
    libc, version = _libc(), landlock_version()
    handled = _WRITES | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    attributes = struct.pack("Q", handled)
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    _check(ruleset, "landlock_create_ruleset")
    for path in writable:
        try:
            opened = os.open(path, _O_PATH)
        except OSError:
            continue
        allowed = handled if os.path.isdir(path) else handled & (1 << 1 | 1 << 14)
        rule = struct.pack("=Qi", allowed, opened)
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(opened)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")


def denies_writes(in_overlay: bool) -> bool:
    """Whether writing elsewhere is denied here.

    Version 1 denies moving a file from folder to folder too, which scripts and caches do: in an
    overlay, which protects the project by itself, it is left out.
    """
    return landlock_version() >= (2 if in_overlay else 1)


def landlock_version() -> int:
    """Of the kernel's interface; under 1 where it has none."""
    return int(_libc().syscall(_LANDLOCK_CREATE, None, 0, 1))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {errno.errorcode.get(number, number)}")


def _say(**fields: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked may be gone: the control pipe tells
        os.write(1, (json.dumps(fields) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
