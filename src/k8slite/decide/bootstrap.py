"""What a cluster has from its first moment: a namespace and two services that lead to the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from k8slite.api.kinds.endpoints.types import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
)
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.decide.allocation import RESERVED

NAMESPACE_NAME = "default"
LABELS = {"component": "apiserver", "provider": "kubernetes"}


@dataclass(frozen=True, slots=True)
class Door:
    """A service in front of the API servers: ``port`` on its portal, ``target`` on the masters."""

    name: str
    port: int
    target: int


def namespace() -> Namespace:
    return Namespace(metadata=ObjectMeta(name=NAMESPACE_NAME))


def service(door: Door, net: IPv4Network) -> Service:
    """No selector: its endpoints are the masters."""
    key = f"{NAMESPACE_NAME}/{door.name}"
    offset = next(offset for offset, owner in RESERVED.items() if owner == key)
    address = str(net.network_address + offset)
    return Service(
        metadata=_meta(door.name),
        spec=ServiceSpec(
            cluster_ip=address,
            ports=(ServicePort(protocol="TCP", port=door.port, target_port=door.target),),
        ),
    )


def endpoints(door: Door, masters: Sequence[str]) -> Endpoints:
    """``masters``: the addresses of the API servers that are alive."""
    subset = EndpointSubset(
        addresses=tuple(EndpointAddress(ip=ip) for ip in sorted(masters)),
        ports=(EndpointPort(port=door.target, protocol="TCP"),),
    )
    return Endpoints(metadata=_meta(door.name), subsets=(subset,) if masters else ())


def leads_there(current: Service, wanted: Service) -> bool:
    """Does ``current`` have the address, the ports and the labels that it must have?"""
    have, want = current.spec, wanted.spec
    return (
        have.cluster_ip == want.cluster_ip
        and not have.selector
        and [(p.port, p.target_port) for p in have.ports]
        == [(p.port, p.target_port) for p in want.ports]
        and LABELS.items() <= (current.metadata.labels or {}).items()
    )


def _meta(name: str) -> ObjectMeta:
    return ObjectMeta(name=name, namespace=NAMESPACE_NAME, labels=LABELS)
