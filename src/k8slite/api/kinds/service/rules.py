"""The life of a service on its way into the store. Its addresses are handed out by the registry."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from k8slite.api import validation as check
from k8slite.api.defaulting import each, filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.service import checks
from k8slite.api.kinds.service.types import (
    ClientIPConfig,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
    SessionAffinityConfig,
)
from k8slite.api.scheme import Strategy

#: Seconds that a client stays with its pod under ClientIP affinity, since its last connection.
AFFINITY_SECONDS = 10800

_NEW = ServiceStatus()
_AFFINITY = SessionAffinityConfig(client_ip=ClientIPConfig(timeout_seconds=AFFINITY_SECONDS))


def fields(obj: Service) -> dict[str, str]:
    return {"spec.clusterIP": obj.spec.cluster_ip, "spec.type": obj.spec.type}


def _default(obj: Service) -> Service:
    spec = obj.spec
    changes: dict[str, Any] = {}
    kind = spec.type or "ClusterIP"
    if not spec.type:
        changes["type"] = kind
    if not spec.session_affinity:
        changes["session_affinity"] = "None"
    if spec.session_affinity == "ClientIP" and not _timeout(spec):
        changes["session_affinity_config"] = _AFFINITY
    if kind != "ExternalName" and not spec.internal_traffic_policy:
        changes["internal_traffic_policy"] = "Cluster"
    if kind in ("NodePort", "LoadBalancer") and not spec.external_traffic_policy:
        changes["external_traffic_policy"] = "Cluster"
    if kind == "LoadBalancer" and spec.allocate_load_balancer_node_ports is None:
        changes["allocate_load_balancer_node_ports"] = True
    if spec.cluster_ip and not spec.cluster_ips:
        changes["cluster_ips"] = (spec.cluster_ip,)
    ports = each(spec.ports, _port)
    if ports is not spec.ports:
        changes["ports"] = ports
    return replace(obj, spec=filled(spec, changes)) if changes else obj


def _timeout(spec: ServiceSpec) -> int | None:
    config = spec.session_affinity_config
    return config.client_ip.timeout_seconds if config and config.client_ip else None


def _port(port: ServicePort) -> ServicePort:
    changes: dict[str, Any] = {}
    if not port.protocol:
        changes["protocol"] = "TCP"
    if not port.target_port:
        changes["target_port"] = port.port
    return filled(port, changes)


def _prepare_update(new: Service, old: Service) -> Service:
    """An update that leaves out what was handed out to the service keeps it."""
    changes: dict[str, Any] = {}
    if "ExternalName" not in (new.spec.type, old.spec.type) and not new.spec.cluster_ip:
        changes["cluster_ip"] = old.spec.cluster_ip
        changes["cluster_ips"] = old.spec.cluster_ips
    if new.spec.type in ("NodePort", "LoadBalancer"):
        taken = {(port.protocol, port.port): port.node_port for port in old.spec.ports}
        claimed = {port.node_port for port in new.spec.ports}
        ports = []
        for port in new.spec.ports:
            kept = taken.get((port.protocol, port.port), 0)
            free = not port.node_port and kept not in claimed
            ports.append(replace(port, node_port=kept) if free else port)
        changes["ports"] = tuple(ports)
    return replace(new, spec=filled(new.spec, changes), status=old.status)


def _validate(new: Service, old: Service | None) -> list[FieldError]:
    return check.collected(checks.service(new, old))


def _validate_status(new: Service, old: Service | None) -> list[FieldError]:
    """What stood there before is no reason to refuse what is written beside it."""
    if old is not None and old.status.load_balancer == new.status.load_balancer:
        return []
    return check.collected(checks.addresses(new.status))


STRATEGY = Strategy(
    default=_default,
    prepare_create=lambda obj: replace(obj, status=_NEW),
    prepare_update=_prepare_update,
    prepare_status=lambda new, old: replace(new, spec=old.spec),
    validate=_validate,
    validate_status=_validate_status,
)
