"""``describe``: an object in sections, then what happened to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from k8slite.api import printing, tables
from k8slite.api.kinds.endpoints.columns import addresses
from k8slite.api.kinds.endpoints.types import Endpoints
from k8slite.api.kinds.event.columns import first_seen, last_seen
from k8slite.api.kinds.event.types import Event
from k8slite.api.kinds.limitrange.types import LimitRange
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.node.columns import status as node_status
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.columns import host, phase
from k8slite.api.kinds.pod.types import Container, ContainerState, ContainerStatus, Pod
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.api.kinds.resourcequota.types import ResourceQuota
from k8slite.api.kinds.secret.types import Secret
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.api.selectors import match_labels
from k8slite.api.tables import NONE, age_in_words, labels_or_none

_WIDTH = 26


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else is known: ``now`` in Unix seconds, the object's events, and the objects near it."""

    now: float
    events: Sequence[Event] = ()
    pods: Sequence[Pod] = ()
    controllers: Sequence[ReplicationController] = ()
    endpoints: Endpoints | None = None


@dataclass(slots=True)
class _Page:
    lines: list[str] = field(default_factory=list)

    def say(self, label: str, value: object, indent: int = 0) -> None:
        text = tables.visible(str(value)) or NONE
        self.lines.append(f"{' ' * indent}{f'{label}:':<{_WIDTH - indent}}{text}")

    def title(self, label: str, indent: int = 0) -> None:
        self.lines.append(f"{' ' * indent}{label}:")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if not rows:
            self.say(title, NONE)
            return
        self.title(title)
        text = tables.layout([header, *rows])
        self.lines += [f"  {line.rstrip()}" for line in text.splitlines()]

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def describe(kind: Kind[Any], obj: Object, around: Surroundings) -> str:
    page = _Page()
    page.say("Name", obj.metadata.name)
    if kind.namespaced:
        page.say("Namespace", obj.metadata.namespace)
    sections = _SECTIONS.get(type(obj), _anything)
    sections(page, obj, around)
    _events(page, around)
    return page.text()


def _labels(page: _Page, obj: Object, around: Surroundings) -> None:
    page.say("Labels", labels_or_none(obj.metadata.labels))
    if obj.metadata.annotations:
        page.say("Annotations", labels_or_none(obj.metadata.annotations))
    page.say("Created", f"{age_in_words(obj.metadata.creation_timestamp, around.now)} ago")


def _events(page: _Page, around: Surroundings) -> None:
    if not around.events:
        page.say("Events", NONE)
        return
    rows = [
        [
            age_in_words(first_seen(event), around.now),
            age_in_words(last_seen(event), around.now),
            str(event.count or 1),
            " ".join(filter(None, (event.source.component, event.source.host))),
            event.involved_object.field_path,
            event.reason,
            event.message,
        ]
        for event in sorted(around.events, key=lambda event: last_seen(event) or "")
    ]
    header = ["FirstSeen", "LastSeen", "Count", "From", "SubobjectPath", "Reason", "Message"]
    page.table("Events", header, rows)


# --- pods ------------------------------------------------------------------------------------


def _pod(page: _Page, pod: Pod, around: Surroundings) -> None:
    page.say("Image(s)", ",".join(container.image for container in pod.spec.containers))
    page.say("Host", host(pod))
    _labels(page, pod, around)
    page.say("Status", phase(pod))
    if pod.status.reason:
        page.say("Reason", pod.status.reason)
    if pod.status.message:
        page.say("Message", pod.status.message)
    page.say("IP", pod.status.pod_ip)
    owners = [rc for rc in around.controllers if _owns(rc, pod)]
    page.say("Replication Controllers", ",".join(map(_created_of, owners)))
    known = {
        s.name: s for s in (*pod.status.init_container_statuses, *pod.status.container_statuses)
    }
    for title, group in (
        ("Init Containers", pod.spec.init_containers),
        ("Containers", pod.spec.containers),
    ):
        if group:
            page.title(title)
        for container in group:
            _container(page, container, known.get(container.name), around)
    conditions = [[c.type, c.status, c.reason, c.message] for c in pod.status.conditions]
    page.table("Conditions", ["Type", "Status", "Reason", "Message"], conditions)
    volumes = [[v.name, _source(v)] for v in pod.spec.volumes]
    page.table("Volumes", ["Name", "Source"], volumes)


def _owns(rc: ReplicationController, pod: Pod) -> bool:
    owners = [owner for owner in pod.metadata.owner_references if owner.controller]
    if owners:
        return any(owner.uid == rc.metadata.uid for owner in owners)
    return bool(rc.spec.selector) and match_labels(rc.spec.selector, pod.metadata.labels)


def _created_of(rc: ReplicationController) -> str:
    return f"{rc.metadata.name} ({rc.status.replicas}/{rc.spec.replicas or 0} replicas created)"


def _source(volume: object) -> str:
    """``hostPath path=/x``"""
    raw = msgspec.to_builtins(volume)
    sources = [(key, value) for key, value in raw.items() if key != "name"]
    return ", ".join(" ".join(filter(None, (key, _amounts(value)))) for key, value in sources)


def _container(
    page: _Page, container: Container, status: ContainerStatus | None, around: Surroundings
) -> None:
    page.title(container.name, 2)
    page.say("Image", container.image, 4)
    if container.command or container.args:
        page.say("Command", " ".join((*container.command, *container.args)), 4)
    if container.ports:
        ports = (f"{p.container_port}/{p.protocol or 'TCP'}" for p in container.ports)
        page.say("Port(s)", ",".join(ports), 4)
    for title, amounts in (
        ("Limits", container.resources.limits),
        ("Requests", container.resources.requests),
    ):
        if amounts:
            page.say(title, _amounts(amounts), 4)
    if status is not None:
        page.say("State", _state(status.state, around.now), 4)
        if status.last_state.terminated:
            page.say("Last State", _state(status.last_state, around.now), 4)
        page.say("Ready", status.ready, 4)
        page.say("Restart Count", status.restart_count, 4)
    for mount in container.volume_mounts:
        mode = "ro" if mount.read_only else "rw"
        page.say("Mount", f"{mount.mount_path} from {mount.name} ({mode})", 4)


def _amounts(amounts: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={amounts[name]}" for name in sorted(amounts))


def _state(state: ContainerState, now: float) -> str:
    if state.running:
        return f"Running for {age_in_words(state.running.started_at, now)}"
    if state.terminated:
        ended = state.terminated
        said = f"Terminated with exit code {ended.exit_code}"
        return ": ".join(filter(None, (said, ended.reason, ended.message)))
    if state.waiting:
        return ": ".join(filter(None, ("Waiting", state.waiting.reason, state.waiting.message)))
    return "Unknown"


# --- the others ------------------------------------------------------------------------------


def _controller(page: _Page, rc: ReplicationController, around: Surroundings) -> None:
    containers = rc.spec.template.spec.containers if rc.spec.template else ()
    page.say("Image(s)", ",".join(container.image for container in containers))
    page.say("Selector", labels_or_none(rc.spec.selector))
    _labels(page, rc, around)
    page.say("Replicas", f"{rc.status.replicas} current / {rc.spec.replicas or 0} desired")
    counts = dict.fromkeys(("Running", "Pending", "Succeeded", "Failed"), 0)
    for pod in around.pods:
        if _owns(rc, pod):
            counts[pod.status.phase] = counts.get(pod.status.phase, 0) + 1
    told = " / ".join(f"{count} {name}" for name, count in counts.items())
    page.say("Pods Status", told)


def _service(page: _Page, service: Service, around: Surroundings) -> None:
    _labels(page, service, around)
    page.say("Selector", labels_or_none(service.spec.selector))
    page.say("Type", service.spec.type or "ClusterIP")
    page.say("IP", service.spec.cluster_ip)
    if service.spec.external_ips:
        page.say("Public IPs", ",".join(service.spec.external_ips))
    if service.spec.type == "LoadBalancer":
        given = [at.ip or at.hostname for at in service.status.load_balancer.ingress]
        page.say("Pool Address", ",".join(given) or "<pending>")
    for port in service.spec.ports:
        name = port.name or "<unnamed>"
        page.say("Port", f"{name} {port.port}/{port.protocol or 'TCP'} to {port.target_port}")
        if port.node_port:
            page.say("Node Port", str(port.node_port))
        behind = addresses(around.endpoints, port.name) if around.endpoints else []
        page.say("Endpoints", ",".join(behind))
    page.say("Session Affinity", service.spec.session_affinity)
    for told, policy in (
        ("Traffic from Outside", service.spec.external_traffic_policy),
        ("Traffic from Inside", service.spec.internal_traffic_policy),
    ):
        if policy == "Local":
            page.say(told, "pods of the same node alone")
    conditions = [[c.type, c.status, c.reason, c.message] for c in service.status.conditions]
    if conditions:
        page.table("Conditions", ["Type", "Status", "Reason", "Message"], conditions)


def _node(page: _Page, node: Node, around: Surroundings) -> None:
    _labels(page, node, around)
    page.say("Status", node_status(node))
    taints = (f"{taint.key}={taint.value}:{taint.effect}" for taint in node.spec.taints)
    page.say("Taints", ",".join(taints))
    conditions = [[c.type, c.status, c.reason, c.message] for c in node.status.conditions]
    page.table("Conditions", ["Type", "Status", "Reason", "Message"], conditions)
    page.say("Addresses", ",".join(f"{a.type} {a.address}" for a in node.status.addresses))
    page.say("Capacity", _amounts(node.status.capacity or {}))
    page.say("Allocatable", _amounts(node.status.allocatable or {}))
    if info := node.status.node_info:
        page.say("Kernel", info.kernel_version)
        page.say("OS Image", info.os_image)
        page.say("Container Runtime", info.container_runtime_version)
        page.say("Kubelet", info.kubelet_version)
    page.say("Pod Network", node.spec.pod_cidr)
    rows = [
        [pod.metadata.namespace, pod.metadata.name, phase(pod)]
        for pod in around.pods
        if pod.spec.node_name == node.metadata.name
    ]
    page.table("Pods", ["Namespace", "Name", "Status"], rows)


def _limits(page: _Page, limits: LimitRange, around: Surroundings) -> None:
    rows: list[list[str]] = []
    for item in limits.spec.limits:
        columns = (item.min, item.max, item.default_request, item.default)
        names = sorted({name for column in columns for name in column or {}})
        rows += [
            [item.type, name, *(str((column or {}).get(name, "-")) for column in columns)]
            for name in names
        ]
    header = ["Type", "Resource", "Min", "Max", "Default Request", "Default Limit"]
    page.table("Limits", header, rows)


def _quota(page: _Page, quota: ResourceQuota, around: Surroundings) -> None:
    hard, used = quota.status.hard or quota.spec.hard or {}, quota.status.used or {}
    rows = [[name, str(used.get(name, 0)), str(hard[name])] for name in sorted(hard)]
    page.table("Resources", ["Resource", "Used", "Hard"], rows)


def _secret(page: _Page, secret: Secret, around: Surroundings) -> None:
    _labels(page, secret, around)
    page.say("Type", secret.type)
    rows = [
        [key, f"{len(value) * 3 // 4} bytes"] for key, value in sorted((secret.data or {}).items())
    ]
    page.table("Data", ["Key", "Size"], rows)


def _namespace(page: _Page, namespace: Namespace, around: Surroundings) -> None:
    _labels(page, namespace, around)
    page.say("Status", namespace.status.phase)


def _anything(page: _Page, obj: Object, around: Surroundings) -> None:
    """Kinds without sections of their own: their fields as YAML."""
    _labels(page, obj, around)
    raw = msgspec.to_builtins(obj)
    rest = {k: v for k, v in raw.items() if k not in ("kind", "apiVersion", "metadata")}
    if rest:
        page.lines += printing.as_yaml(rest).splitlines()


_SECTIONS: Mapping[type, Callable[[_Page, Any, Surroundings], None]] = {
    Pod: _pod,
    ReplicationController: _controller,
    Service: _service,
    Node: _node,
    LimitRange: _limits,
    ResourceQuota: _quota,
    Secret: _secret,
    Namespace: _namespace,
}
