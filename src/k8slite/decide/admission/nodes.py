"""What a node may write: its own Node, its own pods' statuses and mirrors, events.

Reads are everybody's who is let in. The rule holds for those who come with a node's certificate.
"""

from __future__ import annotations

from typing import cast

from k8slite.api.kinds.pod.types import Pod
from k8slite.api.meta import Object

CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"

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
            return _node(node, operation, obj.metadata.name)
        case "Pod":
            there = cast(Pod, obj if old is None else old)
            if there.spec.node_name != node:
                return f"node {node} may write pods that are bound to it, and no others"
            return _pod(node, operation, subresource, cast(Pod, obj))
        case "Event":
            return "" if operation != DELETE else f"node {node} may not delete events"
    return f"node {node} may not write objects of kind {kind}"


def _node(node: str, operation: str, name: str) -> str:
    if name != node:
        return f"node {node} may write its own Node, and no other"
    return f"node {node} may not delete its own Node" if operation == DELETE else ""


def _pod(node: str, operation: str, subresource: str, pod: Pod) -> str:
    match operation:
        case "CREATE":
            if not pod.metadata.annotation(MIRROR):
                return f"node {node} may make mirrors of its static pods, and no other pods"
        case "UPDATE" if subresource != "status":
            return f"node {node} may write the status of its pods, and nothing else of them"
    return ""
