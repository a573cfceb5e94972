"""One write on its way to the store, as admission sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.api.user import User
from k8slite.store.base import Op
from k8slite.store.cache import Entry

T = TypeVar("T", bound=Object)

CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"


class Objects(Protocol):
    """What a plugin may ask of the registry that is reviewing a write."""

    def get(self, kind: Kind[T], namespace: str, name: str) -> Entry[T]: ...

    async def create(
        self, kind: Kind[T], obj: T, *, user: User, namespace: str = "", dry_run: bool = False
    ) -> Entry[T]: ...

    async def read_barrier(self) -> None: ...


class Request(Generic[T]):
    """``obj`` is the object to be written (on DELETE: marked, or the last state), ``entry`` what is
    there (None on CREATE).

    What must be true, or written, in the same transaction is collected here: ``checks`` are
    fixed operations; each of ``stakes`` is asked for its operations at every attempt, may replace
    ``obj`` and may refuse. ``lost`` holds the store keys that an earlier attempt found taken, or
    missing, against what the cache says.
    ``lock`` is held from the stakes to the end of the transaction.
    """

    __slots__ = (
        "checks", "dry_run", "entry", "kind", "lock", "lost", "obj", "operation", "registry",
        "stakes", "subresource", "user",
    )  # fmt: skip

    def __init__(
        self,
        registry: Objects,
        operation: str,
        kind: Kind[T],
        obj: T,
        entry: Entry[T] | None,
        user: User,
        *,
        subresource: str = "",
        dry_run: bool = False,
        lost: set[str] | None = None,
    ) -> None:
        self.registry = registry
        self.operation = operation
        self.kind = kind
        self.obj = obj
        self.entry = entry
        self.user = user
        self.subresource = subresource
        self.dry_run = dry_run
        self.checks: list[Op] = []
        self.stakes: list[Callable[[Request[Any]], Iterable[Op]]] = []
        self.lost: set[str] = set() if lost is None else lost
        self.lock: asyncio.Lock | None = None

    @property
    def old(self) -> T | None:
        """The object that is there."""
        return None if self.entry is None else self.entry.object

    def renew(self) -> None:
        """Forget what an attempt collected: the next one is reviewed afresh."""
        self.checks.clear()
        self.stakes.clear()
        self.lock = None

    def further_ops(self) -> list[Op]:
        """Ask every stake; the operations beside that on the object itself."""
        ops = list(self.checks)
        for stake in self.stakes:
            ops.extend(stake(self))
        return ops
