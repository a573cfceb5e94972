"""Portal addresses and node ports, taken and given back in the transaction of their service.

A reservation key lies in the store for each: two masters cannot hand out the same address, and
none can leak, because service and reservation come and go at one revision. What is taken is
therefore exactly what the services in the cache hold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import msgspec

from k8slite.api.errors import FieldError, Invalid
from k8slite.api.kinds import SERVICE
from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.decide import allocation
from k8slite.kit.clock import Rng
from k8slite.roles.apiserver.admission.request import Request
from k8slite.store.base import Create, Delete, Op
from k8slite.store.cache import Change, WatchCache

_ADDRESSES = "/registry/portalips/"
_PORTS = "/registry/nodeports/"


class Portals:
    """Allocates from ``net`` (a network such as ``192.168.3.0/24``)."""

    def __init__(self, net: str, cache: WatchCache, rng: Rng) -> None:
        self.net = IPv4Network(net)
        self._rng = rng
        self._table = cache.table(SERVICE)
        self._held: Counter[str] | None = None

    def stake(self, request: Request[Any]) -> Iterator[Op]:
        """Give the service what it wants and has not; yield the reservations to make and end.

        Raises Invalid: out of range, taken, exhausted.
        """
        new, old = request.obj, request.old
        mine = frozenset[str]() if old is None else frozenset(_keys(old))
        taken = self._taken(request.lost) - mine
        new = self._with_address(new, taken)
        request.obj = new = self._with_ports(new, taken)
        wanted = frozenset(_keys(new))
        value = json.dumps({"service": new.key}).encode()
        for key in sorted(wanted - mine):
            yield Create(key, value)
        for key in sorted(mine - wanted - request.lost):
            yield Delete(key)

    def release(self, request: Request[Any]) -> Iterator[Op]:
        """Yield the end of every reservation of a service that goes."""
        assert request.entry is not None
        for key in sorted(frozenset(_keys(request.entry.object))):
            yield Delete(key)

    def _with_address(self, service: Service, taken: frozenset[str]) -> Service:
        spec = service.spec
        if not allocation.wants_address(spec):
            return service
        addresses = {key.removeprefix(_ADDRESSES) for key in taken if key.startswith(_ADDRESSES)}
        if spec.cluster_ip:
            error = allocation.refuse_address(self.net, spec.cluster_ip, service.key, addresses)
            if error is not None:
                raise _invalid(service, error)
            return service
        address = allocation.draw_address(self.net, addresses, self._rng)
        if isinstance(address, FieldError):
            raise _invalid(service, address)
        spec = msgspec.structs.replace(spec, cluster_ip=address, cluster_ips=(address,))
        return msgspec.structs.replace(service, spec=spec)

    def _with_ports(self, service: Service, taken: frozenset[str]) -> Service:
        spec = service.spec
        if not allocation.wants_node_ports(spec):
            return service
        numbers = {int(key.removeprefix(_PORTS)) for key in taken if key.startswith(_PORTS)}
        asked = {port.node_port for port in spec.ports if port.node_port}
        ports: list[ServicePort] = []
        for index, port in enumerate(spec.ports):
            path = f"spec.ports[{index}].nodePort"
            if port.node_port:
                error = allocation.refuse_port(port.node_port, path, numbers)
                if error is not None:
                    raise _invalid(service, error)
            else:
                number = allocation.draw_port(numbers | asked, path, self._rng)
                if isinstance(number, FieldError):
                    raise _invalid(service, number)
                asked.add(number)
                port = msgspec.structs.replace(port, node_port=number)
            ports.append(port)
        if tuple(ports) == spec.ports:
            return service
        spec = msgspec.structs.replace(spec, ports=tuple(ports))
        return msgspec.structs.replace(service, spec=spec)

    def _taken(self, lost: set[str]) -> frozenset[str]:
        """Reservation keys that are held, and those that an attempt found taken."""
        if self._held is None:
            self._held = Counter(k for e in self._table.entries() for k in _keys(e.object))
            self._table.subscribe(self._on_change)
        return frozenset(self._held) | lost

    def _on_change(self, change: Change[Service]) -> None:
        if self._held is None:
            return
        if change.previous is not None:
            self._held.subtract(_keys(change.previous.object))
        if change.type != "DELETED":
            self._held.update(_keys(change.entry.object))
        self._held = +self._held


def _keys(service: Service) -> list[str]:
    """The store keys of the reservations that ``service`` holds."""
    address = allocation.held_address(service)
    keys = [_ADDRESSES + address] if address else []
    return keys + [f"{_PORTS}{port}" for port in allocation.held_ports(service)]


def _invalid(service: Service, error: FieldError) -> Invalid:
    return Invalid(SERVICE.kind, service.metadata.name, [error])
