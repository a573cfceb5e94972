"""LimitRange: least, most and default resources of a pod or container in a namespace."""

from __future__ import annotations

from k8slite.api.kinds.pod.types import Quantity
from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class LimitRangeItem(Struct):
    type: str = always("")
    max: dict[str, Quantity] | None = None
    min: dict[str, Quantity] | None = None
    default: dict[str, Quantity] | None = None
    default_request: dict[str, Quantity] | None = None
    max_limit_request_ratio: dict[str, Quantity] | None = None


class LimitRangeSpec(Struct):
    limits: tuple[LimitRangeItem, ...] = always(())


class LimitRange(Object):
    kind: str = always("LimitRange")
    spec: LimitRangeSpec = always(LimitRangeSpec())
