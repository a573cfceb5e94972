"""What a namespace holds, in the words of its quotas: counting, charging, refusing.

Admission charges a quota in the same transaction that creates the object; the quota controller
recounts. Both use this arithmetic. Names of resources are those of Kubernetes: object counts
(``pods``, ``services``, ``count/<plural>``, ``services.nodeports``, ``services.loadbalancers``)
and sums over the pods that are not finished (``cpu`` = ``requests.cpu``, ``memory`` =
``requests.memory``, ``limits.cpu``, ``limits.memory``, ``ephemeral-storage`` likewise).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

import msgspec

from k8slite.api import quantity
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.pod.types import Container, Pod, Quantity
from k8slite.api.kinds.resourcequota.types import ResourceQuota, ResourceQuotaStatus
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import Object

#: Amounts by resource name; exact.
Usage = Mapping[str, Fraction]

NOTHING: Usage = {}
_ONE = Fraction(1)
_ZERO = Fraction(0)

#: Kinds that may be counted by their plain plural; any other kind needs ``count/``.
_PLAIN = frozenset(
    ("pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps")
)
_COMPUTE = ("cpu", "memory", "ephemeral-storage")


def usage_of(obj: Object) -> Usage:
    """All that one object takes; nothing for a pod that has finished."""
    plural = SCHEME.of(obj).plural
    usage: dict[str, Fraction] = {f"count/{plural}": _ONE}
    if isinstance(obj, Pod):
        if obj.status.phase in ("Succeeded", "Failed"):
            return NOTHING
        usage.update(_compute(obj))
    elif isinstance(obj, Service):
        usage.update(_ports(obj))
    if plural in _PLAIN:
        usage[plural] = _ONE
    return usage


def add(left: Usage, right: Usage) -> Usage:
    return {name: left.get(name, _ZERO) + right.get(name, _ZERO) for name in {**left, **right}}


def increase(new: Usage, old: Usage) -> Usage:
    """Where ``new`` takes more than ``old``, and by how much."""
    differences = {name: amount - old.get(name, _ZERO) for name, amount in new.items()}
    return {name: amount for name, amount in differences.items() if amount > 0}


def hard(quota: ResourceQuota) -> Usage:
    """The limits of ``quota``."""
    return {name: quantity.parse(amount) for name, amount in (quota.spec.hard or {}).items()}


def used(quota: ResourceQuota) -> Usage | None:
    """What ``quota``'s status says is taken; None until every limit has been counted."""
    counted = quota.status.used or {}
    if any(name not in counted for name in quota.spec.hard or {}):
        return None
    return {name: quantity.parse(amount) for name, amount in counted.items()}


def plurals_counted(quota: ResourceQuota) -> frozenset[str]:
    """The plurals of the kinds whose objects ``quota`` counts."""
    found = set()
    for name in quota.spec.hard or {}:
        if name.startswith("count/"):
            found.add(name.removeprefix("count/"))
        elif name.startswith("services."):
            found.add("services")
        else:
            found.add(name if name in _PLAIN else "pods")
    return frozenset(found)


def in_scope(quota: ResourceQuota, obj: Object) -> bool:
    """Do ``quota``'s scopes take in ``obj``? A quota with scopes counts pods alone."""
    if not quota.spec.scopes:
        return True
    return isinstance(obj, Pod) and all(_in_one_scope(obj, s) for s in quota.spec.scopes)


def _in_one_scope(pod: Pod, scope: str) -> bool:
    match scope:
        case "Terminating":
            return pod.spec.active_deadline_seconds is not None
        case "NotTerminating":
            return pod.spec.active_deadline_seconds is None
        case "BestEffort":
            return _best_effort(pod)
        case "NotBestEffort":
            return not _best_effort(pod)
    return False


def _best_effort(pod: Pod) -> bool:
    return not any(
        container.resources.limits or container.resources.requests
        for container in (*pod.spec.containers, *pod.spec.init_containers)
    )


def charge_of(quota: ResourceQuota, obj: Object) -> Usage:
    """The part of ``usage_of(obj)`` that ``quota`` limits."""
    if not in_scope(quota, obj):
        return NOTHING
    limited = quota.spec.hard or {}
    return {name: amount for name, amount in usage_of(obj).items() if name in limited}


def total(quota: ResourceQuota, objects: Iterable[Object]) -> Usage:
    """What ``objects`` (all of the namespace, of the kinds counted) take of ``quota``."""
    result = dict.fromkeys(quota.spec.hard or {}, _ZERO)
    for obj in objects:
        for name, amount in charge_of(quota, obj).items():
            result[name] += amount
    return result


def unstated(quota: ResourceQuota, pod: Pod) -> list[str]:
    """Resources under quota that some container of ``pod`` says nothing about."""
    if not in_scope(quota, pod):
        return []
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    return sorted(
        name
        for name in quota.spec.hard or {}
        if _is_sum(name) and any(_stated(container, name) is None for container in containers)
    )


def refusal(quota: ResourceQuota, taken: Usage, asked: Usage) -> str | None:
    """Why ``asked`` does not fit beside ``taken``; None when it does."""
    limits = hard(quota)
    over = [name for name in sorted(asked) if taken.get(name, _ZERO) + asked[name] > limits[name]]
    if not over:
        return None

    def listed(usage: Usage) -> str:
        return ",".join(f"{name}={_written(name, usage.get(name, _ZERO))}" for name in over)

    return (
        f"exceeded quota: {quota.metadata.name}, requested: {listed(asked)}, "
        f"used: {listed(taken)}, limited: {listed(limits)}"
    )


def with_used(quota: ResourceQuota, taken: Usage) -> ResourceQuota:
    """``quota`` whose status says ``taken``; the same object when it says so already."""
    limits = quota.spec.hard or {}
    status = ResourceQuotaStatus(
        hard=limits or None,
        used={name: _written(name, taken.get(name, _ZERO)) for name in limits} or None,
    )
    if status == quota.status:
        return quota
    return msgspec.structs.replace(quota, status=status)


def _written(name: str, amount: Fraction) -> str:
    binary = name.endswith(("memory", "storage"))
    return quantity.spell(amount, quantity.Form.BINARY if binary else quantity.Form.DECIMAL)


def _is_sum(name: str) -> bool:
    return name.removeprefix("requests.").removeprefix("limits.") in _COMPUTE


def _stated(container: Container, name: str) -> Quantity | None:
    """What ``container`` states for the quota's resource ``name``; a request left out is the
    limit, as the API has it."""
    limits = container.resources.limits or {}
    if name.startswith("limits."):
        return limits.get(name.removeprefix("limits."))
    resource = name.removeprefix("requests.")
    requests = container.resources.requests or {}
    return requests.get(resource, limits.get(resource))


def _compute(pod: Pod) -> dict[str, Fraction]:
    """Sums over the containers; an init container counts when it alone takes more."""
    found: dict[str, Fraction] = {}
    for resource in _COMPUTE:
        for name in (f"requests.{resource}", f"limits.{resource}"):
            together = sum((_amount(c, name) for c in pod.spec.containers), _ZERO)
            alone = max((_amount(c, name) for c in pod.spec.init_containers), default=_ZERO)
            found[name] = max(together, alone)
        found[resource] = found[f"requests.{resource}"]
    return found


def _amount(container: Container, name: str) -> Fraction:
    stated = _stated(container, name)
    return _ZERO if stated is None else quantity.parse(stated)


def _ports(service: Service) -> dict[str, Fraction]:
    spec = service.spec
    found = {}
    if spec.type in ("NodePort", "LoadBalancer"):
        found["services.nodeports"] = Fraction(len(spec.ports))
    if spec.type == "LoadBalancer":
        found["services.loadbalancers"] = _ONE
    return found
