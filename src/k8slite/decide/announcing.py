"""Which node answers for which address of the pool; every node decides by itself.

All nodes rank themselves for an address in the same order (rendezvous hashing: of each pair of
address and node a number is made, and the greatest is first), so that addresses spread over nodes
and those of a dead node spread over the rest. A node announces an address when it may, and when
every node that is ranked before it and may is dead or unwell.

Whether a node *may* is read from the objects: the address's service has a ready endpoint, with
externalTrafficPolicy Local one on that node, and the Node bears no label that keeps it out. Whether
it lives and is well is asked of it directly (``Sight``), never of the control plane: nodes agree as
long as they reach each other, whoever else is away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

from k8slite.api.kinds.endpoints.types import Endpoints
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.service.types import Service
from k8slite.decide.addresspool import Pool
from k8slite.decide.loadbalancer import ingress, is_ours

#: Kubernetes' label of nodes that shall have no balancer's traffic.
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"

#: UDP port at which announcers ask each other.
PORT = 10247
#: Seconds between two probes of a node next to us in rank.
PROBE_EVERY = 0.4
#: So many probes in a row without an answer mean that a node is dead.
MISSES = 3
#: Seconds that an answer may take.
PATIENCE = 0.4
#: What is known of a node that was not asked for so many seconds is known no more.
FORGOTTEN = 10.0
#: So many living nodes ranked before us are watched, so that two may die at once.
DEPTH = 2
#: Seconds between two probes of a dead node: when there are few, and at the most.
DEAD_EVERY, DEAD_AT_MOST = 1.0, 5.0
#: Nodes of a higher rank than this probe more slowly, in proportion.
NEAR = 3


class State(Enum):
    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"  # it may be alive: nobody is robbed on a suspicion


@dataclass(frozen=True, slots=True)
class Offer:
    """An address that services have. ``ready``: has one of them a ready endpoint? ``nodes``: those
    alone may announce it (externalTrafficPolicy Local); None: all may."""

    address: str
    services: tuple[str, ...]  # keys
    ready: bool
    nodes: frozenset[str] | None = None


def offers(
    services: Iterable[Service], endpoints: Callable[[str], Endpoints | None], pool: Pool
) -> dict[str, Offer]:
    """The addresses of ``pool`` that ``services`` have. ``endpoints``: by the service's key."""
    found: dict[str, Offer] = {}
    for service in sorted(services, key=lambda service: service.key):
        if not is_ours(service):
            continue
        for address in ingress(service):
            if address in pool:
                offer = _offer(service, address, endpoints(service.key))
                there = found.get(address)
                found[address] = offer if there is None else _together(there, offer)
    return found


def _offer(service: Service, address: str, endpoints: Endpoints | None) -> Offer:
    ready = [
        endpoint
        for subset in (endpoints.subsets if endpoints is not None else ())
        for endpoint in subset.addresses
    ]
    local = service.spec.external_traffic_policy == "Local"
    nodes = frozenset(endpoint.node_name for endpoint in ready if endpoint.node_name)
    return Offer(address, (service.key,), bool(ready), nodes if local else None)


def _together(one: Offer, other: Offer) -> Offer:
    """Two services that share an address (none of them is Local; were one, all could serve)."""
    return Offer(one.address, one.services + other.services, one.ready or other.ready)


def places(nodes: Iterable[Node]) -> dict[str, str]:
    """The nodes that may announce at all, and where they are asked: name → IPv4 address."""
    found = {}
    for node in nodes:
        if node.metadata.label(EXCLUDED, "no") != "no" or node.metadata.deletion_timestamp:
            continue
        address = next((a.address for a in node.status.addresses if a.type == "InternalIP"), "")
        if address:
            found[node.metadata.name] = address
    return found


def candidates(offer: Offer, nodes: Iterable[str]) -> tuple[str, ...]:
    """Who may announce the address, in order of rank."""
    if not offer.ready:
        return ()
    able = frozenset(nodes)
    return _ranked(offer.address, able if offer.nodes is None else able & offer.nodes)


@lru_cache(maxsize=4096)
def _ranked(address: str, nodes: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(nodes, key=lambda node: (_weight(address, node), node), reverse=True))


def _weight(address: str, node: str) -> bytes:
    return hashlib.blake2b(f"{address} {node}".encode(), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """``mine``: the addresses that this node announces. ``why_not``: of the others that there are,
    why it does not."""

    mine: frozenset[str]
    why_not: Mapping[str, str]


def by_rank(
    me: str, offered: Mapping[str, Offer], nodes: Iterable[str], state: Callable[[str], State]
) -> Verdict:
    """One node announces: the first that is not dead. For ARP."""
    able = frozenset(nodes)
    mine, why_not = set(), {}
    for address, offer in offered.items():
        ranked = candidates(offer, able)
        if me not in ranked:
            why_not[address] = _unfit(offer, me, able)
            continue
        before = ranked[: ranked.index(me)]
        first = next((node for node in before if state(node) is not State.DEAD), None)
        if first is None:
            mine.add(address)
        else:
            why_not[address] = f"node {first} comes before"
    return Verdict(frozenset(mine), why_not)


def by_all(me: str, offered: Mapping[str, Offer], nodes: Iterable[str]) -> Verdict:
    """Every node that may announces, and routers choose. For BGP."""
    able = frozenset(nodes)
    mine = {a for a, offer in offered.items() if me in candidates(offer, able)}
    why_not = {a: _unfit(o, me, able) for a, o in offered.items() if a not in mine}
    return Verdict(frozenset(mine), why_not)


def _unfit(offer: Offer, me: str, able: frozenset[str]) -> str:
    if not offer.ready:
        return "no endpoint is ready"
    if me not in able:
        return f"node {me} is not among the nodes that may (label {EXCLUDED}, or gone)"
    return "no endpoint is ready on this node (externalTrafficPolicy Local)"


# -- liveness ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Peer:
    sent: float = float("-inf")  # the last probe
    misses: int = 0  # probes since the last good answer, the last one included
    answered: bool = False
    well: bool = True


@dataclass(slots=True)
class Sight:
    """What this node knows of the others, by their answers to its probes. Times are monotonic.

    Probes are counted, not seconds: a node that slept for a while has asked nobody meanwhile, and
    takes nobody for dead when it wakes.
    """

    _peers: dict[str, _Peer] = field(default_factory=dict)

    def sent(self, peer: str, now: float) -> None:
        """A probe went out."""
        known = self._peers.setdefault(peer, _Peer())
        if now - known.sent > FORGOTTEN:
            known = self._peers[peer] = _Peer()
        known.sent = now
        known.misses += 1

    def heard(self, peer: str, *, well: bool) -> bool:
        """It answered the last probe. True when it was taken for dead until now."""
        known = self._peers.get(peer)
        if known is None:
            return False
        revived = well and (known.misses >= MISSES or not known.well)
        known.misses, known.answered, known.well = 0, True, well
        return revived

    def state(self, peer: str, now: float) -> State:
        known = self._peers.get(peer)
        if known is None or now - known.sent > FORGOTTEN:
            return State.UNKNOWN
        lost = known.misses if now >= known.sent + PATIENCE else known.misses - 1
        if lost >= MISSES or not known.well:
            return State.DEAD
        return State.ALIVE if known.answered else State.UNKNOWN

    def due(self, peer: str, pace: float, now: float) -> bool:
        """Is it time to ask ``peer``, who is asked every ``pace`` seconds while all is well?"""
        known = self._peers.get(peer)
        if known is None:
            return True
        suspected = 0 < known.misses <= MISSES and now >= known.sent + PATIENCE
        return now >= known.sent + (PROBE_EVERY if suspected else pace)

    def forget(self, peers: Iterable[str]) -> None:
        """These nodes are gone."""
        for peer in peers:
            self._peers.pop(peer, None)

    def known(self) -> Iterator[str]:
        return iter(tuple(self._peers))


def watched(
    me: str, offered: Mapping[str, Offer], nodes: Iterable[str], state: Callable[[str], State]
) -> dict[str, float]:
    """Whom to probe, and every how many seconds.

    For each address that we may announce: the dead that are ranked before us, for they may return,
    and the first of the living, up to DEPTH of them. The further down our rank, the slower, so that
    the first of a thousand nodes is not asked a thousand times as often as the first of three.
    """
    able = frozenset(nodes)
    paces: dict[str, float] = {}
    for offer in offered.values():
        ranked = candidates(offer, able)
        if me not in ranked:
            continue
        rank = ranked.index(me)
        pace = PROBE_EVERY * max(1.0, rank / NEAR)
        living = 0
        dead = 0
        for peer in ranked[:rank]:
            if state(peer) is State.DEAD:
                dead += 1
                slow = min(DEAD_AT_MOST, max(pace, DEAD_EVERY * max(1.0, dead / 10)))
                paces[peer] = min(slow, paces.get(peer, slow))
                continue
            paces[peer] = min(pace, paces.get(peer, pace))
            living += 1
            if living == DEPTH:
                break
    return paces
