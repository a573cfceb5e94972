"""The node's account of itself: what it can hold and how it feels."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from k8slite.api.kinds.node.types import (
    DaemonEndpoint,
    Node,
    NodeAddress,
    NodeCondition,
    NodeDaemonEndpoints,
    NodeStatus,
    NodeSystemInfo,
)
from k8slite.kit.clock import parse_rfc3339, rfc3339

#: Below these the node complains (kubernetes pkg/kubelet/apis/config/v1beta1/defaults_linux.go).
LOW_MEMORY, LOW_DISK, LOW_INODES, LOW_PIDS = 100 * 2**20, 0.10, 0.05, 0.10
#: An unchanged status is written anew this often; heartbeats in between cost no write. Seconds.
REPORT_EVERY = 300.0
MAX_PODS = 110


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What was measured. ``*_free`` are shares of the whole (0 to 1); memory in bytes."""

    ip: str
    name: str
    port: int
    cpus: int
    memory: int
    memory_free: int
    disk_free: float
    inodes_free: float
    pids_free: float
    info: NodeSystemInfo
    trouble: str  # why no pod can be run now, or ""
    network: str = ""  # why pods cannot reach those of other nodes, or ""


def node_status(old: NodeStatus, facts: HostFacts, now: float) -> NodeStatus:
    """The whole status; conditions keep their transition times while they hold."""
    room = {"cpu": str(facts.cpus), "memory": f"{facts.memory // 1024}Ki", "pods": str(MAX_PODS)}
    return replace(
        old,
        capacity=room,
        allocatable=room,
        phase="Running",
        conditions=_conditions(old, facts, now),
        addresses=(
            NodeAddress(type="InternalIP", address=facts.ip),
            NodeAddress(type="Hostname", address=facts.name),
        ),
        daemon_endpoints=NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=facts.port)),
        node_info=facts.info,
    )


def worth_writing(old: NodeStatus, new: NodeStatus, now: float) -> bool:
    """Whether anything but the time changed, or the last word is old."""
    if _timeless(old) != _timeless(new):
        return True
    stamps = [c.last_heartbeat_time for c in old.conditions if c.last_heartbeat_time]
    return not stamps or now - max(map(parse_rfc3339, stamps)) >= REPORT_EVERY


def _timeless(status: NodeStatus) -> NodeStatus:
    conditions = tuple(replace(c, last_heartbeat_time=None) for c in status.conditions)
    return replace(status, conditions=conditions)


def _conditions(old: NodeStatus, facts: HostFacts, now: float) -> tuple[NodeCondition, ...]:
    low_disk = facts.disk_free < LOW_DISK or facts.inodes_free < LOW_INODES
    before = {condition.type: condition for condition in old.conditions}
    wanted = (
        *_network(facts.network, "NetworkUnavailable" in before),
        _pressure("MemoryPressure", facts.memory_free < LOW_MEMORY, "Memory", "memory available"),
        _pressure("DiskPressure", low_disk, "Disk", "disk pressure"),
        _pressure("PIDPressure", facts.pids_free < LOW_PIDS, "PID", "PID available"),
        ("Ready", "False", "KubeletNotReady", facts.trouble)
        if facts.trouble
        else ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    )
    ours = {type_ for type_, *_ in wanted}
    others = tuple(c for c in old.conditions if c.type not in ours)
    return others + tuple(_condition(before.get(wish[0]), wish, now) for wish in wanted)


def _network(trouble: str, told: bool) -> list[tuple[str, str, str, str]]:
    """Said when there is trouble, and from then on also when there is none any more."""
    if trouble:
        return [("NetworkUnavailable", "True", "PodNetworkTrouble", trouble)]
    right = ("NetworkUnavailable", "False", "PodNetworkReady", "pods reach those of other nodes")
    return [right] if told else []


def _pressure(type_: str, low: bool, what: str, noun: str) -> tuple[str, str, str, str]:
    if low:
        return type_, "True", f"KubeletHas{type_}", f"kubelet has insufficient {noun}"
    quality = "NoDiskPressure" if what == "Disk" else f"Sufficient{what}"
    message = f"kubelet has no {noun}" if what == "Disk" else f"kubelet has sufficient {noun}"
    return type_, "False", f"KubeletHas{quality}", message


def _condition(
    old: NodeCondition | None, wish: tuple[str, str, str, str], now: float
) -> NodeCondition:
    type_, status, reason, message = wish
    kept = old.last_transition_time if old is not None and old.status == status else None
    return NodeCondition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        last_heartbeat_time=rfc3339(now),
        last_transition_time=kept or rfc3339(now),
    )


def is_ready(node: Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)
