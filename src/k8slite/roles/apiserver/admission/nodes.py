"""NodeRestriction: a node writes what is its own. In force always, whatever the settings name."""

from __future__ import annotations

from typing import Any

from k8slite.api.errors import forbidden
from k8slite.api.kinds import NODE
from k8slite.api.scheme import Kind
from k8slite.decide.admission.nodes import borrowed, refuse
from k8slite.decide.joining import node_name
from k8slite.roles.apiserver.admission.chain import Plugin
from k8slite.roles.apiserver.admission.request import Request
from k8slite.store.cache import WatchCache


class NodeRestriction(Plugin):
    name = "NodeRestriction"

    def __init__(self, cache: WatchCache) -> None:
        self._nodes = cache.table(NODE)

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        return True

    def review(self, request: Request[Any]) -> None:
        node = node_name(request.user.name, request.user.groups)
        if not node:
            return
        why = refuse(
            node, request.operation, request.kind.kind, request.subresource, request.obj,
            request.old,
        )  # fmt: skip
        if not why and request.kind is NODE:
            others = (entry.object for entry in self._nodes.entries())
            why = borrowed(request.obj, request.old, others)
        if why:
            raise forbidden(request.kind.plural, request.obj.metadata.name, why)
