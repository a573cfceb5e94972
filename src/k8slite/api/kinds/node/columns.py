"""What is printed of nodes."""

from __future__ import annotations

from k8slite.api.kinds.node.types import Node
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, NONE, UNKNOWN, own_labels, single

_ROLE = "node-role.kubernetes.io/"


def status(node: Node) -> str:
    """Ready, NotReady or Unknown, and ``,SchedulingDisabled``."""
    ready = next((c.status for c in node.status.conditions if c.type == "Ready"), "Unknown")
    word = {"True": "Ready", "False": "NotReady"}.get(ready, "Unknown")
    return f"{word},SchedulingDisabled" if node.spec.unschedulable else word


def _status_today(node: Node) -> str:
    return status(node).replace("Unknown", "NotReady" if node.status.conditions else "Unknown")


def _roles(node: Node) -> str:
    labels = node.metadata.labels or {}
    roles = sorted(key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE))
    return ",".join(filter(None, roles)) or NONE


def _address(node: Node, type: str) -> str:
    return next((a.address for a in node.status.addresses if a.type == type), NONE)


def _info(node: Node, field: str) -> str:
    return getattr(node.status.node_info, field, "") or UNKNOWN


ARTICLE_COLUMNS: tuple[Column[Node], ...] = (
    single("NAME", lambda node: node.metadata.name),
    single("LABELS", own_labels),
    single("STATUS", status),
)

COLUMNS: tuple[Column[Node], ...] = (
    NAME,
    single("Status", _status_today),
    single("Roles", _roles),
    AGE,
    single("Version", lambda node: getattr(node.status.node_info, "kubelet_version", "")),
    single("Internal-IP", lambda node: _address(node, "InternalIP"), wide=True),
    single("External-IP", lambda node: _address(node, "ExternalIP"), wide=True),
    single("OS-Image", lambda node: _info(node, "os_image"), wide=True),
    single("Kernel-Version", lambda node: _info(node, "kernel_version"), wide=True),
    single("Container-Runtime", lambda node: _info(node, "container_runtime_version"), wide=True),
)
