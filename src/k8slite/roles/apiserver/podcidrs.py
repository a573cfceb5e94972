"""Pod networks of nodes, claimed and given back in the transaction that writes the Node.

A claim is a key in the store: two masters cannot give the same CIDR to two nodes, and none can
leak. Pieces of different size that overlap are found in the cache; the claims of one master are
decided one at a time, so that it sees each before the next.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from k8slite.api.errors import FieldError, Invalid
from k8slite.api.kinds import NODE
from k8slite.api.kinds.node.types import Node
from k8slite.decide.podcidrs import Holdings, held
from k8slite.roles.apiserver.admission.request import Request
from k8slite.store.base import Create, Delete, Op
from k8slite.store.cache import Change, WatchCache

CLAIMS = "/registry/podcidrs/"
_PATH = "spec.podCIDR"


class PodCidrs:
    """Arbitrates ``spec.podCIDR`` of Nodes."""

    def __init__(self, cache: WatchCache) -> None:
        self._table = cache.table(NODE)
        self._holdings: Holdings | None = None  # built when first needed
        self._lock = asyncio.Lock()

    def review(self, request: Request[Any], *, gone: bool) -> None:
        """Put into ``request`` what its transaction needs for the node's CIDRs."""
        mine = _keys(request.old)
        if gone:
            if mine:
                request.stakes.append(self._release)
        elif mine != _keys(request.obj):
            request.lock = self._lock
            request.stakes.append(self._stake)

    def _stake(self, request: Request[Any]) -> Iterator[Op]:
        """Yield the claims to make and end. Raises Invalid when one is taken."""
        node = request.obj
        mine, wanted = _keys(request.old), _keys(node)
        value = json.dumps({"node": node.metadata.name}).encode()
        for key in sorted(wanted.keys() - mine.keys()):
            self._refuse_taken(node, key, wanted[key], request.lost)
            yield Create(key, value)
        for key in sorted(mine.keys() - wanted.keys() - request.lost):
            yield Delete(key)

    def _release(self, request: Request[Any]) -> Iterator[Op]:
        for key in sorted(_keys(request.old).keys() - request.lost):
            yield Delete(key)

    def _refuse_taken(self, node: Node, key: str, cidr: str, lost: set[str]) -> None:
        name = node.metadata.name
        taken = self._known().overlapping(cidr, name)
        if taken is not None:
            why = f'"{cidr}" overlaps {taken.cidr}, which node {taken.node} has'
        elif key in lost:
            why = f'"{cidr}" is taken by another node'
        else:
            return
        raise Invalid(NODE.kind, name, [FieldError(_PATH, why)])

    def _known(self) -> Holdings:
        if self._holdings is None:
            self._holdings = Holdings()
            for entry in self._table.entries():
                self._holdings.put(entry.object)
            self._table.subscribe(self._on_change)
        return self._holdings

    def _on_change(self, change: Change[Node]) -> None:
        holdings = self._known()
        if change.previous is not None:
            if change.type != "DELETED" and _keys(change.previous.object) == _keys(
                change.entry.object
            ):
                return
            holdings.remove(change.previous.object)
        if change.type != "DELETED":
            holdings.put(change.entry.object)


def _keys(node: Node | None) -> dict[str, str]:
    """Store key of each claim of ``node`` → the CIDR."""
    if node is None:
        return {}
    return {CLAIMS + cidr.replace("/", "_"): cidr for cidr in held(node)}
