"""Saying on a service that none of its endpoints answered: now and then, not for every client."""

from __future__ import annotations

from collections.abc import Sequence

from k8slite.api.kinds.service.types import Service
from k8slite.client.base import Informer
from k8slite.decide.balancing import Endpoint
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.telling.troubles import EventRecorder

#: Seconds between two events on one service.
AGAIN = 60.0
#: So many services are remembered; when there are more, those whose time is over are forgotten.
_MANY = 1024


class Unanswered:
    """``tell`` is called for every client that was refused after all attempts."""

    def __init__(self, services: Informer[Service], recorder: EventRecorder, clock: Clock) -> None:
        self._services = services
        self._recorder = recorder
        self._clock = clock
        self._said: dict[str, float] = {}  # by service key: when

    def tell(self, name: str, tried: Sequence[Endpoint]) -> None:
        """``name`` is that of the portal, ``namespace/service:portname``."""
        key = name.partition(":")[0]
        now = self._clock.monotonic()
        if now - self._said.get(key, float("-inf")) < AGAIN:
            return
        service = self._services.get(key)
        if service is None:
            return
        if len(self._said) >= _MANY:
            self._said = {k: at for k, at in self._said.items() if now - at < AGAIN}
        self._said[key] = now
        places = ", ".join(map(str, dict.fromkeys(tried)))
        said = f"port {name}: no endpoint answered ({places}); is anything listening there?"
        self._recorder.event(service, "NoEndpointAnswers", said, "Warning")
