"""The host name of a container that joined a warm sandbox.

A container that joins another's network gets that container's host name from Docker, in a UTS
namespace of its own, and Docker cannot rename a running container. So the name is set from
outside. When is it early enough? runc makes a container in two steps: ``create`` builds the
namespaces, sets the (old) name and leaves the first process waiting before its exec; ``start``
lets it go. Between the two lies the start of one more runc process: measured 13 to 33 ms. The
containerd shim writes ``init.pid`` into the container's bundle right after the first step, so
whoever sees that file and sets the name at once is early.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from k8slite.kit.clock import Clock

CLONE_NEWUTS = 0x04000000

#: How often to look for ``init.pid`` while a start is under way, and for how long; seconds.
_LOOK_EVERY, _LOOK_FOR = 0.002, 30.0


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
    """Sets host names in other UTS namespaces, on a thread of its own (setns moves a thread)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="uts")

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def set_early(self, bundle: Path, name: str) -> bool:
        """Wait for the container of ``bundle`` to be made, then name it before it runs.

        Returns whether it was named; cancel it when the start is over.
        """
        file = bundle / "init.pid"
        deadline = self._clock.monotonic() + _LOOK_FOR
        while self._clock.monotonic() < deadline:
            pid = _read_pid(file)
            if pid:
                return self.set_now(pid, name)
            await self._clock.sleep(_LOOK_EVERY)
        return False

    def set_now(self, pid: int, name: str) -> bool:
        """Name the UTS namespace of process ``pid``; False when it is gone or we may not."""
        # A few microseconds of system calls: waiting for the thread costs less than the loop.
        return self._thread.submit(self._enter_and_set, pid, name.encode()).result()

    def _enter_and_set(self, pid: int, name: bytes) -> bool:
        try:
            namespace = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            own = os.stat("/proc/self/ns/uts")  # of the process, wherever this thread is
            if os.path.samestat(os.fstat(namespace), own):
                return False  # never rename the host
            if self._libc.setns(namespace, CLONE_NEWUTS) != 0:
                return False
            return bool(self._libc.sethostname(name, len(name)) == 0)
        finally:
            os.close(namespace)


def _read_pid(file: Path) -> int:
    try:
        text = file.read_text()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
