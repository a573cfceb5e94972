"""What a node says of the services that it serves: ``/stats/services`` of the node API.

Counts are since the node's proxy began to serve the port; bytes are payload, ``received`` from
clients and ``sent`` to them.
"""

from __future__ import annotations

from k8slite.api.struct import Struct


class EndpointStats(Struct):
    """One endpoint. ``failures`` are attempts to connect that went on elsewhere. ``weight`` is its
    share of a full one's connections: less than 1 while it warms up, 0 when it is drawn no more
    but has connections still. ``ejected``: it refused lately and is passed over."""

    address: str = ""  # ip:port
    connections: int = 0
    active: int = 0
    failures: int = 0
    connect_seconds: float = 0.0
    received: int = 0
    sent: int = 0
    weight: float = 1.0
    ejected: bool = False


class ServicePortStats(Struct):
    """One port of a service, its endpoints added up. ``unserved`` clients found no endpoint that
    answered; ``strangers`` came past the service's address; ``overrun`` are datagrams of too many
    new clients at once. ``endpoints_in_use`` may be drawn; ``endpoints`` are there when they were
    asked for."""

    namespace: str = ""
    service: str = ""
    port_name: str = ""
    port: int = 0
    protocol: str = ""
    endpoints_in_use: int = 0
    connections: int = 0
    active: int = 0
    failures: int = 0
    unserved: int = 0
    strangers: int = 0
    overrun: int = 0
    connect_seconds: float = 0.0
    received: int = 0
    sent: int = 0
    endpoints: tuple[EndpointStats, ...] = ()


class ServiceStats(Struct):
    """All that was asked of one node. ``seconds`` are of the node's own clock, from an unknown
    beginning: two answers tell how much time lies between them."""

    node: str = ""
    seconds: float = 0.0
    items: tuple[ServicePortStats, ...] = ()
