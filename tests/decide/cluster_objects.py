"""Nodes, pods and controllers, written shortly."""

from __future__ import annotations

from typing import Any

from k8slite.api.kinds.node.types import Node, NodeCondition, NodeSpec, NodeStatus, Taint
from k8slite.api.kinds.pod.types import (
    Container,
    ContainerPort,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    ResourceRequirements,
)
from k8slite.api.kinds.podtemplate.types import PodTemplateSpec
from k8slite.api.kinds.replicationcontroller.types import (
    ReplicationController,
    ReplicationControllerSpec,
)
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta, OwnerReference

WEB = {"app": "web"}


def node(
    name: str,
    *,
    cpu: str = "4",
    memory: str = "8Gi",
    ready: str = "True",
    labels: dict[str, str] | None = None,
    taints: tuple[Taint, ...] = (),
    unschedulable: bool = False,
    **capacity: str,
) -> Node:
    return Node(
        kind="Node",
        metadata=ObjectMeta(name=name, labels=labels),
        spec=NodeSpec(unschedulable=unschedulable, taints=taints),
        status=NodeStatus(
            capacity={"cpu": cpu, "memory": memory, **capacity},
            conditions=(NodeCondition(type="Ready", status=ready),),
        ),
    )


def pod(
    name: str,
    *,
    on: str = "",
    labels: dict[str, str] | None = None,
    host_ports: tuple[int, ...] = (),
    requests: dict[str, str] | None = None,
    owner: OwnerReference | None = None,
    phase: str = "",
    ready: bool = False,
    ip: str = "",
    created: str | None = None,
    deleted: str | None = None,
    ports: tuple[ContainerPort, ...] = (),
    **spec: Any,
) -> Pod:
    container = Container(
        name="main",
        image="nginx",
        ports=(*ports, *(ContainerPort(host_port=n, container_port=n) for n in host_ports)),
        resources=ResourceRequirements(requests=requests),
    )
    return Pod(
        kind="Pod",
        metadata=ObjectMeta(
            name=name,
            namespace="default",
            uid=f"uid-{name}",
            labels=labels,
            owner_references=(owner,) if owner else (),
            creation_timestamp=created,
            deletion_timestamp=deleted,
        ),
        spec=PodSpec(containers=(container,), node_name=on, **spec),
        status=PodStatus(
            phase=phase,
            pod_ip=ip,
            conditions=(PodCondition(type="Ready", status="True" if ready else "False"),),
        ),
    )


def controller(replicas: int | None = 3, **spec: Any) -> ReplicationController:
    return ReplicationController(
        kind="ReplicationController",
        metadata=ObjectMeta(name="web", namespace="default", uid="rc-uid", generation=1),
        spec=ReplicationControllerSpec(
            replicas=replicas,
            selector=WEB,
            template=PodTemplateSpec(
                metadata=ObjectMeta(labels=WEB),
                spec=PodSpec(containers=(Container(name="main", image="nginx"),)),
            ),
            **spec,
        ),
    )


def service(*ports: ServicePort, selector: dict[str, str] | None = None, **spec: Any) -> Service:
    return Service(
        kind="Service",
        metadata=ObjectMeta(name="web", namespace="default", uid="service-uid"),
        spec=ServiceSpec(ports=ports, selector=WEB if selector is None else selector, **spec),
    )
