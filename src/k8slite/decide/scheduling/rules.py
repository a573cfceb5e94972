"""The shape of a rule. A predicate says whether a node may take a pod, a priority how well.

A rule looks at the pod once (``prepare``) and hands back a small function for nodes, or None when
it has nothing to say about this pod. What it says of a node must depend on the ``NodeState``
alone; whatever else it read belongs into its ``watermark``: when that changes, all is asked anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass

import msgspec

from k8slite.api.kinds.pod.types import Pod
from k8slite.decide.scheduling.demand import Demand
from k8slite.decide.scheduling.snapshot import NodeState, Snapshot

#: What a priority may give a node at most; the least is 0.
BEST = 10


class Request(msgspec.Struct, frozen=True):
    """A pod that wants a node, and what it asks for."""

    pod: Pod
    demand: Demand


#: None when the node fits, else the reason in a few words.
Check = Callable[[NodeState], str | None]
Score = Callable[[NodeState], float]


@dataclass(frozen=True, slots=True)
class Grouping:
    """A score that depends on other nodes too.

    ``group`` puts a node into a group; ``scores`` gives each of the groups that occur its score.
    """

    group: Callable[[NodeState], Hashable]
    scores: Callable[[Collection[Hashable]], Mapping[Hashable, float]]


def _never(request: Request, snapshot: Snapshot) -> Hashable:
    return None


@dataclass(frozen=True, slots=True)
class Predicate:
    name: str
    prepare: Callable[[Request, Snapshot], Check | None]
    watermark: Callable[[Request, Snapshot], Hashable] = _never


@dataclass(frozen=True, slots=True)
class Priority:
    name: str
    prepare: Callable[[Request, Snapshot], Score | Grouping | None]
    watermark: Callable[[Request, Snapshot], Hashable] = _never
    weight: int = 1
