"""What services do, in the whole cluster: the answers of its nodes added up.

Of two answers of a node the difference is what happened between them; each node's own clock says
how long that was. A count that went down began anew meanwhile, so all of it is new. A node that
answered only once says what is open, and nothing of how fast it goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from k8slite.api.servicestats import EndpointStats, ServicePortStats, ServiceStats

#: namespace, service, name of the port, protocol
Name = tuple[str, str, str, str]
Stats = ServicePortStats | EndpointStats


@dataclass(slots=True)
class Work:
    """Counts, or counts a second. ``connect_seconds`` is what connecting took in all."""

    connections: float = 0
    failures: float = 0
    unserved: float = 0
    received: float = 0
    sent: float = 0
    connect_seconds: float = 0

    @property
    def connect_time(self) -> float | None:
        """Seconds for a connection on average; None where none was timed."""
        if not (self.connections and self.connect_seconds):
            return None
        return self.connect_seconds / self.connections


_FIELDS = tuple(Work.__dataclass_fields__)
_ROUNDING = 1e-6


@dataclass(slots=True)
class EndpointWork:
    """``nodes`` know the endpoint, ``ejected`` of them pass it over, ``leaving`` draw it no more;
    ``weight`` is the least that one of the others gives it."""

    address: str
    total: Work = field(default_factory=Work)
    rate: Work = field(default_factory=Work)
    active: int = 0
    nodes: int = 0
    ejected: int = 0
    leaving: int = 0
    weight: float = 1.0


@dataclass(slots=True)
class PortWork:
    """One service port. ``in_use`` endpoints may be drawn, on the node that knows most."""

    namespace: str
    service: str
    port_name: str
    protocol: str
    port: int = 0
    in_use: int = 0
    total: Work = field(default_factory=Work)
    rate: Work = field(default_factory=Work)
    active: int = 0
    endpoints: dict[str, EndpointWork] = field(default_factory=dict)


def added_up(
    answers: Mapping[str, ServiceStats], earlier: Mapping[str, ServiceStats] | None = None
) -> list[PortWork]:
    """The work of every service port, in the order of their names. ``answers`` by node, and
    ``earlier`` ones of some nodes; those without have rates of 0."""
    found: dict[Name, PortWork] = {}
    for node, answer in answers.items():
        before = (earlier or {}).get(node)
        seconds = answer.seconds - before.seconds if before is not None else 0.0
        former = {_name(row): row for row in before.items} if before is not None else {}
        for row in answer.items:
            name = _name(row)
            if name not in found:
                found[name] = PortWork(*name)
            _add(found[name], row, former.get(name), seconds)
    return [found[name] for name in sorted(found)]


def _name(row: ServicePortStats) -> Name:
    return row.namespace, row.service, row.port_name, row.protocol


def _add(port: PortWork, row: ServicePortStats, former: ServicePortStats | None, s: float) -> None:
    port.port = row.port
    port.in_use = max(port.in_use, row.endpoints_in_use)
    port.active += row.active
    _count(port.total, port.rate, row, former, s)
    ends = {end.address: end for end in former.endpoints} if former is not None else {}
    for end in row.endpoints:
        known = port.endpoints.get(end.address)
        if known is None:
            known = port.endpoints[end.address] = EndpointWork(end.address)
        known.active += end.active
        known.nodes += 1
        known.ejected += end.ejected
        known.leaving += not end.weight
        known.weight = min(known.weight, end.weight or 1.0)
        _count(known.total, known.rate, end, ends.get(end.address), s)


def _count(total: Work, rate: Work, now: Stats, before: Stats | None, seconds: float) -> None:
    for name in _FIELDS:
        count = getattr(now, name, 0)
        setattr(total, name, getattr(total, name) + count)
        if seconds > 0:
            past = getattr(before, name, 0)
            # A sum of seconds that is added up in another order differs in its last digits.
            more = max(count - past, 0) if count >= past - _ROUNDING else count
            setattr(rate, name, getattr(rate, name) + more / seconds)


def state_of(end: EndpointWork) -> str:
    """What is to be said of an endpoint beyond its numbers, or ""."""
    if end.leaving == end.nodes:
        return "leaving"
    parts: Sequence[str] = (
        f"ejected on {end.ejected} of {end.nodes}" if end.ejected and end.nodes > 1 else "",
        "ejected" if end.ejected and end.nodes == 1 else "",
        f"warming up, {end.weight:.0%}" if end.weight < 1.0 else "",
    )
    return ", ".join(part for part in parts if part)
