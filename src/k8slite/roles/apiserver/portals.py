"""Portal addresses and node ports, taken and given back in the transaction of their service.

A reservation key lies in the store for each: two masters cannot hand out the same address, and
none can leak, because service and reservation come and go at one revision. What is taken is
therefore exactly what the services in the cache hold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterator
from ipaddress import IPv4Network
from typing import Any

import msgspec

from k8slite.api.errors import FieldError, Invalid
from k8slite.api.kinds import NODE, SERVICE
from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.config import Settings
from k8slite.decide import allocation
from k8slite.decide.joining import addresses
from k8slite.kit.clock import Rng
from k8slite.roles.apiserver.admission.request import Request
from k8slite.store.base import Create, Delete, Op
from k8slite.store.cache import Change, WatchCache

_ADDRESSES = "/registry/portalips/"
_PORTS = "/registry/nodeports/"


class Portals:
    """Allocates from the portal net."""

    def __init__(self, settings: Settings, cache: WatchCache, rng: Rng) -> None:
        self.net = IPv4Network(settings.portal_net)
        self._master = settings.node_ip
        self._doors = frozenset(
            (settings.port, settings.secure_port, settings.read_only_port, settings.node_port)
        )
        self._rng = rng
        self._table = cache.table(SERVICE)
        self._nodes = cache.table(NODE)
        self._held: Counter[str] | None = None  # reservation keys, counted when first needed

    def stake(self, request: Request[Any]) -> Iterator[Op]:
        """Give the service what it wants and has not; yield the reservations to make and end.

        Raises Invalid: out of range, taken, exhausted; a public address that is not to be had.
        """
        old = request.old
        self._review_public(request.obj, old)
        mine = frozenset[str]() if old is None else _keys(old)
        taken = _Taken(self._all_held(), mine, request.lost)
        new = self._with_address(request.obj, taken)
        request.obj = new = self._with_ports(new, taken)
        wanted = _keys(new)
        value = json.dumps({"service": new.key}).encode()
        for key in sorted(wanted - mine):
            yield Create(key, value)
        for key in sorted(mine - wanted - request.lost):
            yield Delete(key)

    def release(self, request: Request[Any]) -> Iterator[Op]:
        """Yield the end of every reservation of a service that goes."""
        assert request.entry is not None
        for key in sorted(_keys(request.entry.object) - request.lost):
            yield Delete(key)

    def _with_address(self, service: Service, taken: _Taken) -> Service:
        spec = service.spec
        if not allocation.wants_address(spec) or taken.is_mine(_ADDRESSES, spec.cluster_ip):
            return service
        if spec.cluster_ip:
            error = allocation.refuse_address(
                self.net, spec.cluster_ip, service.key, taken.under(_ADDRESSES)
            )
            if error is not None:
                raise _invalid(service, error)
            return service
        address = allocation.draw_address(self.net, taken.under(_ADDRESSES), self._rng)
        if isinstance(address, FieldError):
            raise _invalid(service, address)
        spec = msgspec.structs.replace(spec, cluster_ip=address, cluster_ips=(address,))
        return msgspec.structs.replace(service, spec=spec)

    def _review_public(self, service: Service, old: Service | None) -> None:
        """What a service has already it keeps: it was let in when nobody had it."""
        if old and _reached_by(old) == _reached_by(service):
            return
        for path, address in _public(service):
            node = self._node_with(address)
            error = allocation.refuse_public(
                self.net, service.spec, path, address, node, self._doors
            )
            if error is not None:
                raise _invalid(service, error)

    def _node_with(self, address: str) -> str:
        if address == self._master:
            return "a master"
        for entry in self._nodes.entries():
            if address in addresses(entry.object):
                return f"node {entry.object.metadata.name}"
        return ""

    def _with_ports(self, service: Service, taken: _Taken) -> Service:
        spec = service.spec
        if not allocation.wants_node_ports(spec):
            return service
        numbers = taken.under(_PORTS)
        own = {port.node_port for port in spec.ports}  # asked for, or drawn below
        ports: list[ServicePort] = []
        for index, port in enumerate(spec.ports):
            path = f"spec.ports[{index}].nodePort"
            drawn: int | FieldError | None = None
            if not port.node_port:
                drawn = allocation.draw_port(numbers, own, path, self._rng)
            elif not taken.is_mine(_PORTS, port.node_port):
                drawn = allocation.refuse_port(port.node_port, path, numbers)
            if isinstance(drawn, FieldError):
                raise _invalid(service, drawn)
            if drawn is not None:
                own.add(drawn)
                port = msgspec.structs.replace(port, node_port=drawn)
            ports.append(port)
        if tuple(ports) == spec.ports:
            return service
        spec = msgspec.structs.replace(spec, ports=tuple(ports))
        return msgspec.structs.replace(service, spec=spec)

    def _all_held(self) -> Counter[str]:
        if self._held is None:
            self._held = Counter(k for e in self._table.entries() for k in _keys(e.object))
            self._table.subscribe(self._on_change)
        return self._held

    def _on_change(self, change: Change[Service]) -> None:
        held = self._all_held()
        if change.previous is not None:
            for key in _keys(change.previous.object):
                held[key] -= 1
                if not held[key]:
                    del held[key]
        if change.type != "DELETED":
            held.update(_keys(change.entry.object))


class _Taken:
    """Reservations that others hold: all that are ``held`` but ``mine``, and those ``lost`` to
    somebody whom the cache does not know yet."""

    def __init__(self, held: Container[str], mine: Container[str], lost: Container[str]) -> None:
        self._held = held
        self._mine = mine
        self._lost = lost

    def is_mine(self, prefix: str, what: object) -> bool:
        return f"{prefix}{what}" in self._mine

    def has(self, key: str) -> bool:
        return (key in self._held and key not in self._mine) or key in self._lost

    def under(self, prefix: str) -> allocation.Taken:
        return lambda what: self.has(f"{prefix}{what}")


def _public(service: Service) -> Iterator[tuple[str, str]]:
    """Addresses outside of the portal net that lead to a service, and where they stand."""
    for index, address in enumerate(service.spec.external_ips):
        yield f"spec.externalIPs[{index}]", address
    for index, given in enumerate(service.status.load_balancer.ingress):
        if given.ip:
            yield f"status.loadBalancer.ingress[{index}].ip", given.ip


def _reached_by(service: Service) -> tuple[frozenset[str], frozenset[int]]:
    addresses = frozenset(address for _, address in _public(service))
    return addresses, frozenset(port.port for port in service.spec.ports)


def _keys(service: Service) -> frozenset[str]:
    """The store keys of the reservations that ``service`` holds."""
    keys = {f"{_PORTS}{port}" for port in allocation.held_ports(service)}
    address = allocation.held_address(service)
    if address:
        keys.add(_ADDRESSES + address)
    return frozenset(keys)


def _invalid(service: Service, error: FieldError) -> Invalid:
    return Invalid(SERVICE.kind, service.metadata.name, [error])
