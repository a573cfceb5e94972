"""Store leases of the API server: signs of life that cost no disk write, and events that expire.

A holder's key lies under ``/registry/leases/<group>/<name>`` on a lease of its own. Keeping the
lease alive writes nothing; when the signs stop, the store deletes the key and every watcher of the
prefix learns of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from k8slite.api.errors import Unavailable, UnknownOutcome
from k8slite.kit.clock import Clock
from k8slite.store.base import LeaseGone, OutcomeUnknown, Put, Store, StoreEvent, StoreUnavailable
from k8slite.store.cache import WatchCache

_PREFIX = "/registry/leases/"
#: Events whose lives end within the same minute share a lease.
_BUCKET = 60.0


class EventLeases:
    """The lease under which what expires is written just now: a new one every minute of writing."""

    def __init__(self, store: Store, clock: Clock, ttl: float) -> None:
        self._store = store
        self._clock = clock
        self._ttl = ttl
        self._bucket = min(_BUCKET, ttl)
        self._granted = asyncio.Lock()
        self._lease = 0
        self._until = float("-inf")

    async def current(self) -> int:
        """A lease that lasts at least the ttl. Raises StoreUnavailable."""
        if self._lease and self._clock.monotonic() < self._until:
            return self._lease
        async with self._granted:
            now = self._clock.monotonic()
            if not self._lease or now >= self._until:
                self._lease = await self._store.grant(self._ttl + self._bucket)
                self._until = now + self._bucket
            return self._lease

    def forget(self) -> None:
        """The lease is gone from the store: grant another one."""
        self._lease = 0


class _Hold(NamedTuple):
    """The lease that a key is on since ``revision``."""

    lease: int
    revision: int


class Holders:
    """Who gave a sign of life lately, of one group (``nodes``, ``masters``).

    Implements ``client.base.NodeLeases`` for the group of nodes.
    """

    def __init__(self, store: Store, cache: WatchCache, group: str, ttl: float) -> None:
        self._store = store
        self._prefix = f"{_PREFIX}{group}/"
        self.ttl = ttl
        self._leases: dict[str, _Hold] = {}
        self._alive: dict[str, int] = {}  # name → revision of its key
        self._handlers: dict[object, Callable[[str], None]] = {}
        cache.watch_prefix(self._prefix, self._on_event)

    def alive(self, name: str) -> bool:
        return name in self._alive

    def names(self) -> list[str]:
        """All that are alive, sorted."""
        return sorted(self._alive)

    def subscribe(self, handler: Callable[[str], None]) -> Callable[[], None]:
        """``handler(name)`` whenever the answer for ``name`` may have changed."""
        token = object()
        self._handlers[token] = handler

        def unsubscribe() -> None:
            self._handlers.pop(token, None)

        return unsubscribe

    async def heartbeat(self, name: str) -> None:
        """``name`` is alive. Writes only when its lease has ended or is not known to the store.

        Raises Unavailable, UnknownOutcome.
        """
        try:
            hold = self._leases.get(name) or await self._known(name)
            if hold is not None:
                try:
                    await self._store.keep_alive(hold.lease)
                except LeaseGone:
                    self._leases.pop(name, None)
                else:
                    self._remember(name, hold)
                    return
            lease = await self._store.grant(self.ttl)
            put = Put(self._prefix + name, b'{"holder":true}', lease)
            self._remember(name, _Hold(lease, await self._store.commit([put])))
        except StoreUnavailable as error:
            raise Unavailable(f"the store cannot be reached: {error}", retry_after=1) from error
        except OutcomeUnknown as error:
            raise UnknownOutcome(f"the store did not answer: {error}") from error

    async def leave(self, name: str) -> None:
        """``name`` gives no more signs of life, and knows it: nobody need wait for the silence.

        Raises Unavailable.
        """
        hold = self._leases.pop(name, None)
        if hold is not None:
            try:
                await self._store.revoke(hold.lease)
            except (StoreUnavailable, OutcomeUnknown) as error:
                raise Unavailable(f"the store cannot be reached: {error}") from error

    async def _known(self, name: str) -> _Hold | None:
        """What ``name`` holds by another process, or one before this."""
        found = await self._store.get(self._prefix + name)
        return None if found is None or not found.lease else _Hold(found.lease, found.mod_revision)

    def _remember(self, name: str, hold: _Hold) -> None:
        """Unless another process has put the key on a lease of its own since: keeping ours alive
        would then keep nothing."""
        if self._alive.get(name, 0) <= hold.revision:
            self._leases[name] = hold

    def _on_event(self, event: StoreEvent) -> None:
        name = event.key.removeprefix(self._prefix)
        if event.deleted:
            self._alive.pop(name, None)
            self._leases.pop(name, None)
        else:
            self._alive[name] = event.revision
            hold = self._leases.get(name)
            if hold is not None and hold.revision < event.revision:
                del self._leases[name]
        for handler in tuple(self._handlers.values()):
            handler(name)
