"""May this node take this pod? The predicates of v0.17 (plugin/pkg/scheduler/algorithm/predicates)
with today's requests, taints and required node affinity."""

from __future__ import annotations

from k8slite.api.kinds.node.types import Taint
from k8slite.api.kinds.pod.types import Toleration
from k8slite.decide.scheduling import affinity
from k8slite.decide.scheduling.demand import HostPort
from k8slite.decide.scheduling.rules import Check, Predicate, Request
from k8slite.decide.scheduling.snapshot import NodeState, Snapshot


def _candidates(request: Request, snapshot: Snapshot) -> Check:
    """Ready and schedulable, whatever the policy says."""

    def check(node: NodeState) -> str | None:
        if node.ready and node.schedulable:
            return None
        return "not ready" if not node.ready else "unschedulable"

    return check


def tolerates(tolerations: tuple[Toleration, ...], taint: Taint) -> bool:
    """An empty key with Exists tolerates everything, an empty effect every effect."""
    return any(
        (not toleration.effect or toleration.effect == taint.effect)
        and (not toleration.key or toleration.key == taint.key)
        and (
            toleration.operator == "Exists"
            or (bool(toleration.key) and toleration.value == taint.value)
        )
        for toleration in tolerations
    )


def _taints(request: Request, snapshot: Snapshot) -> Check:
    tolerations = request.pod.spec.tolerations

    def check(node: NodeState) -> str | None:
        for taint in node.taints:
            if not tolerates(tolerations, taint):
                return f"taint {taint.key}:{taint.effect} not tolerated"
        return None

    return check


def _host_name(request: Request, snapshot: Snapshot) -> Check | None:
    wanted = request.pod.spec.node_name
    if not wanted:
        return None
    return lambda node: None if node.name == wanted else "HostName"


def _node_selector(request: Request, snapshot: Snapshot) -> Check | None:
    selector = (request.pod.spec.node_selector or {}).items()
    terms = affinity.required_terms(request.pod)
    if not selector and terms is None:
        return None

    def check(node: NodeState) -> str | None:
        if selector <= node.labels.items() and (
            terms is None or affinity.matches(terms, node.name, node.labels)
        ):
            return None
        return "MatchNodeSelector"

    return check


def _port_taken(wanted: HostPort, node: NodeState) -> bool:
    protocol, port, address = wanted
    taken = node.ports.get((protocol, port))
    return taken is not None and (not address or "" in taken or address in taken)


def _ports(request: Request, snapshot: Snapshot) -> Check | None:
    wanted = request.demand.ports
    if not wanted:
        return None

    def check(node: NodeState) -> str | None:
        for port in wanted:
            if _port_taken(port, node):
                return f"PodFitsPorts ({port[1]})"
        return None

    return check


def _resources(request: Request, snapshot: Snapshot) -> Check:
    demand = request.demand
    cpu, memory, others = demand.cpu, demand.memory, demand.others

    def lacking(node: NodeState) -> str:
        short = []
        if cpu > 0 and node.used_cpu + cpu > node.cpu:
            short.append("cpu")
        if memory > 0 and node.used_memory + memory > node.memory:
            short.append("memory")
        if node.max_pods is not None and len(node.pods) >= node.max_pods:
            short.append("pods")
        for name, amount in others.items():
            # Nodes need not measure their scratch space; who does not sets no limit.
            there = node.others.get(name, amount if name == "ephemeral-storage" else 0)
            if node.used_others.get(name, 0) + amount > there:
                short.append(name)
        return f"PodFitsResources ({', '.join(short)})"

    def check(node: NodeState) -> str | None:
        if (
            (cpu == 0 or node.used_cpu + cpu <= node.cpu)
            and (memory == 0 or node.used_memory + memory <= node.memory)
            and (node.max_pods is None or len(node.pods) < node.max_pods)
            and not others
        ):
            return None
        reason = lacking(node)
        return None if reason == "PodFitsResources ()" else reason

    return check


def _no_disk_conflict(request: Request, snapshot: Snapshot) -> Check | None:
    wanted = request.demand.disks
    if not wanted:
        return None

    def check(node: NodeState) -> str | None:
        for disk in wanted:
            mounted = node.disks.get(disk.name, ())
            if any(not (disk.shared and other.shared) for other in mounted):
                return f"NoDiskConflict ({disk.name})"
        return None

    return check


def labels_presence(name: str, labels: tuple[str, ...], presence: bool) -> Predicate:
    """Nodes must have (``presence``) or must lack every one of ``labels``, whatever the value."""

    def check(node: NodeState) -> str | None:
        return None if all((label in node.labels) is presence for label in labels) else name

    return Predicate(name, lambda request, snapshot: check)


def service_affinity(name: str, labels: tuple[str, ...]) -> Predicate:
    """Pods of one service share the values of ``labels``: those that the pod's node selector
    names, the others from the node where a pod of the service stands already."""

    def wanted(request: Request, snapshot: Snapshot) -> frozenset[tuple[str, str]]:
        chosen = request.pod.spec.node_selector or {}
        found = {label: chosen[label] for label in labels if label in chosen}
        missing = [label for label in labels if label not in chosen]
        siblings = snapshot.siblings(request.pod, ("service",)) if missing else None
        standing = siblings.counts.keys() & snapshot.nodes.keys() if siblings else ()
        if standing:
            example = snapshot.nodes[min(standing)].labels
            found |= {label: example[label] for label in missing if label in example}
        return frozenset(found.items())

    def prepare(request: Request, snapshot: Snapshot) -> Check:
        pairs = wanted(request, snapshot)
        # Held so that the counts are kept, not made anew for the watermark of every pod.
        siblings = snapshot.siblings(request.pod, ("service",))

        def check(node: NodeState, _held: object = siblings) -> str | None:
            return None if pairs <= node.labels.items() else name

        return check

    return Predicate(name, prepare, watermark=wanted)


#: Asked of every node whatever the policy says; in this order.
ALWAYS = (
    Predicate("Candidates", _candidates),
    Predicate("PodToleratesNodeTaints", _taints),
)

#: v0.17's names; the default policy has all of them.
BY_NAME: dict[str, Predicate] = {
    predicate.name: predicate
    for predicate in (
        Predicate("HostName", _host_name),
        Predicate("MatchNodeSelector", _node_selector),
        Predicate("PodFitsPorts", _ports),
        Predicate("PodFitsResources", _resources),
        Predicate("NoDiskConflict", _no_disk_conflict),
    )
}
