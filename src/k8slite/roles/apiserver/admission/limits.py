"""LimitRanger: a namespace's default, least and most resources of pods."""

from __future__ import annotations

from typing import Any

from k8slite.api.errors import forbidden
from k8slite.api.kinds import LIMIT_RANGE, POD
from k8slite.api.scheme import Kind
from k8slite.decide import limits
from k8slite.roles.apiserver.admission.chain import Plugin
from k8slite.roles.apiserver.admission.request import CREATE, Request
from k8slite.roles.apiserver.admission.tenants import ByNamespace
from k8slite.store.cache import WatchCache


class LimitRanger(Plugin):
    name = "LimitRanger"

    def __init__(self, cache: WatchCache) -> None:
        self._ranges = ByNamespace(cache, LIMIT_RANGE)

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        return operation == CREATE and kind is POD

    def admit(self, request: Request[Any]) -> None:
        entries = self._ranges.of(request.obj.metadata.namespace)
        if entries:
            request.obj = limits.defaulted(request.obj, [entry.object for entry in entries])

    def review(self, request: Request[Any]) -> None:
        entries = self._ranges.of(request.obj.metadata.namespace)
        if not entries:
            return
        found = limits.violations(request.obj, [entry.object for entry in entries])
        if found:
            why = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
            raise forbidden(POD.plural, request.obj.metadata.name, why)
