"""The life of endpoints on their way into the store."""

from __future__ import annotations

from msgspec.structs import replace

from k8slite.api import validation as check
from k8slite.api.defaulting import each, filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.endpoints.types import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
)
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors


def _default(obj: Endpoints) -> Endpoints:
    subsets = each(obj.subsets, _subset)
    return obj if subsets is obj.subsets else replace(obj, subsets=subsets)


def _subset(subset: EndpointSubset) -> EndpointSubset:
    ports = each(subset.ports, _port)
    return subset if ports is subset.ports else replace(subset, ports=ports)


def _port(port: EndpointPort) -> EndpointPort:
    return filled(port, {} if port.protocol else {"protocol": "TCP"})


def _checks(new: Endpoints, old: Endpoints | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    for index, subset in enumerate(new.subsets):
        yield from _check_subset(subset, f"subsets[{index}]")
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)


def _check_subset(subset: EndpointSubset, path: str) -> Errors:
    if not subset.addresses and not subset.not_ready_addresses:
        yield check.required(path, "needs addresses or notReadyAddresses")
    for field, addresses in (
        ("addresses", subset.addresses),
        ("notReadyAddresses", subset.not_ready_addresses),
    ):
        for index, address in enumerate(addresses):
            yield from _check_address(address, f"{path}.{field}[{index}]")
    for index, port in enumerate(subset.ports):
        here = f"{path}.ports[{index}]"
        yield from check.port_number(port.port, f"{here}.port")
        yield from check.choice(port.protocol, ("TCP", "UDP", "SCTP"), f"{here}.protocol")
        if port.name:
            yield from check.text(port.name, check.dns_label, f"{here}.name")
        elif len(subset.ports) > 1:
            said = "is required when there is more than one port"
            yield check.required(f"{here}.name", said)
    yield from check.unique((f"{path}.ports[{i}].name", p.name) for i, p in enumerate(subset.ports))


def _check_address(address: EndpointAddress, path: str) -> Errors:
    yield from check.text(address.ip, check.routable_ip, f"{path}.ip")
    if address.hostname and (problem := check.dns_label(address.hostname)):
        yield FieldError(f"{path}.hostname", f"{check.shown(address.hostname)} {problem}")
    if address.node_name is not None:
        yield from check.text(address.node_name, check.dns_subdomain, f"{path}.nodeName")


def _validate(new: Endpoints, old: Endpoints | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


STRATEGY = Strategy(default=_default, validate=_validate)
