"""Which of several masters leads: the scheduler and the controllers run there.

The leader holds a key in the store under a lease that it keeps alive, which writes nothing. When
it dies the lease ends and the next master takes the key; when it is told to stop it gives the key
back at once. Time alone cannot prove that one leads (a process may be frozen between two lines),
so every write of a leader carries its key as a compare of the same transaction (``Fence``): what a
deposed leader still sends is refused by the store itself. See Kleppmann, "How to do distributed
locking", 2016, on fencing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import structlog

from k8slite.api.errors import Unavailable
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.store.base import (
    Check,
    Create,
    KeyExists,
    KeyValue,
    LeaseGone,
    Mismatch,
    Op,
    Store,
    StoreError,
    StoreEvent,
    Update,
)
from k8slite.store.cache import WatchCache

log = structlog.get_logger()

PREFIX = "/registry/leases/elections/"
#: Seconds without a sign of life after which another master may lead.
TTL = 8.0
#: Parts of the ttl: between two signs of life, and after which the leader itself gives up.
_RENEW, _GIVE_UP = 0.25, 0.75
_RETRY = Backoff(initial=0.2, maximum=2.0)

#: What a leader does; called anew for every term, cancelled when the term ends.
Lead = Callable[[], Awaitable[None]]


class Deposed(Exception):
    """The lead is lost."""


class Fence:
    """The proof of one term, to be carried by its writes."""

    def __init__(self, key: str, revision: int) -> None:
        self.key = key
        #: Whatever earlier leaders wrote, they wrote before this revision.
        self.revision = revision
        self.fallen = False

    def op(self) -> Op:
        """The compare that makes a transaction part of this term. Raises Unavailable."""
        if self.fallen:
            raise Unavailable("this master does not lead any more", retry_after=1)
        return Check(self.key, self.revision)


class Election:
    """One candidate, ``identity`` (its address and port: no two processes share it).

    ``leader`` is the identity of whoever leads, "" when nobody does.
    """

    def __init__(
        self,
        store: Store,
        cache: WatchCache,
        clock: Clock,
        identity: str,
        *,
        name: str = "control-plane",
        ttl: float = TTL,
    ) -> None:
        self._store = store
        self._clock = clock
        self._identity = identity
        self._key = PREFIX + name
        self._ttl = ttl
        self._news = asyncio.Event()
        self.leader = ""
        #: Of the present term; None when another master leads.
        self.fence: Fence | None = None
        self._cache = cache
        cache.watch_prefix(self._key, self._on_event)

    def _on_event(self, event: StoreEvent) -> None:
        self.leader = "" if event.value is None else _holder(event.value)
        self._news.set()

    async def run(self, lead: Lead) -> None:
        """Stand for election until cancelled. A ``lead`` that fails or returns is raised here."""
        failures = 0
        while True:
            self._news.clear()
            try:
                if not await self._stand(lead):
                    # A deletion wakes us; the look after a whole ttl is for news that got lost.
                    await self._clock.wait(self._news, self._ttl)
                failures = 0
            except StoreError as error:
                failures += 1
                log.warning("election", error=str(error))
                await self._clock.sleep(_RETRY.delay(failures))

    async def _stand(self, lead: Lead) -> bool:
        """Take the key if nobody else has it, and lead; False when somebody does."""
        there = await self._store.get(self._key)
        if there is not None and _holder(there.value) != self._identity:
            return False
        lease = await self._store.grant(self._ttl)
        sent = self._clock.monotonic()
        try:
            revision = await self._store.commit([self._claim(there, lease)])
        except (KeyExists, Mismatch):
            await self._store.revoke(lease)
            return False
        await self._term(lease, revision, sent, lead)
        return True

    def _claim(self, there: KeyValue | None, lease: int) -> Op:
        value = json.dumps({"holder": self._identity, "since": self._clock.stamp()}).encode()
        if there is None:
            return Create(self._key, value, lease)
        # Our own from a former life, or from a claim whose answer was lost.
        return Update(self._key, value, there.mod_revision, lease)

    async def _term(self, lease: int, revision: int, sent: float, lead: Lead) -> None:
        fence = self.fence = Fence(self._key, revision)
        log.info("leads", role="election", identity=self._identity)
        try:
            async with asyncio.TaskGroup() as term:
                term.create_task(forever("lead", self._lead(fence, lead)), name="lead")
                term.create_task(self._keep(lease, sent), name="lead-lease")
        except* Deposed as lost:
            log.warning("leads no more", role="election", reason=str(lost.exceptions[0]))
        finally:
            fence.fallen = True
            self.fence = None
            await self._step_down(lease)

    async def _lead(self, fence: Fence, lead: Lead) -> None:
        """Begin with the last word of the leader before, or its work would be done twice."""
        await self._cache.wait_for(fence.revision)
        await lead()

    async def _keep(self, lease: int, renewed: float) -> None:
        """Give signs of life. Raises Deposed once nobody can be sure that we lead."""
        while True:
            await self._clock.sleep(self._ttl * _RENEW)
            begun = self._clock.monotonic()
            left = renewed + self._ttl * _GIVE_UP - begun
            try:
                async with asyncio.timeout(max(0.0, left)):
                    await self._store.keep_alive(lease)
                renewed = begun
            except LeaseGone:
                raise Deposed("the lease ended") from None
            except TimeoutError:
                raise Deposed("the store was silent for too long") from None
            except StoreError as error:
                if self._clock.monotonic() - renewed >= self._ttl * _GIVE_UP:
                    raise Deposed(f"the store is in trouble: {error}") from None

    async def _step_down(self, lease: int) -> None:
        """Let the next master begin at once, if the store can be told."""
        try:
            async with asyncio.timeout(1.0):
                await self._store.revoke(lease)
        except (StoreError, TimeoutError) as error:
            log.info("lease left to end", role="election", reason=str(error))


def _holder(value: bytes) -> str:
    try:
        return str(json.loads(value)["holder"])
    except (ValueError, KeyError, TypeError):
        return "unknown"
