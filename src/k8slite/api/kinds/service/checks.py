"""What a service must fulfil."""

from __future__ import annotations

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.kinds.service import proxying
from k8slite.api.kinds.service.types import (
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from k8slite.api.validation import Errors

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
PROTOCOLS = ("TCP", "UDP", "SCTP")
AFFINITIES = ("None", "ClientIP")
POLICIES = ("", "Cluster", "Local")

#: The longest that a client may be kept with one pod: a day.
_MAX_AFFINITY = 86400


def service(new: Service, old: Service | None) -> Errors:
    """A whole service; ``old`` is what it replaces."""
    yield from check.metadata(new.metadata, check.dns_1035_label)
    yield from proxying.checked(new.metadata.annotations, "metadata.annotations")
    spec = new.spec
    yield from check.choice(spec.type, TYPES, "spec.type")
    yield from check.choice(spec.session_affinity, AFFINITIES, "spec.sessionAffinity")
    if spec.selector:
        yield from check.label_map(spec.selector, "spec.selector")
    if spec.type == "ExternalName":
        yield from _external_name(spec)
    elif not spec.ports and spec.cluster_ip != "None":
        yield check.required("spec.ports", "a service needs at least one port")
    yield from _ports(spec, "spec.ports")
    yield from _addresses(spec)
    yield from _affinity(spec)
    for field, value in (
        ("externalTrafficPolicy", spec.external_traffic_policy),
        ("internalTrafficPolicy", spec.internal_traffic_policy),
    ):
        yield from check.choice(value, POLICIES, f"spec.{field}")
    if old is None or new.status != old.status:
        yield from addresses(new.status)
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)
        yield from _update(spec, old.spec)


def _external_name(spec: ServiceSpec) -> Errors:
    yield from check.text(spec.external_name.rstrip("."), check.dns_subdomain, "spec.externalName")
    if spec.cluster_ip:
        yield check.forbidden("spec.clusterIP", "may not be set for type ExternalName")


def _ports(spec: ServiceSpec, path: str) -> Errors:
    ports = spec.ports
    for index, port in enumerate(ports):
        yield from _port(port, len(ports) > 1, f"{path}[{index}]")
    if len(ports) > 1:
        yield from check.unique((f"{path}[{i}].name", port.name) for i, port in enumerate(ports))
        seen: set[tuple[str, int]] = set()
        for index, port in enumerate(ports):
            if (port.protocol, port.port) in seen:
                yield check.duplicate(f"{path}[{index}].port", port.port)
            seen.add((port.protocol, port.port))
        yield from check.unique(
            (f"{path}[{i}].nodePort", port.node_port and f"{port.protocol} {port.node_port}")
            for i, port in enumerate(ports)
        )
    if spec.type == "ClusterIP":
        for index, port in enumerate(ports):
            if port.node_port:
                yield check.forbidden(
                    f"{path}[{index}].nodePort", "may not be set for type ClusterIP"
                )


def _port(port: ServicePort, named: bool, path: str) -> Errors:
    if port.name:
        if problem := check.dns_label(port.name):
            yield FieldError(f"{path}.name", f"{check.shown(port.name)} {problem}")
    elif named:
        yield check.required(f"{path}.name", "is required when there is more than one port")
    if port.port:
        yield from check.port_number(port.port, f"{path}.port")
    else:
        yield check.required(f"{path}.port")
    yield from check.choice(port.protocol, PROTOCOLS, f"{path}.protocol")
    if port.target_port:  # a port left out altogether is said already
        yield from check.port_or_name(port.target_port, f"{path}.targetPort")
    if port.node_port:
        yield from check.port_number(port.node_port, f"{path}.nodePort")


def _addresses(spec: ServiceSpec) -> Errors:
    if spec.cluster_ip not in ("", "None"):
        yield from check.text(spec.cluster_ip, check.ip_address, "spec.clusterIP")
    if spec.cluster_ips and spec.cluster_ips[0] != spec.cluster_ip:
        yield FieldError("spec.clusterIPs[0]", "must be the same as spec.clusterIP")
    if spec.cluster_ip == "None" and spec.type in ("NodePort", "LoadBalancer"):
        said = f'may not be "None" for type {spec.type}'
        yield FieldError("spec.clusterIP", said)
    for index, address in enumerate(spec.external_ips):
        yield from check.text(address, check.routable_ip, f"spec.externalIPs[{index}]")
    yield from check.unique(
        (f"spec.externalIPs[{i}]", address) for i, address in enumerate(spec.external_ips)
    )
    if spec.load_balancer_ip and (problem := check.ip_address(spec.load_balancer_ip)):
        yield FieldError("spec.loadBalancerIP", f"{check.shown(spec.load_balancer_ip)} {problem}")
    for index, network in enumerate(spec.load_balancer_source_ranges):
        yield from check.text(
            network.strip(), check.cidr, f"spec.loadBalancerSourceRanges[{index}]"
        )


def _affinity(spec: ServiceSpec) -> Errors:
    config = spec.session_affinity_config
    if config is None:
        return
    path = "spec.sessionAffinityConfig"
    if spec.session_affinity == "None":
        yield check.forbidden(path, "may not be set when sessionAffinity is None")
    elif config.client_ip is not None:
        yield from check.between(
            config.client_ip.timeout_seconds, 1, _MAX_AFFINITY, f"{path}.clientIP.timeoutSeconds"
        )


def addresses(status: ServiceStatus) -> Errors:
    """The proxy of every node serves these addresses, whoever wrote them."""
    for index, at in enumerate(status.load_balancer.ingress):
        if at.ip:
            path = f"status.loadBalancer.ingress[{index}].ip"
            yield from check.text(at.ip, check.routable_ip, path)


def _update(new: ServiceSpec, old: ServiceSpec) -> Errors:
    """The portal address stays for the life of the service, unless it goes external or back."""
    if "ExternalName" in (new.type, old.type):
        return
    if old.cluster_ip and new.cluster_ip != old.cluster_ip:
        yield check.immutable("spec.clusterIP", new.cluster_ip, old.cluster_ip)
