"""Whether this node takes a pod that was bound to it; a refusal ends the pod (phase Failed)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from k8slite.api import quantity
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import Pod


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: str
    message: str


def admit(pod: Pod, node: Node, others: Iterable[Pod]) -> Refusal | None:
    """None, or why ``pod`` cannot run on ``node`` beside ``others`` (pods that already do).

    Rules: kubernetes-v0.17.md §4: host-port conflict, node-selector mismatch, capacity exceeded.
    """
    others = [other for other in others if other.metadata.uid != pod.metadata.uid]
    labels = node.metadata.labels or {}
    for key, value in (pod.spec.node_selector or {}).items():
        if labels.get(key) != value:
            return Refusal(
                "NodeAffinity", f"Predicate NodeAffinity failed: node has no label {key}={value}"
            )
    taken = {port for other in others for port in host_ports(other)}
    for port in host_ports(pod):
        if port in taken:
            return Refusal("HostPortConflict", f"host port {port[0]}/{port[1]} is taken")
    return _fits(pod, node, others)


def host_ports(pod: Pod) -> set[tuple[int, str]]:
    """Ports of the host that the pod wants: number and protocol."""
    return {
        (port.host_port, port.protocol or "TCP")
        for container in pod.spec.containers
        for port in container.ports
        if port.host_port
    }


def _fits(pod: Pod, node: Node, others: list[Pod]) -> Refusal | None:
    room = node.status.allocatable or node.status.capacity or {}
    if "pods" in room and len(others) + 1 > quantity.value(room["pods"]):
        return Refusal("OutOfpods", f"node runs {len(others)} pods, capacity: {room['pods']}")
    for resource, amount in (("cpu", quantity.milli), ("memory", quantity.value)):
        wanted = sum(amount(text) for text in _requests(pod, resource))
        if not wanted or resource not in room:
            continue
        used = sum(amount(text) for other in others for text in _requests(other, resource))
        if used + wanted > amount(room[resource]):
            return Refusal(
                f"OutOf{resource}",
                f"Node didn't have enough resource: {resource}, requested: {wanted}, "
                f"used: {used}, capacity: {amount(room[resource])}",
            )
    return None


def _requests(pod: Pod, resource: str) -> list[quantity.Text]:
    found: list[quantity.Text] = []
    for container in pod.spec.containers:
        requests, limits = container.resources.requests or {}, container.resources.limits or {}
        amount = requests.get(resource, limits.get(resource))
        if amount is not None:
            found.append(amount)
    return found
