"""UDP flows that are older than their portal's rules.

A tracked flow keeps the way that its first datagram found as long as it is used. Clients that sent
before there was a service, or to the listener of an agent that is gone, would never meet the rules;
so such flows end as soon as the rules are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from k8slite.kit.clock import Clock
from k8slite.netfilter.conntrack import Address, forget_flows
from k8slite.netfilter.edge import NetfilterError

log = structlog.get_logger()

#: All flows are read for it, so not in quicker succession than this many seconds.
PAUSE = 1.0


class Elders:
    """Run with ``run()``; tell it of new portals with ``fresh``, and when rules are ``written``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fresh: dict[Address, int] = {}  # portals with new rules, and their listeners
        self._written = asyncio.Event()
        self._forgetting = False

    @property
    def idle(self) -> bool:
        """No flow goes by older rules."""
        return not self._fresh and not self._forgetting

    def fresh(self, portals: Mapping[Address, int]) -> None:
        """Portals (address, port) whose rules are about to change, and the port of the listener
        that answers from now on."""
        self._fresh |= portals

    def written(self) -> None:
        """All rules that were wanted are in the kernel."""
        self._written.set()

    async def run(self) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            if not self._fresh:
                continue
            fresh, self._fresh = self._fresh, {}
            self._forgetting = True
            try:
                await asyncio.to_thread(forget_flows, fresh)
            except NetfilterError as error:
                log.warning("flows not ended", role="proxy", error=str(error))
            finally:
                self._forgetting = False
            await self._clock.sleep(PAUSE)
