"""What services are told of their addresses: events, a few a minute for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Protocol

import structlog

from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import Object
from k8slite.client.base import Informer
from k8slite.decide.announcing import Offer
from k8slite.kit.clock import Clock

log = structlog.get_logger()

#: So many events on one address within so many seconds; the rest is in the log alone.
MOST, WITHIN = 10, 60.0


class Recorder(Protocol):
    """What is asked of ``client.events.EventRecorder``."""

    def event(self, obj: Object, reason: str, message: str, type: str = "Normal") -> None: ...


class Teller:
    def __init__(
        self, recorder: Recorder, services: Informer[Service], clock: Clock, node: str
    ) -> None:
        self._recorder = recorder
        self._services = services
        self._clock = clock
        self._node = node
        self._told: dict[str, deque[float]] = {}

    def announced(self, offer: Offer, way: str, where: str) -> None:
        if way == "arp" and ":" in offer.address:
            way = "ndp"  # what IPv6 has for it
        log.info("address announced", role="announcer", key=offer.address, way=way, where=where)
        text = f"{offer.address} is announced by {way.upper()} from node {self._node} ({where})"
        self._event(offer, "AddressAnnounced", text)

    def withdrawn(self, offer: Offer | None, address: str, why: str) -> None:
        log.info("address withdrawn", role="announcer", key=address, why=why)
        if offer is not None:
            text = f"node {self._node} announces {address} no longer: {why}"
            type = "Warning" if not offer.ready else "Normal"
            self._event(offer, "AddressWithdrawn", text, type)

    def trouble(self, offered: Mapping[str, Offer], why: str) -> None:
        for offer in offered.values():
            text = f"node {self._node} cannot announce {offer.address}: {why}"
            self._event(offer, "AddressNotAnnounced", text, "Warning")

    def contested(self, offer: Offer, what: str) -> None:
        self._event(offer, "AddressClaimedElsewhere", what, "Warning")

    def _event(self, offer: Offer, reason: str, text: str, type: str = "Normal") -> None:
        now = self._clock.monotonic()
        told = self._told.setdefault(offer.address, deque(maxlen=MOST))
        if len(told) == MOST and now < told[0] + WITHIN:
            return
        told.append(now)
        for key in offer.services:
            service = self._services.get(key)
            if service is not None:
                self._recorder.event(service, reason, text, type)
