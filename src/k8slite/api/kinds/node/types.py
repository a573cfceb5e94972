"""Node: a machine that runs pods."""

from __future__ import annotations

from k8slite.api.kinds.pod.types import Quantity
from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class Taint(Struct):
    key: str = always("")
    value: str = ""
    effect: str = always("")
    time_added: str | None = None


class NodeSpec(Struct):
    pod_cidr: str = ""
    pod_cidrs: tuple[str, ...] = ()
    external_id: str = ""
    provider_id: str = ""
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeCondition(Struct):
    type: str = always("")
    status: str = always("")
    last_heartbeat_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class NodeAddress(Struct):
    type: str = always("")
    address: str = always("")


class DaemonEndpoint(Struct, rename={"port": "Port"}):
    """The one name of the API with a capital first letter."""

    port: int = always(0)


class NodeDaemonEndpoints(Struct):
    kubelet_endpoint: DaemonEndpoint = always(DaemonEndpoint())


class NodeSystemInfo(Struct):
    machine_id: str = always("")
    system_uuid: str = always("")
    boot_id: str = always("")
    kernel_version: str = always("")
    os_image: str = always("")
    container_runtime_version: str = always("")
    kubelet_version: str = always("")
    kube_proxy_version: str = always("")
    operating_system: str = always("")
    architecture: str = always("")


class ContainerImage(Struct):
    names: tuple[str, ...] = ()
    size_bytes: int = 0


class NodeStatus(Struct):
    capacity: dict[str, Quantity] | None = None
    allocatable: dict[str, Quantity] | None = None
    phase: str = ""
    conditions: tuple[NodeCondition, ...] = ()
    addresses: tuple[NodeAddress, ...] = ()
    daemon_endpoints: NodeDaemonEndpoints | None = None
    node_info: NodeSystemInfo | None = None
    images: tuple[ContainerImage, ...] = ()


class Node(Object):
    kind: str = always("Node")
    spec: NodeSpec = always(NodeSpec())
    status: NodeStatus = always(NodeStatus())
