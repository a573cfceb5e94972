"""What is printed of services."""

from __future__ import annotations

from k8slite.api.kinds.service.types import Service
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, NONE, labels_or_none, several, single


def _addresses(service: Service) -> list[str]:
    """The portal first, then the public addresses."""
    return [service.spec.cluster_ip, *service.spec.external_ips]


def _ports(service: Service) -> list[str]:
    return [f"{port.port}/{port.protocol or 'TCP'}" for port in service.spec.ports]


def _ports_today(service: Service) -> str:
    ports = (
        f"{port.port}:{port.node_port}/{port.protocol}"
        if port.node_port
        else f"{port.port}/{port.protocol or 'TCP'}"
        for port in service.spec.ports
    )
    return ",".join(ports) or NONE


def _external(service: Service) -> str:
    ingress = [at.ip or at.hostname for at in service.status.load_balancer.ingress]
    found = ",".join([*ingress, *service.spec.external_ips])
    if service.spec.type == "ExternalName":
        return service.spec.external_name
    if service.spec.type == "LoadBalancer":
        return found or "<pending>"
    return found or NONE


ARTICLE_COLUMNS: tuple[Column[Service], ...] = (
    single("NAME", lambda service: service.metadata.name),
    single("LABELS", lambda service: labels_or_none(service.metadata.labels)),
    single("SELECTOR", lambda service: labels_or_none(service.spec.selector)),
    several("IP", _addresses),
    several("PORT(S)", _ports),
)

COLUMNS: tuple[Column[Service], ...] = (
    NAME,
    single("Type", lambda service: service.spec.type or "ClusterIP"),
    single("Cluster-IP", lambda service: service.spec.cluster_ip or NONE),
    single("External-IP", _external),
    single("Port(s)", _ports_today),
    AGE,
    single("Selector", lambda service: labels_or_none(service.spec.selector), wide=True),
)
