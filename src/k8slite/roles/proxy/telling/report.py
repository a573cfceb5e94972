"""What the proxy shows of its services: ``/metrics`` as Prometheus' text, and JSON.

Everything is added up when somebody asks. 5,000 services with 50,000 endpoints make hundreds of
thousands of lines, which take seconds: so they are written here, a slice at a time with the rest
of the process between, and not by prometheus_client, which makes the whole text in one go. An
endpoint has lines from the first attempt to connect to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from k8slite.api.servicestats import EndpointStats, ServicePortStats, ServiceStats
from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.telling.counters import EndpointCounters, PortCounters, ProxyCounters

#: Of what ``metrics`` gives.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Endpoints looked at, or lines written, before others have their turn (2 to 3 ms).
_SLICE = 1_000

#: Bytes of JSON that are sent at once.
_PIECE = 32_768

_NOTHING = EndpointCounters()

#: Stats with their labels, as they stand between the braces.
Labelled = tuple[str, ServicePortStats | EndpointStats]


class Serving(Protocol):
    """What is served by whom: the proxy."""

    def ports(self) -> Iterable[PortalPort]: ...

    def endpoints(self, port: PortalPort) -> Collection[Endpoint]: ...

    def balancer(self, name: str) -> Balancer | None:
        """Who draws for a port; None where the kernel does."""

    async def connections(self) -> Mapping[str, int]:
        """By the name of the port, those that the kernel forwarded."""


class Family(NamedTuple):
    """A family of metrics, and the field of a port's or an endpoint's stats that it shows."""

    name: str
    kind: str
    text: str
    field: str


_COMMON = (
    Family("connections_total", "counter", "Connections that came about.", "connections"),
    Family("connections_active", "gauge", "Connections that are open.", "active"),
    Family("received_bytes_total", "counter", "Payload from clients.", "received"),
    Family("sent_bytes_total", "counter", "Payload to clients.", "sent"),
    Family("connect_failures_total", "counter", "Attempts that went on elsewhere.", "failures"),
    Family("connect_seconds_total", "counter", "Time that connecting took.", "connect_seconds"),
)
_OF_PORTS = (
    *_COMMON,
    Family("unserved_total", "counter", "Clients that found no endpoint.", "unserved"),
    Family("strangers_total", "counter", "Clients past the service's address.", "strangers"),
    Family("overrun_total", "counter", "Datagrams of too many new clients at once.", "overrun"),
    Family("endpoints", "gauge", "Endpoints that may be drawn.", "endpoints_in_use"),
)
_OF_ENDPOINTS = (
    *_COMMON,
    Family("weight", "gauge", "Share of a full one's connections; 0: drawn no more.", "weight"),
    Family("ejected", "gauge", "1 while it is passed over because it refused.", "ejected"),
)


class Report:
    """``node`` is the node's name."""

    def __init__(self, serving: Serving, counters: ProxyCounters, clock: Clock, node: str) -> None:
        self._serving = serving
        self._counters = counters
        self._clock = clock
        self._node = node

    async def stats(
        self, namespace: str = "", services: frozenset[str] = frozenset(), *, endpoints: bool
    ) -> AsyncIterator[bytes]:
        """A ``ServiceStats`` as pieces of JSON: of one namespace or, with "", of all; of the named
        services or, with none, of all; with their endpoints or without."""
        head = msgspec.json.encode(ServiceStats(node=self._node, seconds=self._clock.monotonic()))
        ready, comma = bytearray(head[:-1] + b',"items":['), b""
        async for row in self._rows(namespace, services, idle=endpoints):
            shown = row if endpoints else msgspec.structs.replace(row, endpoints=())
            ready += comma + msgspec.json.encode(shown)
            comma = b","
            if len(ready) >= _PIECE:
                yield bytes(ready)
                ready.clear()
        yield bytes(ready) + b"]}"

    async def metrics(self) -> AsyncIterator[bytes]:
        """Prometheus' text format 0.0.4."""
        yield self._of_the_proxy()
        ports: list[Labelled] = []
        ends: list[Labelled] = []
        async for row in self._rows("", frozenset(), idle=False):
            labels = (
                f'namespace="{row.namespace}",service="{row.service}",port="{row.port_name}",'
                f'protocol="{row.protocol}"'
            )
            ports.append((labels, row))
            ends += [(f'{labels},endpoint="{end.address}"', end) for end in row.endpoints]
        for what, families, rows in (
            ("service", _OF_PORTS, ports),
            ("endpoint", _OF_ENDPOINTS, ends),
        ):
            for family in families:
                name = f"k8slite_proxy_{what}_{family.name}"
                yield _header(name, family.kind, family.text)
                async for piece in self._lines(name, family.field, rows):
                    yield piece

    async def _lines(self, name: str, field: str, rows: list[Labelled]) -> AsyncIterator[bytes]:
        for start in range(0, len(rows), _SLICE):
            some = rows[start : start + _SLICE]
            lines = [f"{name}{{{labels}}} {+getattr(of, field)}\n" for labels, of in some]
            yield "".join(lines).encode()
            await self._clock.sleep(0)

    def _of_the_proxy(self) -> bytes:
        rules = "k8slite_proxy_rule"
        counters = self._counters
        return b"".join(
            _header(name, "counter", text) + f"{name} {value}\n".encode()
            for name, text, value in (
                (f"{rules}_changes_total", "Changes of portal rules.", counters.rule_changes),
                (f"{rules}_syncs_total", "Comparisons of all rules.", counters.rule_syncs),
                (f"{rules}_failures_total", "Failures to write them.", counters.rule_failures),
            )
        )

    async def _rows(
        self, namespace: str, services: frozenset[str], *, idle: bool
    ) -> AsyncIterator[ServicePortStats]:
        """The ports with their endpoints; ``idle``: also those that nobody was connected to."""
        work = 0
        forwarded = await self._serving.connections()
        for port in tuple(self._serving.ports()):
            of, service = _parts(port.name)
            if (namespace and of != namespace) or (services and service not in services):
                continue
            row = self._row(port, of, service, forwarded.get(port.name, 0), idle=idle)
            yield row
            work += 1 + len(row.endpoints)
            if work >= _SLICE:
                work = 0
                await self._clock.sleep(0)

    def _row(
        self, port: PortalPort, namespace: str, service: str, forwarded: int, *, idle: bool
    ) -> ServicePortStats:
        counters = self._counters.ports.get(port.name) or PortCounters()
        balancer = self._serving.balancer(port.name)
        members = balancer.endpoints if balancer is not None else self._serving.endpoints(port)
        total = counters.total()
        return ServicePortStats(
            namespace=namespace,
            service=service,
            port_name=port.port_name,
            port=port.port,
            protocol=port.protocol.upper(),
            endpoints_in_use=len(members),
            connections=total.connections + forwarded,
            active=total.active,
            failures=total.failures,
            unserved=counters.unserved,
            strangers=counters.strangers,
            overrun=counters.overrun,
            connect_seconds=total.connect_seconds,
            received=total.received,
            sent=total.sent,
            endpoints=tuple(self._ends(counters.endpoints, members if idle else (), balancer)),
        )

    def _ends(
        self,
        counted: Mapping[Endpoint, EndpointCounters],
        members: Collection[Endpoint],
        balancer: Balancer | None,
    ) -> Iterable[EndpointStats]:
        now = self._clock.monotonic()
        for endpoint in sorted({*counted, *members}):
            did = counted.get(endpoint, _NOTHING)
            yield EndpointStats(
                address=str(endpoint),
                connections=did.connections,
                active=did.active,
                failures=did.failures,
                connect_seconds=did.connect_seconds,
                received=did.received,
                sent=did.sent,
                weight=1.0 if balancer is None else balancer.weight(endpoint, now),
                ejected=balancer is not None and balancer.ejected(endpoint, now),
            )


def _header(name: str, kind: str, text: str) -> bytes:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def _parts(name: str) -> tuple[str, str]:
    """``namespace/service:port`` → namespace and service."""
    namespace, _, rest = name.partition("/")
    return namespace, rest.partition(":")[0]
