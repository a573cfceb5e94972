"""Connecting from the client's own address: for whom that is possible, and what it takes.

The pod's answer must come back to this node, so the endpoint must be a pod of this node: from
another node it would go straight to the client. And the client must not be such a pod itself: on
one bridge the answer would not pass by us. Everybody else is connected to from this node's address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import structlog

from k8slite.config import Settings
from k8slite.decide.balancing import Endpoint
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.netfilter.edge import NetfilterError
from k8slite.network.netlink import NetworkError
from k8slite.network.routes import BRIDGE
from k8slite.network.transparent import TransparentEdge
from k8slite.network.uplink import network_at

log = structlog.get_logger()

#: Seconds between two looks at whether the way back is still there.
LOOK_EVERY = 2.0

_BACKOFF = Backoff(initial=0.5, maximum=15.0)
_LOOPBACK = IPv4Network("127.0.0.0/8")


class TransparentPath:
    """Run with ``run()``. The way back is made when the first service wants it, and kept right
    until the next start, for connections outlive what their service wants.

    ``tell(service_key, text)`` says why a service that wants it cannot have it, with "" that it
    can; it is called again and again.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        tell: Callable[[str, str], None],
        *,
        bridge: str = BRIDGE,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self.trouble = ""
        self._clock = clock
        self._tell = tell
        self._bridge = bridge
        self._look_every = look_every
        self._record = _record(settings)
        self._edge = TransparentEdge()
        self._wanted: set[str] = set()  # keys of services
        self._begun = asyncio.Event()
        self._pods: IPv4Network | None = None  # while the way back is there

    @property
    def ready(self) -> bool:
        return self._pods is not None

    def want(self, service: str, wanted: bool) -> None:
        """Whether the service of this key asks for it."""
        if not wanted:
            if service in self._wanted:
                self._wanted.discard(service)
                self._tell(service, "")
        elif service not in self._wanted:
            self._wanted.add(service)
            self._begun.set()
            self._tell(service, self.trouble)

    def leads(self, client: str, endpoint: Endpoint) -> bool:
        """Would the answer of ``endpoint`` to the address ``client`` come to us?"""
        pods = self._pods
        if pods is None or ":" in endpoint.ip or ":" in client:
            return False
        address = IPv4Address(client)
        return IPv4Address(endpoint.ip) in pods and address not in pods and address not in _LOOPBACK

    async def run(self) -> None:
        """Until cancelled; the way back stays."""
        failures = 0
        try:
            if not self._begun.is_set() and self._record.exists():
                await self._remove()
            await self._begun.wait()
            while True:
                try:
                    await self._converge()
                    failures = 0
                    wait = self._look_every
                except (NetfilterError, NetworkError, OSError) as error:
                    failures += 1
                    wait = _BACKOFF.delay(failures)
                    self._fail(str(error))
                for service in self._wanted:
                    self._tell(service, self.trouble)
                await self._clock.sleep(wait)
        finally:
            self._pods = None
            await self._edge.close()

    async def _converge(self) -> None:
        if not self._record.exists():
            self._record.parent.mkdir(parents=True, exist_ok=True)
            self._record.touch()  # before there is anything to take away
        changed = await self._edge.converge()
        self._pods = network_at(self._bridge)
        self.trouble = ""
        if changed:
            log.info("way back for transparent connections", role="proxy", what=changed)

    async def _remove(self) -> None:
        """What an earlier run left, and nobody wants any more."""
        try:
            await self._edge.remove()
            self._record.unlink(missing_ok=True)
        except (NetfilterError, NetworkError, OSError) as error:
            log.warning("leftovers stay", role="proxy", error=str(error))

    def _fail(self, text: str) -> None:
        self._pods = None
        if text != self.trouble:
            log.error("no way back for transparent connections", role="proxy", error=text)
            self.trouble = text


async def remove(settings: Settings) -> list[str]:
    """Take the way back away; says what went. Raises NetfilterError, NetworkError."""
    edge = TransparentEdge()
    try:
        removed = await edge.remove()
    finally:
        await edge.close()
    _record(settings).unlink(missing_ok=True)
    return removed


def _record(settings: Settings) -> Path:
    """There while there may be something to take away."""
    return settings.data_dir / "transparent"
