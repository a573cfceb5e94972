"""The life of a node on its way into the store. A node may come with its status: it knows best."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from k8slite.api import validation as check
from k8slite.api.defaulting import canonical_map, filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.node.types import Node, NodeSpec, NodeStatus, Taint
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def fields(node: Node) -> dict[str, str]:
    return {"spec.unschedulable": "true" if node.spec.unschedulable else "false"}


def _default(node: Node) -> Node:
    changes: dict[str, Any] = {}
    status = _default_status(node.status)
    if status is not node.status:
        changes["status"] = status
    spec = node.spec
    if spec.pod_cidr and not spec.pod_cidrs:
        changes["spec"] = replace(spec, pod_cidrs=(spec.pod_cidr,))
    elif spec.pod_cidrs and not spec.pod_cidr:
        changes["spec"] = replace(spec, pod_cidr=spec.pod_cidrs[0])
    return filled(node, changes)


def _default_status(status: NodeStatus) -> NodeStatus:
    """What may be allocated is what there is, unless the node says otherwise."""
    changes: dict[str, Any] = {}
    capacity = canonical_map(status.capacity)
    allocatable = canonical_map(status.allocatable) if status.allocatable else capacity
    if capacity is not status.capacity:
        changes["capacity"] = capacity
    if allocatable is not status.allocatable:
        changes["allocatable"] = allocatable
    return filled(status, changes)


def _prepare_update(new: Node, old: Node) -> Node:
    """The status stays; so does a pod network that is left out: it can only be exchanged."""
    spec = new.spec
    if old.spec.pod_cidr and not spec.pod_cidr:
        spec = replace(spec, pod_cidr=old.spec.pod_cidr, pod_cidrs=old.spec.pod_cidrs)
    return replace(new, spec=spec, status=old.status)


def _prepare_status(new: Node, old: Node) -> Node:
    return replace(new, spec=old.spec, status=_default_status(new.status))


def _checks(new: Node, old: Node | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    yield from _check_taints(new.spec.taints, "spec.taints")
    for index, network in enumerate(new.spec.pod_cidrs):
        yield from check.text(network, check.cidr, f"spec.podCIDRs[{index}]")
    if new.spec.pod_cidrs and new.spec.pod_cidr != new.spec.pod_cidrs[0]:
        yield FieldError("spec.podCIDRs[0]", "must be the same as spec.podCIDR")
    yield from _check_status(new.status)
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)
        yield from _check_update(new.spec, old.spec)


def _check_taints(taints: tuple[Taint, ...], path: str) -> Errors:
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(taints):
        here = f"{path}[{index}]"
        yield from check.text(taint.key, check.qualified_name, f"{here}.key")
        if problem := check.label_value(taint.value):
            yield FieldError(f"{here}.value", f"{check.shown(taint.value)} {problem}")
        if taint.effect:
            yield from check.choice(taint.effect, EFFECTS, f"{here}.effect")
        else:
            yield check.required(f"{here}.effect", f"choose {', '.join(EFFECTS)}")
        if (taint.key, taint.effect) in seen:
            yield check.duplicate(here, f"{taint.key}:{taint.effect}")
        seen.add((taint.key, taint.effect))


def _check_status(status: NodeStatus) -> Errors:
    yield from check.amounts(status.capacity, "status.capacity")
    yield from check.amounts(status.allocatable, "status.allocatable")
    yield from check.at_most(status.allocatable, status.capacity, "status.allocatable", "capacity")


def _check_update(new: NodeSpec, old: NodeSpec) -> Errors:
    if old.provider_id and new.provider_id != old.provider_id:
        yield check.immutable("spec.providerID", new.provider_id, old.provider_id)


def _validate(new: Node, old: Node | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


def _validate_status(new: Node, old: Node | None) -> list[FieldError]:
    return check.collected(_check_status(new.status))


STRATEGY = Strategy(
    default=_default,
    prepare_update=_prepare_update,
    prepare_status=_prepare_status,
    validate=_validate,
    validate_status=_validate_status,
)
