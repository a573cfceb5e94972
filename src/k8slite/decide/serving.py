"""What a node says on the services that it cannot serve as they ask: a condition of the status.

Each node has a condition of its own, there as long as there is trouble, and writes no other. It is
a metav1.Condition: status False, the reason of the worst trouble, a message with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from k8slite.api.kinds.service.types import Service, ServiceStatus
from k8slite.api.meta import Condition
from k8slite.decide.loadbalancer import CONFLICT

#: The condition's type: this and the node's name.
PREFIX = "k8slite.io/Served-on-"

#: Reasons, the worst first.
NOT_WRITTEN = "PortalRulesNotWritten"
NOT_OPENED = "PortalNotOpened"
PORT_TAKEN = "NodePortTaken"
PORTAL_CONFLICT = "PortalConflict"
NO_FAMILY = "NoAddressFamily"
LEAD_BACK = "EndpointsLeadBack"
NOT_KEPT = "ClientAddressNotKept"
REASONS = (NOT_WRITTEN, NOT_OPENED, PORT_TAKEN, PORTAL_CONFLICT, NO_FAMILY, LEAD_BACK, NOT_KEPT)

#: Characters of a message; what is longer is cut.
LONGEST = 1024


class Trouble(NamedTuple):
    """``reason`` is one of ``REASONS``."""

    reason: str
    message: str


def kind_of(node: str) -> str:
    """The type of the condition that ``node`` writes."""
    return PREFIX + node


def condition_of(service: Service, node: str) -> Condition | None:
    return next((c for c in service.status.conditions if c.type == kind_of(node)), None)


def told(
    service: Service, node: str, troubles: Iterable[Trouble], now: str
) -> ServiceStatus | None:
    """The status of ``service`` that says the ``troubles`` of ``node``; None when it is so
    already. ``now``: RFC 3339."""
    known = condition_of(service, node)
    condition = _condition(service, node, known, _of_the_node(service, troubles), now)
    if condition == known:
        return None
    conditions: tuple[Condition, ...] = _others(service, node)
    if condition is not None:
        conditions = (*conditions, condition)
    return replace(service.status, conditions=conditions)


def nodes_of(service: Service) -> list[str]:
    """The nodes that say something on a service."""
    kinds = (c.type for c in service.status.conditions)
    return [kind.removeprefix(PREFIX) for kind in kinds if kind.startswith(PREFIX)]


def without(service: Service, exists: Callable[[str], bool]) -> ServiceStatus | None:
    """The status without what nodes say that are gone; None when there is nothing of it."""
    gone = {kind_of(node) for node in nodes_of(service) if not exists(node)}
    if not gone:
        return None
    kept = (c for c in service.status.conditions if c.type not in gone)
    return replace(service.status, conditions=tuple(kept))


def only_its_own(new: Service, old: Service, node: str) -> bool:
    """Whether ``new`` differs from ``old`` in the condition of ``node`` alone, which is well
    formed."""
    if new.metadata != old.metadata or new.spec != old.spec:
        return False
    if _others(new, node) != _others(old, node):
        return False
    if replace(new.status, conditions=()) != replace(old.status, conditions=()):
        return False
    own = [c for c in new.status.conditions if c.type == kind_of(node)]
    return len(own) <= 1 and all(map(_well_formed, own))


def _of_the_node(service: Service, troubles: Iterable[Trouble]) -> list[Trouble]:
    """Without a conflict that the cluster has said already: it is the same on every node."""
    conditions = service.status.conditions
    said = any(c.type == CONFLICT and c.status == "True" for c in conditions)
    found = [t for t in troubles if not (said and t.reason == PORTAL_CONFLICT)]
    return sorted(found, key=lambda t: (_rank(t.reason), t.message))


def _rank(reason: str) -> int:
    return REASONS.index(reason) if reason in REASONS else len(REASONS)


def _condition(
    service: Service, node: str, known: Condition | None, troubles: Sequence[Trouble], now: str
) -> Condition | None:
    if not troubles:
        return None
    message = "; ".join(dict.fromkeys(trouble.message for trouble in troubles))
    if len(message) > LONGEST:
        message = message[: LONGEST - 1] + "…"
    since = (known and known.last_transition_time) or now
    return Condition(
        type=kind_of(node),
        status="False",
        observed_generation=service.metadata.generation or 0,
        # Somebody may have spoilt it, and a node may only write what is well formed.
        last_transition_time=since if len(since) <= LONGEST else now,
        reason=troubles[0].reason,
        message=message,
    )


def _others(service: Service, node: str) -> tuple[Condition, ...]:
    return tuple(c for c in service.status.conditions if c.type != kind_of(node))


def _well_formed(condition: Condition) -> bool:
    words = (condition.reason, condition.message, condition.last_transition_time or "")
    return condition.status == "False" and all(len(word) <= LONGEST for word in words)
