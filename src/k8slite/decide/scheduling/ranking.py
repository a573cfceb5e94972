"""The nodes, ranked for one sort of pod, and kept ranked while the cluster changes.

Pods that ask for the same thing share a ranking. Nodes with the same marks stand together in a
bucket, so a decision looks at buckets (a few dozen at most), never at nodes; a node that changes
is judged anew, the others are not. On large clusters a decision asks for enough nodes that fit,
not for all (as kube-scheduler does): the rest is judged a few at a time, with each further pod.
"""

from __future__ import annotations

from collections.abc import Hashable

from k8slite.decide.scheduling.policy import Policy
from k8slite.decide.scheduling.rules import Check, Grouping, Predicate, Priority, Request, Score
from k8slite.decide.scheduling.snapshot import NodeState, Snapshot
from k8slite.kit.clock import Rng

#: Fitting nodes to know before a decision is taken (kube-scheduler's minFeasibleNodesToFind).
ENOUGH = 100
#: Nodes to judge at each decision, even when enough are known.
A_FEW = 32

#: Local score, then the group of each grouping priority.
Marks = tuple[Hashable, ...]


class Bucket:
    """A set of names that gives a random member in constant time."""

    __slots__ = ("_at", "_names")

    def __init__(self) -> None:
        self._names: list[str] = []
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str) -> None:
        self._at[name] = len(self._names)
        self._names.append(name)

    def remove(self, name: str) -> None:
        at, last = self._at.pop(name), self._names.pop()
        if last != name:
            self._names[at] = last
            self._at[last] = at

    def __getitem__(self, number: int) -> str:
        return self._names[number]


class Ranking:
    """The ranking for ``request`` and all pods like it."""

    def __init__(self, request: Request, policy: Policy, snapshot: Snapshot, rng: Rng) -> None:
        self._request = request
        self._policy = policy
        self._snapshot = snapshot
        self._start(rng)

    def _start(self, rng: Rng) -> None:
        request, snapshot = self._request, self._snapshot
        self._watermark = self._watermark_now()
        self._checks: list[Check] = [
            check for rule in self._policy.predicates if (check := rule.prepare(request, snapshot))
        ]
        self._scores: list[tuple[int, Score]] = []
        self._groupings: list[tuple[int, Grouping]] = []
        for priority in self._policy.priorities:
            prepared = priority.prepare(request, snapshot)
            if isinstance(prepared, Grouping):
                self._groupings.append((priority.weight, prepared))
            elif prepared is not None:
                self._scores.append((priority.weight, prepared))
        self._buckets: dict[Marks, Bucket] = {}
        self._verdicts: dict[str, Marks | str] = {}
        names = list(snapshot.nodes)
        first = int(rng.random() * len(names))
        self._unexamined = dict.fromkeys(names[first:] + names[:first])
        self._version = snapshot.version
        self.fitting = 0

    def _watermark_now(self) -> tuple[Hashable, ...]:
        request, snapshot = self._request, self._snapshot
        rules: tuple[Predicate | Priority, ...]
        rules = (*self._policy.predicates, *self._policy.priorities)
        return tuple(rule.watermark(request, snapshot) for rule in rules)

    def serve(self, request: Request) -> None:
        """``request`` is like the one this ranking was made for; plug-ins shall see it."""
        self._request = request

    def refresh(self, rng: Rng) -> None:
        """Catch up with the snapshot and examine until enough nodes fit."""
        changed = self._snapshot.changed_since(self._version)
        if changed is None or self._watermark_now() != self._watermark:
            self._start(rng)
        else:
            self._version = self._snapshot.version
            for name in changed:
                self._forget(name)
                self._unexamined[name] = None
        examined = 0
        while self._unexamined and (self.fitting < ENOUGH or examined < A_FEW):
            name, _ = self._unexamined.popitem()
            self._examine(name)
            examined += 1

    def _forget(self, name: str) -> None:
        verdict = self._verdicts.pop(name, None)
        if verdict is not None and not isinstance(verdict, str):
            self.fitting -= 1
            bucket = self._buckets[verdict]
            bucket.remove(name)
            if not bucket:
                del self._buckets[verdict]

    def _examine(self, name: str) -> None:
        """Judge ``name``, which nothing is known of; it may be gone."""
        node = self._snapshot.nodes.get(name)
        if node is None:
            return
        verdict = self._verdicts[name] = self._judge(node)
        if isinstance(verdict, str):
            return
        self.fitting += 1
        bucket = self._buckets.get(verdict)
        if bucket is None:
            bucket = self._buckets[verdict] = Bucket()
        bucket.add(name)

    def _judge(self, node: NodeState) -> Marks | str:
        for check in self._checks:
            reason = check(node)
            if reason is not None:
                return reason
        total = 0.0
        for weight, score in self._scores:
            total += weight * score(node)
        return total, *[grouping.group(node) for _, grouping in self._groupings]

    def best(self, rng: Rng) -> tuple[str, float] | None:
        """The node with the highest score (one of them at random) and its score."""
        scales = [
            (weight, grouping.scores({marks[number] for marks in self._buckets}))
            for number, (weight, grouping) in enumerate(self._groupings, 1)
        ]
        top, leaders = -1.0, []
        for marks, bucket in self._buckets.items():
            total: float = marks[0]  # type: ignore[assignment]
            for number, (weight, scale) in enumerate(scales, 1):
                total += weight * scale[marks[number]]
            if total > top:
                top, leaders = total, [bucket]
            elif total == top:
                leaders.append(bucket)
        if not leaders:
            return None
        chosen = int(rng.random() * sum(map(len, leaders)))
        for bucket in leaders:
            if chosen < len(bucket):
                return bucket[chosen], top
            chosen -= len(bucket)
        raise AssertionError("unreachable: the choice lies within the leaders")

    def reasons_by_node(self) -> dict[str, str]:
        """Why each examined node that does not fit does not."""
        return {name: v for name, v in self._verdicts.items() if isinstance(v, str)}
