"""What the scheduler knows: nodes with what is used on them, kept fact by fact.

Folding a fact in costs what changed, never the size of the cluster. A ``NodeState`` is frozen and
replaced when its node changes, so whoever holds one holds a consistent picture. Every replacement
is noted in a change log, from which rankings catch up.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from weakref import WeakValueDictionary

import msgspec

from k8slite.api.kinds.node.types import Node, Taint
from k8slite.api.kinds.pod.types import Pod
from k8slite.decide.scheduling.demand import Demand, Disk, amounts, demand_of

#: Effects that keep a pod from being placed.
_REPELLING = ("NoSchedule", "NoExecute")


class Placement(msgspec.Struct, frozen=True):
    """A pod on a node, decided or known."""

    key: str
    node: str
    demand: Demand
    terminating: bool
    pod: Pod

    def same_as(self, other: Placement | None) -> bool:
        return (
            other is not None
            and self.node == other.node
            and self.terminating == other.terminating
            and (self.pod is other.pod or self._weight() == other._weight())
        )

    def _weight(self) -> tuple[object, ...]:
        return self.demand, self.pod.metadata.labels, self.pod.metadata.uid


class NodeState(msgspec.Struct, frozen=True):
    """A node and what is used of it. cpu in thousandths of a core, memory in bytes."""

    name: str
    node: Node
    labels: dict[str, str]
    ready: bool
    schedulable: bool
    taints: tuple[Taint, ...]
    cpu: int
    memory: int
    max_pods: int | None
    others: dict[str, int]
    used_cpu: int = 0
    used_memory: int = 0
    used_others: dict[str, int] = {}
    likely_cpu: int = 0
    likely_memory: int = 0
    ports: dict[tuple[str, int], tuple[str, ...]] = {}
    disks: dict[str, tuple[Disk, ...]] = {}
    pods: dict[str, Placement] = {}


def is_ready(node: Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def _empty_state(node: Node) -> NodeState:
    allocatable = amounts(node.status.allocatable or node.status.capacity)
    return NodeState(
        name=node.metadata.name,
        node=node,
        labels=node.metadata.labels or {},
        ready=is_ready(node),
        schedulable=not node.spec.unschedulable,
        taints=tuple(taint for taint in node.spec.taints if taint.effect in _REPELLING),
        cpu=allocatable.pop("cpu", 0),
        memory=allocatable.pop("memory", 0),
        max_pods=allocatable.pop("pods", None),
        others=allocatable,
    )


def _facts(state: NodeState) -> tuple[object, ...]:
    """What scheduling sees of the node itself."""
    return (
        state.labels, state.ready, state.schedulable, state.taints,
        state.cpu, state.memory, state.max_pods, state.others,
    )  # fmt: skip


def _shifted(state: NodeState, placement: Placement, sign: int) -> NodeState:
    """``state`` with ``placement`` added (sign 1) or taken away (sign -1)."""
    demand = placement.demand
    pods = dict(state.pods)
    if sign > 0:
        pods[placement.key] = placement
    else:
        del pods[placement.key]
    changes: dict[str, object] = {}
    if demand.others:
        changes["used_others"] = _shifted_others(state.used_others, demand, sign)
    if demand.ports:
        changes["ports"] = _ports_of(pods)
    if demand.disks:
        changes["disks"] = _disks_of(pods)
    return msgspec.structs.replace(
        state,
        pods=pods,
        used_cpu=state.used_cpu + sign * demand.cpu,
        used_memory=state.used_memory + sign * demand.memory,
        likely_cpu=state.likely_cpu + sign * demand.likely_cpu,
        likely_memory=state.likely_memory + sign * demand.likely_memory,
        **changes,
    )


def _shifted_others(used: Mapping[str, int], demand: Demand, sign: int) -> dict[str, int]:
    return {**used, **{n: used.get(n, 0) + sign * amount for n, amount in demand.others.items()}}


def _ports_of(pods: Mapping[str, Placement]) -> dict[tuple[str, int], tuple[str, ...]]:
    found: dict[tuple[str, int], tuple[str, ...]] = {}
    for placement in pods.values():
        for protocol, port, address in placement.demand.ports:
            found[protocol, port] = (*found.get((protocol, port), ()), address)
    return found


def _disks_of(pods: Mapping[str, Placement]) -> dict[str, tuple[Disk, ...]]:
    found: dict[str, tuple[Disk, ...]] = {}
    for placement in pods.values():
        for disk in placement.demand.disks:
            found[disk.name] = (*found.get(disk.name, ()), disk)
    return found


Selector = frozenset[tuple[str, str]]


class Siblings:
    """How many pods that any of some selectors matches stand on each node."""

    __slots__ = ("__weakref__", "counts", "selectors")

    def __init__(self, selectors: frozenset[Selector]) -> None:
        self.selectors = selectors
        self.counts: dict[str, int] = {}

    def matches(self, placement: Placement) -> bool:
        if placement.terminating:
            return False
        labels = (placement.pod.metadata.labels or {}).items()
        return any(selector <= labels for selector in self.selectors)

    def shift(self, node: str, sign: int) -> None:
        count = self.counts.get(node, 0) + sign
        if count:
            self.counts[node] = count
        else:
            del self.counts[node]


def _drop(groups: dict[str, dict[str, Placement]], group: str, key: str) -> None:
    del groups[group][key]
    if not groups[group]:
        del groups[group]


class Snapshot:
    """Nodes, placements and selectors. Decisions read it; its owner alone folds facts in."""

    #: Changes remembered; who is further behind starts anew.
    LOG = 20_000

    def __init__(self) -> None:
        self._nodes: dict[str, NodeState] = {}
        self._placements: dict[str, Placement] = {}
        self._on_node: dict[str, dict[str, Placement]] = {}
        self._in_namespace: dict[str, dict[str, Placement]] = {}
        #: namespace → (sort, key) → selector; sort is "service" or "controller"
        self._selectors: dict[str, dict[tuple[str, str], Selector]] = {}
        self._selector_versions: dict[str, int] = {}
        self._siblings: dict[str, WeakValueDictionary[frozenset[Selector], Siblings]] = {}
        self._log: list[str] = []
        self._log_start = 0

    @property
    def nodes(self) -> Mapping[str, NodeState]:
        return self._nodes

    @property
    def version(self) -> int:
        """Grows with every change of any node; a position for ``changed_since``."""
        return self._log_start + len(self._log)

    def changed_since(self, version: int) -> Set[str] | None:
        """Names of nodes that changed (came, went) after ``version``; None: too long ago."""
        if version < self._log_start:
            return None
        return set(self._log[version - self._log_start :])

    def _note(self, name: str) -> None:
        self._log.append(name)
        if len(self._log) > self.LOG:
            half = self.LOG // 2
            del self._log[:half]
            self._log_start += half

    # -- nodes

    def set_node(self, node: Node) -> bool:
        """The node is as ``node`` says; True when that matters to anybody."""
        state, old = _empty_state(node), self._nodes.get(node.metadata.name)
        if old is not None and _facts(old) == _facts(state):
            self._nodes[state.name] = msgspec.structs.replace(old, node=node)
            return False
        for placement in self._on_node.get(state.name, {}).values():
            state = _shifted(state, placement, 1)
        self._nodes[state.name] = state
        self._note(state.name)
        return True

    def remove_node(self, name: str) -> None:
        if self._nodes.pop(name, None) is not None:
            self._note(name)

    # -- pods

    def placement(self, key: str) -> Placement | None:
        return self._placements.get(key)

    def place(self, pod: Pod, node: str = "", demand: Demand | None = None) -> bool:
        """``pod`` stands on ``node`` (its own nodeName by default); True when that is news."""
        placement = Placement(
            key=pod.key,
            node=node or pod.spec.node_name,
            demand=demand or demand_of(pod),
            terminating=pod.metadata.deletion_timestamp is not None,
            pod=pod,
        )
        if placement.same_as(self._placements.get(placement.key)):
            return False
        self.remove(placement.key)
        self._placements[placement.key] = placement
        self._on_node.setdefault(placement.node, {})[placement.key] = placement
        self._in_namespace.setdefault(pod.metadata.namespace, {})[placement.key] = placement
        self._shift(placement, 1)
        return True

    def remove(self, key: str) -> bool:
        """The pod is gone, over, or was never placed after all; True when it stood somewhere."""
        placement = self._placements.pop(key, None)
        if placement is None:
            return False
        _drop(self._on_node, placement.node, key)
        _drop(self._in_namespace, placement.pod.metadata.namespace, key)
        self._shift(placement, -1)
        return True

    def _shift(self, placement: Placement, sign: int) -> None:
        for siblings in self._siblings.get(placement.pod.metadata.namespace, {}).values():
            if siblings.matches(placement):
                siblings.shift(placement.node, sign)
        state = self._nodes.get(placement.node)
        if state is not None:
            self._nodes[placement.node] = _shifted(state, placement, sign)
            self._note(placement.node)

    # -- selectors

    def set_selector(
        self, sort: str, namespace: str, name: str, selector: Mapping[str, str] | None
    ) -> None:
        """A service (``sort`` "service") or replication controller ("controller") selects so;
        None or empty: it is gone or selects nothing."""
        held = self._selectors.setdefault(namespace, {})
        wanted = frozenset(selector.items()) if selector else None
        if held.get((sort, name)) == wanted:
            return
        if wanted is None:
            del held[sort, name]
        else:
            held[sort, name] = wanted
        self._selector_versions[namespace] = self.selector_version(namespace) + 1

    def selector_version(self, namespace: str) -> int:
        return self._selector_versions.get(namespace, 0)

    def siblings(self, pod: Pod, sorts: tuple[str, ...]) -> Siblings | None:
        """The pods that stand behind the same services (and controllers) as ``pod``; None when
        nothing selects it. The result is kept current as long as somebody holds it."""
        namespace, labels = pod.metadata.namespace, pod.metadata.labels or {}
        found = frozenset(
            selector
            for (sort, _), selector in self._selectors.get(namespace, {}).items()
            if sort in sorts and selector <= labels.items()
        )
        if not found:
            return None
        known = self._siblings.setdefault(namespace, WeakValueDictionary())
        siblings = known.get(found)
        if siblings is None:
            siblings = known[found] = Siblings(found)
            for placement in self._in_namespace.get(namespace, {}).values():
                if siblings.matches(placement):
                    siblings.shift(placement.node, 1)
        return siblings
