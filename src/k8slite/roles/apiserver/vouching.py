"""Who stands behind a node's certificate: the Node object of that name and uid.

As long as the object is there, the node is let in; with its deletion its connections end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from weakref import WeakSet

import structlog

from k8slite.api.errors import Unauthorized
from k8slite.api.kinds import NODE
from k8slite.api.kinds.node.types import Node
from k8slite.api.user import User
from k8slite.decide.joining import addresses, node_name
from k8slite.roles.apiserver.doors import is_own
from k8slite.roles.apiserver.registry import Registry
from k8slite.store.cache import Change

log = structlog.get_logger()


class Vouching:
    """The cluster's Nodes, as the doors see them. ``open`` before it is asked."""

    def __init__(self, registry: Registry, pods: str = "0.0.0.0/32") -> None:
        """``pods``: the network of the pods."""
        self._registry = registry
        self._pods = ip_network(pods)
        self._addresses: Counter[str] = Counter()
        self._connections: dict[str, WeakSet[asyncio.BaseTransport]] = {}  # by uid of the Node
        self._guests: dict[str, WeakSet[asyncio.BaseTransport]] = {}  # by address

    def open(self) -> None:
        """Look at the Nodes that there are, and at every change from now on. Once."""
        table = self._registry.cache.table(NODE)
        for entry in table.entries():
            self._addresses.update(addresses(entry.object))
        table.subscribe(self._on_change)

    def is_node(self, address: str) -> bool:
        """Is it the address of one of the cluster's nodes? A pod's is not, whatever a Node says."""
        return self._addresses[address] > 0 and ip_address(address) not in self._pods

    def entered(self, address: str, transport: asyncio.BaseTransport) -> None:
        """Somebody came in at a door that knows him by ``address`` alone: no longer than that is
        a node's. This host's own addresses are welcome whatever becomes of its Node."""
        if self.is_node(address) and not is_own(address):
            self._guests.setdefault(address, WeakSet()).add(transport)

    async def require(self, user: User, transport: asyncio.BaseTransport | None) -> None:
        """Let in who is a node of this cluster still. Raises Unauthorized, Unavailable."""
        name = node_name(user.name, user.groups)
        if not self._stands(name, user.uid):
            # Another master may have let it in a moment ago.
            await self._registry.read_barrier()
            if not self._stands(name, user.uid):
                raise Unauthorized(
                    f"node {name} is not, or not any more, a node of this cluster: remove its "
                    "certificate and let it join anew with a token"
                )
        if transport is not None:
            self._connections.setdefault(user.uid, WeakSet()).add(transport)

    def _stands(self, name: str, uid: str) -> bool:
        entry = self._registry.cache.table(NODE).get(name)
        return entry is not None and bool(uid) and entry.object.metadata.uid == uid

    def _on_change(self, change: Change[Node]) -> None:
        if change.previous is not None:
            self._addresses.subtract(addresses(change.previous.object))
        left = ""
        if change.type != "DELETED":
            self._addresses.update(addresses(change.entry.object))
            left = change.entry.object.metadata.uid
        if change.previous is not None and change.previous.object.metadata.uid != left:
            self._revoke(change.previous.object)
        if change.previous is not None:
            for address in addresses(change.previous.object):
                if self._addresses[address] <= 0:
                    del self._addresses[address]
                    _cut(self._guests.pop(address, ()))

    def _revoke(self, node: Node) -> None:
        """Cut what a node has open: it is let in no more."""
        gone = self._connections.pop(node.metadata.uid, None)
        if gone:
            log.info("node revoked", role="apiserver", node=node.metadata.name)
            _cut(gone)


def _cut(transports: Iterable[asyncio.BaseTransport]) -> None:
    for transport in tuple(transports):
        if isinstance(transport, asyncio.Transport):
            transport.abort()
