"""The client protocol: how every shell reads and writes objects.

Two implementations: in-process (``roles.apiserver.local``, which skips HTTP and never admission)
and HTTP (``client.http``). Errors are those of ``api.errors``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from k8slite.api.meta import Object
from k8slite.api.scheme import Kind

T = TypeVar("T", bound=Object)


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    items: tuple[T, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """``type`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: T


class Client(Protocol):
    """Typed verbs over kinds. ``namespace`` is "" for root-scoped kinds."""

    async def get(self, kind: Kind[T], name: str, namespace: str = "") -> T: ...

    async def list(
        self, kind: Kind[T], namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> Listing[T]: ...

    def watch(
        self,
        kind: Kind[T],
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        resource_version: str = "",
    ) -> AsyncIterator[WatchEvent[T]]:
        """Events after ``resource_version`` ("": from now, beginning with all that is there).
        Ends when the server ends it; raises Expired when the version is too old."""
        ...

    async def create(self, obj: T) -> T:
        """Create in ``obj.metadata.namespace``; returns what was stored."""
        ...

    async def update(self, obj: T, *, subresource: str = "") -> T:
        """Compare-and-set on ``obj.metadata.resource_version`` (empty: unconditional).
        ``subresource="status"`` writes the status alone. Raises Conflict."""
        ...

    async def patch(
        self,
        kind: Kind[T],
        name: str,
        namespace: str,
        patch: dict[str, Any],
        *,
        subresource: str = "",
    ) -> T:
        """A JSON merge patch (RFC 7386) on the wire form of the object."""
        ...

    async def delete(
        self,
        kind: Kind[T],
        name: str,
        namespace: str = "",
        *,
        grace_seconds: int | None = None,
        uid: str | None = None,
        propagation: str = "",
    ) -> None:
        """``uid`` is a precondition. ``grace_seconds=0`` removes a pod's object at once.
        ``propagation`` is "", Background, Foreground or Orphan."""
        ...

    async def bind(self, namespace: str, pod: str, node: str) -> None:
        """Say that ``pod`` runs on ``node`` (the binding API). Raises Conflict when bound."""
        ...

    async def finalize(self, obj: T) -> T:
        """Write a namespace's ``spec.finalizers`` (the /finalize subresource)."""
        ...

    async def heartbeat(self, node: str) -> float:
        """``node`` is alive, and counts as such for so many seconds. Costs no disk write."""
        ...


#: ``handler(old, new)``: old is None on add, new is None on delete.
Handler = Callable[[T | None, T | None], None]


class Informer(Protocol[T]):
    """A local, eventually current copy of all objects of a kind (or a filtered part).

    Objects are shared and frozen. Handlers run on the loop, synchronously, in revision order, and
    only put keys on queues. ``key`` is ``namespace/name`` or ``name``.
    """

    @property
    def kind(self) -> Kind[T]: ...

    @property
    def synced(self) -> bool: ...

    async def wait_synced(self) -> None: ...

    def get(self, key: str) -> T | None: ...

    def items(self) -> Iterable[T]: ...

    def in_namespace(self, namespace: str) -> Iterable[T]: ...

    def index(self, name: str, keys_of: Callable[[T], Iterable[str]]) -> None:
        """Keep an index; ``by_index(name, value)`` then costs no scan. Same name: same index."""
        ...

    def by_index(self, name: str, value: str) -> list[T]: ...

    def subscribe(self, handler: Handler[T]) -> Callable[[], None]:
        """Call ``handler`` for every object there is (as adds) and every change from now on;
        returns the way to unsubscribe."""
        ...


class Informers(Protocol):
    """Where a process gets its informers: one per kind, shared."""

    def of(self, kind: Kind[T]) -> Informer[T]: ...


class NodeLeases(Protocol):
    """Which nodes gave a sign of life lately; told by the store's leases."""

    def alive(self, node: str) -> bool: ...

    def subscribe(self, handler: Callable[[str], None]) -> Callable[[], None]:
        """``handler(node)`` whenever the answer for ``node`` may have changed."""
        ...
