"""Node health: when a node has gone silent, what that means for it and its pods, and how fast to
evict.

Rules of Kubernetes' node lifecycle controller: a silent node's conditions become Unknown, its pods
not ready; after the eviction time-out its pods are deleted, node by node at a measured pace, slower
when most nodes are unhealthy at once and not at all when all are: then it is more likely that we
are cut off than that every machine has died.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from k8slite.api.kinds.node.types import Node, NodeCondition, Taint
from k8slite.api.kinds.pod.types import Pod, PodCondition
from k8slite.decide.scheduling.predicates import tolerates
from k8slite.kit.clock import parse_rfc3339, rfc3339

#: What a kubelet reports and nobody else does.
REPORTED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
#: A pod with this annotation mirrors a manifest on the node; deleting it stops nothing.
MIRROR = "kubernetes.io/config.mirror"

#: Nodes a second that are evicted, normally and when most of many nodes are unhealthy.
EVICTION_RATE, REDUCED_RATE = 0.1, 0.01
EVICTION_BURST = 10.0
#: The part of unhealthy nodes from which on a cluster counts as disrupted; a large one has more
#: nodes than this.
DISRUPTED, LARGE = 0.55, 50


def condition(node: Node, type_: str) -> NodeCondition | None:
    return next((c for c in node.status.conditions if c.type == type_), None)


def unhealthy_since(node: Node) -> float | None:
    """Unix seconds since when the node is not Ready; None while it is. A node that never said
    anything counts from its creation."""
    ready = condition(node, "Ready")
    if ready is not None and ready.status == "True":
        return None
    stamp = ready.last_transition_time if ready else node.metadata.creation_timestamp
    return parse_rfc3339(stamp) if stamp else 0.0


def silenced(node: Node, now: float) -> Node:
    """``node`` with what its kubelet reported turned Unknown; ``node`` itself if it is already."""
    never = condition(node, "Ready") is None
    reason = "NodeStatusNeverUpdated" if never else "NodeStatusUnknown"
    message = f"Kubelet {'never posted' if never else 'stopped posting'} node status."
    found = list(node.status.conditions)
    if never:
        found.append(NodeCondition(type="Ready", last_transition_time=rfc3339(now)))
    changed = tuple(
        msgspec.structs.replace(
            c, status="Unknown", reason=reason, message=message, last_transition_time=rfc3339(now)
        )
        if c.type in REPORTED and c.status != "Unknown"
        else c
        for c in found
    )
    if changed == node.status.conditions:
        return node
    status = msgspec.structs.replace(node.status, conditions=changed)
    return msgspec.structs.replace(node, status=status)


def not_ready(pod: Pod, now: float) -> Pod:
    """``pod`` with its Ready condition False; ``pod`` itself when it is not ready anyhow."""

    def changed(c: PodCondition) -> PodCondition:
        if c.type != "Ready" or c.status != "True":
            return c
        return msgspec.structs.replace(
            c, status="False", reason="NodeNotReady", last_transition_time=rfc3339(now)
        )

    conditions = tuple(changed(c) for c in pod.status.conditions)
    if conditions == pod.status.conditions:
        return pod
    status = msgspec.structs.replace(pod.status, conditions=conditions)
    return msgspec.structs.replace(pod, status=status)


def eviction_delay(pod: Pod, node: Node, default: float) -> float | None:
    """Seconds that ``pod`` may stay on the unhealthy ``node``; None: for ever.

    Its tolerations of ``node.kubernetes.io/not-ready`` or ``unreachable`` decide, as they do in
    Kubernetes; who has none stays for ``default``.
    """
    ready = condition(node, "Ready")
    silent = ready is None or ready.status == "Unknown"
    taint = Taint(
        key=f"node.kubernetes.io/{'unreachable' if silent else 'not-ready'}", effect="NoExecute"
    )
    delays = [
        toleration.toleration_seconds
        for toleration in pod.spec.tolerations
        if tolerates((toleration,), taint)
    ]
    if not delays:
        return default
    limited = [seconds for seconds in delays if seconds is not None]
    return max(0, min(limited)) if limited else None


def evictions(
    node: Node, pods: Iterable[Pod], now: float, timeout: float
) -> tuple[list[Pod], float | None]:
    """The pods of ``node`` that must go now, and in how many seconds the next one must."""
    since = unhealthy_since(node)
    if since is None:
        return [], None
    due: list[Pod] = []
    next_in: float | None = None
    for pod in pods:
        if pod.metadata.deletion_timestamp is not None or pod.metadata.annotation(MIRROR):
            continue
        delay = eviction_delay(pod, node, timeout)
        if delay is None:
            continue
        left = since + delay - now
        if left <= 0:
            due.append(pod)
        else:
            next_in = left if next_in is None else min(next_in, left)
    return due, next_in


def eviction_rate(nodes: int, unhealthy: int) -> float:
    """Nodes that may be evicted in a second, given how many of all are unhealthy."""
    if unhealthy >= nodes:
        return 0.0
    if unhealthy > 2 and unhealthy >= DISRUPTED * nodes:
        return REDUCED_RATE if nodes > LARGE else 0.0
    return EVICTION_RATE


@dataclass(frozen=True, slots=True)
class Pace:
    """A token bucket: one token is one node. ``at`` is monotonic seconds."""

    tokens: float = EVICTION_BURST
    at: float = 0.0

    def take(self, now: float, rate: float) -> tuple[Pace, float | None]:
        """The bucket afterwards, and 0.0 when a token was there, else in how many seconds one
        will be (None: never at this rate)."""
        if rate <= 0:
            return Pace(self.tokens, now), None
        tokens = min(EVICTION_BURST, self.tokens + (now - self.at) * rate)
        if tokens >= 1:
            return Pace(tokens - 1, now), 0.0
        return Pace(tokens, now), (1 - tokens) / rate
