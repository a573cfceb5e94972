"""UDP flows that are older than their portal's rules.

A tracked flow keeps the way that its first datagram found as long as it is used. Clients that sent
before there was a service, or to the listener of an agent that is gone, or to an endpoint that the
kernel leads to no longer, would never meet the rules; so such flows end as soon as the rules are
written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from k8slite.kit.clock import Clock
from k8slite.netfilter.conntrack import Address, Servers, forget_flows, forget_strays
from k8slite.netfilter.edge import NetfilterError
from k8slite.netfilter.portals import Portal

log = structlog.get_logger()

#: Seconds between two searches: so many times as long as the last took, for the kernel goes through
#: all flows for it, but at least and at most so long.
_REST, _PAUSE, _LONGEST = 9, 0.1, 1.0


class Elders:
    """Run with ``run()``; let it ``follow`` every portal, and tell it what is ``written``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fresh: dict[Address, Servers] = {}  # portals with new rules, and who answers
        self._strayed: set[Address] = set()  # portals of TCP whose rules had been missing
        self._written = asyncio.Event()
        self._forgetting = False

    @property
    def idle(self) -> bool:
        """No flow goes by older rules."""
        return not self._fresh and not self._strayed and not self._forgetting

    def follow(self, old: Portal | None, new: Portal | None) -> None:
        """A portal's rules are about to be new ones (None: there are none). A listener's flows end
        by themselves when it does, but not when it has a door less."""
        before = {} if old is None or (new is None and old.listener) else _answered(old)
        narrowed = old is not None and new is not None and old.ranges != new.ranges
        now = _answered(new) if new is not None else {}
        for door in before.keys() - now.keys():
            self._fresh[door] = frozenset()
        for door, servers in now.items():
            had = before.get(door)
            if narrowed or self._fresh.get(door) == frozenset():
                servers = frozenset()  # whoever may still come begins anew
            elif had == servers or (
                isinstance(had, frozenset) and isinstance(servers, frozenset) and had <= servers
            ):
                continue  # nobody's way leads elsewhere now
            self._fresh[door] = servers

    def repaired(self, portals: Iterable[Portal]) -> None:
        """Rules of these had been missing for a while: what began meanwhile never met them."""
        for portal in portals:
            self.follow(None, portal)
            if portal.protocol == "tcp":
                self._strayed |= {(address, portal.port) for address in portal.addresses}

    def written(self) -> None:
        """All rules that were wanted are in the kernel."""
        self._written.set()

    async def run(self) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            if not self._fresh and not self._strayed:
                continue
            fresh, self._fresh = self._fresh, {}
            strayed, self._strayed = self._strayed, set()
            began = self._clock.monotonic()
            self._forgetting = True
            try:
                if fresh:
                    await asyncio.to_thread(forget_flows, fresh)
                if strayed:
                    await asyncio.to_thread(forget_strays, strayed)
            except NetfilterError as error:
                log.warning("flows not ended", role="proxy", error=str(error))
            finally:
                self._forgetting = False
            took = self._clock.monotonic() - began
            await self._clock.sleep(min(_LONGEST, max(_PAUSE, _REST * took)))


def _answered(portal: Portal) -> dict[Address, Servers]:
    """The UDP doors of a portal, and who answers there."""
    if portal.protocol != "udp":
        return {}
    servers: Servers = portal.listener or frozenset((*portal.inside, *portal.outside))
    doors = [(address, portal.port) for address in portal.addresses]
    if portal.node_port:
        doors.append(("", portal.node_port))
    return dict.fromkeys(doors, servers)
