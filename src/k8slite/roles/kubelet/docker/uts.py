"""The host name of a container that joined a warm sandbox.

A container that joins another's network gets that container's host name from Docker, in a UTS
namespace of its own, and Docker cannot rename a running container. So the name is set from
outside. When is it early enough? runc makes a container in two steps: ``create`` builds the
namespaces, sets the (old) name and leaves the first process waiting before its exec; ``start``
lets it go. Between the two lies the start of one more runc process: measured 13 to 33 ms. The
containerd shim's file ``init.pid`` appears in the container's bundle right after the first step,
so whoever sees that file and sets the name at once is early.

Being early is proven, not assumed: a process that has not been let go is still called
``runc:[2:INIT]``. Whoever was late hears it, and starts the container anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path

CLONE_NEWUTS = 0x04000000

#: Seconds between looks for ``init.pid`` while a start is under way, and after it is over.
_LOOK_EVERY, _LOOK_AFTER = 0.0005, 0.05
#: Starts that are watched at once; more wait for a thread and would be late.
_THREADS = 16
_WAITING = "runc:["


class Naming(Enum):
    """How it went: before the program ran, after, or not at all (the process is gone)."""

    EARLY = "early"
    LATE = "late"
    MISSED = "missed"


def bundles_beside(pid: int) -> Path | None:
    """The directory that holds containerd's bundles, found from the process of one container.

    The parent of a container's first process is its shim, which works in its bundle.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        parent = stat.rsplit(")", 1)[1].split()[1]
        bundle = os.readlink(f"/proc/{parent}/cwd")
    except (OSError, IndexError):
        return None
    path = Path(bundle).parent
    return path if (Path(bundle) / "init.pid").exists() else None


class HostNames:
    """Sets host names in other UTS namespaces, on threads of its own (setns moves a thread)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._threads = ThreadPoolExecutor(
            _THREADS, thread_name_prefix="uts", initializer=_be_prompt
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def watch(self, bundle: Path, name: str) -> Watch:
        """Begin to watch for the container of ``bundle``; call before it is started."""
        over = threading.Event()
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, self._wait_and_set, bundle / "init.pid", name.encode(), over
        )
        return Watch(future, over)

    def _wait_and_set(self, file: Path, name: bytes, over: threading.Event) -> Naming:
        path = os.fspath(file)
        while not over.wait(_LOOK_EVERY):
            pid = _read_pid(path)
            if pid:
                return self._set(pid, name)
        pid = _read_pid(path)
        return self._set(pid, name) if pid else Naming.MISSED

    def _set(self, pid: int, name: bytes) -> Naming:
        try:
            namespace = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return Naming.MISSED
        try:
            own = os.stat("/proc/self/ns/uts")  # of the process, wherever this thread is
            if os.path.samestat(os.fstat(namespace), own):
                return Naming.MISSED  # never rename the host
            if self._libc.setns(namespace, CLONE_NEWUTS) != 0:
                return Naming.MISSED
            if self._libc.sethostname(name, len(name)) != 0:
                return Naming.MISSED
        finally:
            os.close(namespace)
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith(_WAITING):
                return Naming.EARLY
        return Naming.LATE


class Watch:
    """One container's naming, under way."""

    def __init__(self, future: asyncio.Future[Naming], over: threading.Event) -> None:
        self._future = future
        self._over = over

    async def outcome(self) -> Naming:
        """After the start: how it went."""
        if not self._future.done():
            await asyncio.wait({self._future}, timeout=_LOOK_AFTER)
        self._over.set()
        return await self._future

    def give_up(self) -> None:
        self._over.set()


def _be_prompt() -> None:
    """Run this thread as soon as it wakes, if we may: it sleeps nearly always."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _read_pid(path: str) -> int:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
