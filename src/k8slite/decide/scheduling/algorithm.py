"""One pod in, one decision out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from k8slite.api import codec
from k8slite.api.kinds.pod.types import Pod
from k8slite.decide.scheduling.demand import Demand, demand_of
from k8slite.decide.scheduling.policy import Policy
from k8slite.decide.scheduling.ranking import Ranking
from k8slite.decide.scheduling.rules import Request
from k8slite.decide.scheduling.snapshot import Snapshot
from k8slite.kit.clock import Rng


@dataclass(frozen=True, slots=True)
class Decision:
    """``node`` is "" when none fits; then ``reasons`` says of every node why not.

    ``sort`` names what the pod asks for: pods of one sort fit the same nodes.
    """

    node: str
    score: float
    demand: Demand
    sort: bytes
    nodes: int
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """``0/3 nodes fit: 1 PodFitsResources (cpu), 2 not ready``."""
        if self.node:
            return f"placed on {self.node} (score {self.score:g})"
        counts: dict[str, int] = {}
        for reason in self.reasons.values():
            counts[reason] = counts.get(reason, 0) + 1
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        return f"0/{self.nodes} nodes fit: {why or 'there are no nodes'}"


class Algorithm:
    """Decides by ``policy`` over ``snapshot``; keeps rankings for the sorts of pods seen last."""

    #: Verdicts kept over all rankings (one for each node of each sort of pod); some 100 bytes each.
    VERDICTS = 250_000

    def __init__(self, policy: Policy, snapshot: Snapshot) -> None:
        self._policy = policy
        self._snapshot = snapshot
        self._rankings: OrderedDict[bytes, tuple[Demand, Ranking]] = OrderedDict()

    def sort_of(self, pod: Pod) -> bytes:
        """Pods of one sort get the same answers: same namespace, labels, annotations, spec."""
        meta = pod.metadata
        return codec.encode((meta.namespace, meta.labels, meta.annotations, pod.spec))

    def decide(self, pod: Pod, rng: Rng) -> Decision:
        """Where ``pod`` should go. Raises PluginFailed."""
        sort = self.sort_of(pod)
        demand, ranking = self._ranking(sort, pod, rng)
        found = ranking.best(rng)
        total = len(self._snapshot.nodes)
        if found is None:
            return Decision("", 0.0, demand, sort, total, ranking.reasons_by_node())
        node, score = found
        return Decision(node, score, demand, sort, total)

    def fits_somewhere(self, pod: Pod, rng: Rng) -> bool:
        """Would ``decide`` find a node? Cheap when pods of this sort were decided before."""
        _, ranking = self._ranking(self.sort_of(pod), pod, rng)
        return ranking.fitting > 0

    def _ranking(self, sort: bytes, pod: Pod, rng: Rng) -> tuple[Demand, Ranking]:
        known = self._rankings.get(sort)
        if known is None:
            request = Request(pod, demand_of(pod))
            known = request.demand, Ranking(request, self._policy, self._snapshot, rng)
            self._rankings[sort] = known
            if len(self._rankings) > max(16, self.VERDICTS // (len(self._snapshot.nodes) or 1)):
                self._rankings.popitem(last=False)
        else:
            self._rankings.move_to_end(sort)
            known[1].serve(Request(pod, known[0]))
        try:
            known[1].refresh(rng)
        except BaseException:
            del self._rankings[sort]  # half refreshed: not to be used again
            raise
        return known
