"""ResourceQuota: how much of what a namespace may hold, and what it holds."""

from __future__ import annotations

from typing import Any

from k8slite.api.kinds.pod.types import Quantity
from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class ResourceQuotaSpec(Struct):
    hard: dict[str, Quantity] | None = None
    scopes: tuple[str, ...] = ()
    scope_selector: dict[str, Any] | None = None


class ResourceQuotaStatus(Struct):
    hard: dict[str, Quantity] | None = None
    used: dict[str, Quantity] | None = None


class ResourceQuota(Object):
    kind: str = always("ResourceQuota")
    spec: ResourceQuotaSpec = always(ResourceQuotaSpec())
    status: ResourceQuotaStatus = always(ResourceQuotaStatus())
