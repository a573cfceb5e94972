"""The contract of a netfilter edge: make the kernel's nat table agree with the desired rules.

Two edges pass one contract suite: ``netfilter.iptables`` (python-iptables, the legacy tables) and
``netfilter.restore`` (iptables-nft, for kernels without them). An edge owns the chains
``KUBE-PORTALS-*`` and ``KUBE-NODEPORT-*`` and the rules that jump to them, and nothing else.

Everything blocking happens on a thread of the edge's own (law 7). Calls are taken one at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from k8slite.kit.clock import Clock
from k8slite.netfilter.portals import Change, Desired

R = TypeVar("R")

#: The lock that every iptables tool takes while it changes the legacy tables (xshared.c).
XTABLES_LOCK = Path("/run/xtables.lock")


class NetfilterError(Exception):
    """The rules could not be changed; nothing was changed. The text says what to do."""


class Unsupported(NetfilterError):
    """This kernel or this host does not have what the edge needs."""


class NotPermitted(NetfilterError):
    """The process may not change the host's netfilter rules (it lacks CAP_NET_ADMIN)."""


class Locked(NetfilterError):
    """Another tool holds the tables; try again."""


class Edge(Protocol):
    """What the proxy asks of netfilter."""

    @property
    def name(self) -> str:
        """For logs: which tables the edge writes."""
        ...

    @property
    def chain_room(self) -> int | None:
        """How many claims its chains take (``DesiredRules``): None for all, as it has no table."""
        ...

    async def probe(self) -> None:
        """Find out whether the edge can work here. Raises NetfilterError when not."""
        ...

    async def sync(self, desired: Desired) -> Change:
        """Make what is ours hold exactly its part of ``desired`` and be jumped to; what is stale
        or foreign there goes, what is right is left untouched. Returns what was changed."""
        ...

    async def change(self, change: Change) -> None:
        """Apply a difference to what the last ``sync`` or ``change`` left. Raises Drifted when
        somebody else changed our rules meanwhile: then ``sync``."""
        ...

    async def intact(self) -> bool:
        """Whether our rules are still as we left them; cheap enough to ask every few seconds."""
        ...

    async def remove(self) -> list[str]:
        """Take away our chains and the jumps to them: the listing is as if we had never been.
        Returns the chains that stay, empty, because somebody else's rule leads to them."""
        ...

    async def close(self) -> None:
        """Give back the thread. The rules stay."""
        ...


class Drifted(NetfilterError):
    """The kernel's rules are not those that were left there."""


class Thread:
    """One thread with a name, for libraries that block or that must stay on one thread."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, function: Callable[[], R]) -> R:
        """``function`` on the thread. Cancelling the caller does not stop what was begun, but the
        next call waits for it: there is one thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        self._pool.shutdown(wait=True)


@contextmanager
def xtables_lock(clock: Clock, wait: float, path: Path = XTABLES_LOCK) -> Iterator[None]:
    """Hold the iptables tools' lock, waiting at most ``wait`` seconds. Raises Locked.

    python-iptables does not take it, and two writers of a legacy table would undo each other:
    a commit replaces the whole table.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotPermitted(f"cannot open {path}: {error.strerror}") from error
    try:
        deadline = clock.monotonic() + wait
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.monotonic() >= deadline:
                    raise Locked(
                        f"another tool holds {path} for more than {wait:g} s; end it"
                    ) from None
                select.select([], [], [], 0.005)  # a pause on a thread that may block
        yield
    finally:
        os.close(fd)
