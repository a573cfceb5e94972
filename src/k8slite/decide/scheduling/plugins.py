"""Rules that users write: small Python functions.

A predicate is ``predicate(pod, node, snapshot) -> None | reason``, a priority
``priority(pod, node, snapshot) -> 0..10``; ``pod`` is the API object, ``node`` a ``NodeState``
(``node.node`` is the API object), ``snapshot`` everything known. They are found through the entry
point groups ``k8slite.scheduler.predicates`` and ``k8slite.scheduler.priorities``.

A function that looks at nothing but the pod's spec, labels and annotations and the one node says
so with ``@node_local``: its answers are then kept until the node changes. Any other is asked anew
for every pod.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from k8slite.api.kinds.pod.types import Pod
from k8slite.decide.scheduling.rules import BEST, Check, Predicate, Priority, Request, Score
from k8slite.decide.scheduling.snapshot import NodeState, Snapshot

PredicateFunction = Callable[[Pod, NodeState, Snapshot], str | None]
PriorityFunction = Callable[[Pod, NodeState, Snapshot], float]
F = TypeVar("F", bound=Callable[..., Any])


class PluginFailed(Exception):
    """A plug-in raised or returned what it may not; the message says which and what."""


def node_local(function: F) -> F:
    """Declare that ``function`` looks at nothing but the pod and the one node."""
    function.node_local = True  # type: ignore[attr-defined]
    return function


def _watermark(function: object) -> Callable[[Request, Snapshot], Hashable]:
    if getattr(function, "node_local", False):
        return lambda request, snapshot: None
    return lambda request, snapshot: (request.pod.metadata.uid, snapshot.version)


def predicate(name: str, function: PredicateFunction) -> Predicate:
    def prepare(request: Request, snapshot: Snapshot) -> Check:
        def check(node: NodeState) -> str | None:
            try:
                reason = function(request.pod, node, snapshot)
            except Exception as error:
                raise PluginFailed(f"predicate {name}: {error!r}") from error
            if reason is not None and not isinstance(reason, str):
                raise PluginFailed(f"predicate {name} returned {reason!r}, not None or a reason")
            return None if reason is None else f"{name} ({reason})"

        return check

    return Predicate(name, prepare, watermark=_watermark(function))


def priority(name: str, function: PriorityFunction) -> Priority:
    def prepare(request: Request, snapshot: Snapshot) -> Score:
        def score(node: NodeState) -> float:
            try:
                found = function(request.pod, node, snapshot)
            except Exception as error:
                raise PluginFailed(f"priority {name}: {error!r}") from error
            if not isinstance(found, int | float) or not 0 <= found <= BEST:
                raise PluginFailed(f"priority {name} returned {found!r}, not 0 to {BEST}")
            return found

        return score

    return Priority(name, prepare, watermark=_watermark(function))
