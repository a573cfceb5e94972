"""Eviction: the wish that a pod leaves its node, posted to ``pods/NAME/eviction``; never stored."""

from __future__ import annotations

from k8slite.api.meta import DeleteOptions, ObjectMeta
from k8slite.api.struct import Struct, always


class Eviction(Struct):
    kind: str = always("Eviction")
    api_version: str = always("policy/v1")
    metadata: ObjectMeta = always(ObjectMeta())
    delete_options: DeleteOptions | None = None
