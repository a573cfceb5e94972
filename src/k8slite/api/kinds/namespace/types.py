"""Namespace: a room for names."""

from __future__ import annotations

from typing import Any

from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class NamespaceSpec(Struct):
    finalizers: tuple[str, ...] = ()


class NamespaceStatus(Struct):
    phase: str = ""
    conditions: tuple[dict[str, Any], ...] = ()


class Namespace(Object):
    kind: str = always("Namespace")
    spec: NamespaceSpec = always(NamespaceSpec())
    status: NamespaceStatus = always(NamespaceStatus())
