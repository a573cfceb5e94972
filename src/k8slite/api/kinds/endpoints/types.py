"""Endpoints: the addresses behind a service."""

from __future__ import annotations

from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class EndpointAddress(Struct):
    ip: str = always("")
    hostname: str = ""
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class EndpointPort(Struct):
    name: str = ""
    port: int = always(0)
    protocol: str = ""
    app_protocol: str | None = None


class EndpointSubset(Struct):
    addresses: tuple[EndpointAddress, ...] = ()
    not_ready_addresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Endpoints(Object):
    kind: str = always("Endpoints")
    subsets: tuple[EndpointSubset, ...] = ()
