"""What a node may write: its own Node, its own pods' statuses and mirrors, events, and on services
the one condition that is its own.

Reads are everybody's who is let in. The rule holds for those who come with a node's certificate.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import cast

from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import Object
from k8slite.decide.joining import addresses
from k8slite.decide.serving import only_its_own

CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"

#: Prefix length of the largest piece of the pod network that a node proposes for itself.
PIECE = 24

#: Annotation of a pod that only shows what a node runs by itself.
MIRROR = "kubernetes.io/config.mirror"


def refuse(
    node: str, operation: str, kind: str, subresource: str, obj: Object, old: Object | None
) -> str:
    """Why ``node`` may not do this; "" when it may.

    ``obj`` is what is to be written (on DELETE: the last state), ``old`` what is there.
    """
    match kind:
        case "Node":
            return _node(node, operation, cast(Node, obj), cast("Node | None", old))
        case "Pod":
            there = cast(Pod, obj if old is None else old)
            if there.spec.node_name != node:
                return f"node {node} may write pods that are bound to it, and no others"
            return _pod(node, operation, subresource, cast(Pod, obj), there)
        case "Event":
            return "" if operation != DELETE else f"node {node} may not delete events"
        case "Service":
            of_status = operation == UPDATE and subresource == "status"
            if of_status and only_its_own(cast(Service, obj), cast(Service, old), node):
                return ""
            return f"node {node} may write its condition of a service, and nothing else of it"
    return f"node {node} may not write objects of kind {kind}"


def _node(node: str, operation: str, new: Node, old: Node | None) -> str:
    if new.metadata.name != node:
        return f"node {node} may write its own Node, and no other"
    if operation == DELETE:
        return f"node {node} may not delete its own Node"
    cidrs = new.spec.pod_cidrs
    if (old is None or cidrs != old.spec.pod_cidrs) and not _is_a_piece(cidrs):
        return f"node {node} may have one piece of the pod network, /{PIECE} or smaller"
    return ""


def _is_a_piece(cidrs: tuple[str, ...]) -> bool:
    """Whoever had more would leave nothing to the others."""
    networks = [ip_network(cidr) for cidr in cidrs]
    return len(networks) <= 1 and all(n.version == 4 and n.prefixlen >= PIECE for n in networks)


def _pod(node: str, operation: str, subresource: str, pod: Pod, there: Pod) -> str:
    match operation:
        case "CREATE":
            if not pod.metadata.annotation(MIRROR):
                return f"node {node} may make mirrors of its static pods, and no other pods"
        case "UPDATE" if subresource != "status":
            return f"node {node} may write the status of its pods, and nothing else of them"
        case "UPDATE" if _belonging(pod) != _belonging(there):
            # By its labels a pod is found by services, by its owner it is counted.
            return (
                f"node {node} may not change labels, owners and finalizers of its pods with their "
                "status"
            )
    return ""


def _belonging(pod: Pod) -> tuple[object, ...]:
    meta = pod.metadata
    return meta.labels or {}, meta.owner_references, meta.finalizers


def borrowed(new: Node, old: Node | None, others: Iterable[Node]) -> str:
    """Why a node may not have the addresses it says; "" when it may. ``others``: all Nodes.

    By its addresses a node is let in at the doors, and found by the pods of the others.
    """
    said = addresses(new) - (set() if old is None else addresses(old))
    if not said:
        return ""
    for other in others:
        taken = said & addresses(other)
        if taken and other.metadata.name != new.metadata.name:
            return (
                f"node {new.metadata.name} may not have the address {min(taken)}: it is node "
                f"{other.metadata.name}'s"
            )
    return ""
