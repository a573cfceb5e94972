"""The closing words of ``up``, as the article's kube-up printed them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from k8slite.api import tables
from k8slite.api.kinds import COMPONENT_STATUS, NODE
from k8slite.api.kinds.componentstatus.types import ComponentStatus
from k8slite.api.kinds.node.types import Node
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind

T = TypeVar("T", bound=Object)


def node_is_ready(node: Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def why_not_ready(node: Node) -> str:
    """What the node itself says stands in the way ("" while it says nothing)."""
    return next((c.message for c in node.status.conditions if c.type == "Ready"), "")


def _table(kind: Kind[T], objects: Sequence[T], now: float) -> str:
    columns = tables.columns_of(kind, article=True)
    lines = [tables.titles(columns)]
    for obj in objects:
        lines += tables.rows(columns, obj, now)
    return tables.layout(lines)


def _numbered(text: str) -> str:
    """As ``cat -n`` does."""
    return "".join(f"{n:6}\t{line}\n" for n, line in enumerate(text.splitlines(), 1))


def closing(
    nodes: Sequence[Node],
    components: Sequence[ComponentStatus],
    address: str,
    port: int,
    now: float,
) -> str:
    """The article's last lines: where the master is, its nodes, its parts."""
    url = f"http://{address}"
    return (
        "Kubernetes cluster is running.  The master is running at:\n"
        f"  {url}\n"
        "... calling validate-cluster\n"
        f"Found {len(nodes)} nodes.\n"
        f"{_numbered(_table(NODE, nodes, now))}"
        "Validate output:\n"
        f"{_table(COMPONENT_STATUS, components, now)}"
        "Cluster validation succeeded\n"
        "Done, listing cluster services:\n"
        f"Kubernetes master is running at {url}:{port}\n"
    )


def next_steps(address: str, port: int, kubeconfig: str) -> str:
    """What somebody may type now."""
    server = f"-s http://{address}:{port}"
    return f"""
Try:
  make images                                     busybox and nginx without a registry
  .venv/bin/k8slite ctl run-container nginx --image=nginx --port=80 --replicas=6 {server}
  .venv/bin/k8slite ctl expose rc nginx --port=80 {server}
  .venv/bin/k8slite ctl get pods,rc,services {server}
kubectl: export KUBECONFIG={kubeconfig}
Stop and clean up: make down
"""
