"""Service: one address and port for a changing set of pods."""

from __future__ import annotations

from k8slite.api.kinds.pod.types import IntOrString
from k8slite.api.meta import Condition, Object
from k8slite.api.struct import Struct, always


class ServicePort(Struct):
    name: str = ""
    protocol: str = ""
    app_protocol: str | None = None
    port: int = always(0)
    target_port: IntOrString | None = None
    node_port: int = 0


class ClientIPConfig(Struct):
    timeout_seconds: int | None = None


class SessionAffinityConfig(Struct):
    client_ip: ClientIPConfig | None = None


class ServiceSpec(Struct):
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] | None = None
    cluster_ip: str = ""
    cluster_ips: tuple[str, ...] = ()
    type: str = ""
    external_ips: tuple[str, ...] = ()
    session_affinity: str = ""
    session_affinity_config: SessionAffinityConfig | None = None
    load_balancer_ip: str = ""
    load_balancer_source_ranges: tuple[str, ...] = ()
    external_name: str = ""
    external_traffic_policy: str = ""
    internal_traffic_policy: str = ""
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str | None = None
    allocate_load_balancer_node_ports: bool | None = None
    load_balancer_class: str | None = None


class LoadBalancerIngress(Struct):
    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Struct):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Struct):
    load_balancer: LoadBalancerStatus = always(LoadBalancerStatus())
    conditions: tuple[Condition, ...] = ()


class Service(Object):
    kind: str = always("Service")
    spec: ServiceSpec = always(ServiceSpec())
    status: ServiceStatus = always(ServiceStatus())
