"""Namespace teardown: what still has to go, and when the namespace itself may."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.meta import Object

#: The finalizer that stands for "its content is gone".
FINALIZER = "kubernetes"

#: What makes other things goes first; everything else in any order.
_FIRST = ("ReplicationController", "Service")


@dataclass(frozen=True, slots=True)
class Plan:
    """``finalize``: nothing is left, the finalizer may go. Both empty: wait for what goes."""

    delete: tuple[Object, ...] = ()
    finalize: bool = False


def is_terminating(namespace: Namespace) -> bool:
    return (
        namespace.metadata.deletion_timestamp is not None or namespace.status.phase == "Terminating"
    )


def plan(namespace: Namespace, content: Iterable[Object]) -> Plan:
    """``content`` is every object in the namespace."""
    if not is_terminating(namespace):
        return Plan()
    there = list(content)
    if not there:
        return Plan(finalize=True)
    going = [obj for obj in there if obj.metadata.deletion_timestamp is None]
    return Plan(delete=tuple(sorted(going, key=lambda obj: obj.kind not in _FIRST)))


def finalized(namespace: Namespace) -> Namespace:
    """``namespace`` without our finalizer; other people's stay."""
    kept = tuple(name for name in namespace.spec.finalizers if name != FINALIZER)
    spec = msgspec.structs.replace(namespace.spec, finalizers=kept)
    return msgspec.structs.replace(namespace, spec=spec)
