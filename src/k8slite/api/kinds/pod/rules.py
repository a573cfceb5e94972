"""The life of a pod on its way into the store."""

from __future__ import annotations

from msgspec.structs import replace

from k8slite.api import quantity
from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.kinds.pod import checks
from k8slite.api.kinds.pod.defaults import default_pod
from k8slite.api.kinds.pod.types import Pod, PodSpec, PodStatus
from k8slite.api.scheme import Strategy

_NEW = PodStatus(phase="Pending")


def qos_class(spec: PodSpec) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory of all containers.

    Guaranteed: every container limits both, and requests what it limits. BestEffort: none says
    anything. The source is kubernetes ``pkg/apis/core/v1/helper/qos``.
    """
    guaranteed, silent = True, True
    for container in (*spec.containers, *spec.init_containers):
        limits, requests = container.resources.limits or {}, container.resources.requests or {}
        for resource in ("cpu", "memory"):
            limit, request = limits.get(resource), requests.get(resource, limits.get(resource))
            if limit is not None or request is not None:
                silent = silent and not any(quantity.parse(q or 0) for q in (limit, request))
            if not limit or quantity.parse(limit) != quantity.parse(request or 0):
                guaranteed = False
    if silent:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def fields(pod: Pod) -> dict[str, str]:
    """What field selectors see; ``spec.host`` is v1beta3's word for ``spec.nodeName``."""
    return {
        "spec.nodeName": pod.spec.node_name,
        "spec.host": pod.spec.node_name,
        "spec.restartPolicy": pod.spec.restart_policy,
        "spec.schedulerName": pod.spec.scheduler_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "spec.hostNetwork": "true" if pod.spec.host_network else "false",
        "status.phase": pod.status.phase,
        "status.podIP": pod.status.pod_ip,
        "status.nominatedNodeName": pod.status.nominated_node_name,
    }


def _prepare_create(pod: Pod) -> Pod:
    return replace(pod, status=_NEW)


def _prepare_update(new: Pod, old: Pod) -> Pod:
    return replace(new, status=old.status)


def _prepare_status(new: Pod, old: Pod) -> Pod:
    return replace(new, spec=old.spec)


def _validate(new: Pod, old: Pod | None) -> list[FieldError]:
    return check.collected(checks.pod(new, old))


def _validate_status(new: Pod, old: Pod | None) -> list[FieldError]:
    return check.collected(checks.status(new, old))


STRATEGY = Strategy(
    default=default_pod,
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    prepare_status=_prepare_status,
    validate=_validate,
    validate_status=_validate_status,
)
