"""How well would this node take this pod? 0 to 10, as v0.17's priorities have it
(plugin/pkg/scheduler/algorithm/priorities)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import cast

from k8slite.decide.scheduling.rules import BEST, Grouping, Priority, Request, Score
from k8slite.decide.scheduling.snapshot import NodeState, Snapshot


def _least_requested(request: Request, snapshot: Snapshot) -> Score:
    """The emptier the better: the free part of cpu and memory after the pod, each 0 to 10."""
    cpu, memory = request.demand.likely_cpu, request.demand.likely_memory

    def score(node: NodeState) -> float:
        free_cpu = node.cpu - node.likely_cpu - cpu
        free_memory = node.memory - node.likely_memory - memory
        cpu_score = free_cpu * BEST // node.cpu if free_cpu > 0 else 0
        memory_score = free_memory * BEST // node.memory if free_memory > 0 else 0
        return (cpu_score + memory_score) // 2

    return score


def _balanced(request: Request, snapshot: Snapshot) -> Score:
    """Cpu and memory should fill up alike: 10 less ten times the difference of their used parts.
    A node that would be full in either gets 0."""
    cpu, memory = request.demand.likely_cpu, request.demand.likely_memory

    def score(node: NodeState) -> float:
        used_cpu = node.likely_cpu + cpu
        used_memory = node.likely_memory + memory
        if used_cpu >= node.cpu or used_memory >= node.memory:
            return 0
        return BEST - int(abs(used_cpu / node.cpu - used_memory / node.memory) * BEST)

    return score


def _spreading(*sorts: str) -> Callable[[Request, Snapshot], Grouping | None]:
    """The fewer pods behind the same services (controllers) a node has, the better."""

    def scores(counts: Collection[Hashable]) -> Mapping[Hashable, float]:
        numbers = cast(Collection[int], counts)
        most = max(numbers, default=0)
        return {n: BEST * (most - n) / most if most else BEST for n in numbers}

    def prepare(request: Request, snapshot: Snapshot) -> Grouping | None:
        siblings = snapshot.siblings(request.pod, sorts)
        if siblings is None:
            return None

        # The closure holds ``siblings``, not its counts alone: that keeps them current.
        return Grouping(lambda node: siblings.counts.get(node.name, 0), scores)

    return prepare


def _selector_version(request: Request, snapshot: Snapshot) -> Hashable:
    return snapshot.selector_version(request.pod.metadata.namespace)


def label_preference(name: str, label: str, presence: bool) -> Priority:
    """10 for nodes that have (``presence``) or lack ``label``, 0 for the others."""
    return Priority(
        name,
        lambda request, snapshot: lambda node: BEST if (label in node.labels) is presence else 0,
    )


def service_anti_affinity(name: str, label: str) -> Priority:
    """Spread a service over the values of ``label``; nodes without it get 0."""

    def prepare(request: Request, snapshot: Snapshot) -> Grouping:
        siblings = snapshot.siblings(request.pod, ("service",))

        def scores(zones: Collection[Hashable]) -> Mapping[Hashable, float]:
            per_zone: dict[Hashable, int] = {}
            for node_name, count in siblings.counts.items() if siblings else ():
                node = snapshot.nodes.get(node_name)
                if node is not None and (zone := node.labels.get(label)) is not None:
                    per_zone[zone] = per_zone.get(zone, 0) + count
            total = sum(per_zone.values())
            return {
                zone: 0 if zone is None
                else BEST * (total - per_zone.get(zone, 0)) / total if total else BEST
                for zone in zones
            }  # fmt: skip

        return Grouping(lambda node: node.labels.get(label), scores)

    return Priority(name, prepare, watermark=_selector_version)


#: The default policy: v0.17's three, the last of them counting controllers too, as today.
DEFAULT = (
    Priority("LeastRequestedPriority", _least_requested),
    Priority("BalancedResourceAllocation", _balanced),
    Priority(
        "SelectorSpreadPriority",
        _spreading("service", "controller"),
        watermark=_selector_version,
    ),
)

BY_NAME: dict[str, Priority] = {
    priority.name: priority
    for priority in (
        *DEFAULT,
        Priority("ServiceSpreadingPriority", _spreading("service"), watermark=_selector_version),
        Priority("EqualPriority", lambda request, snapshot: None),
    )
}
