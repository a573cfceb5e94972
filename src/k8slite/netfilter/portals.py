"""What a node's netfilter should hold for its portals: a pure set with a memory of what changed.

A portal is one port of one service. What it claims (an address and a port, or a node port) stands
in one of two places:

- the article's chains (``netfilter.rules``): a pair of rules for each claim. A chain is walked
  rule by rule, so it holds a bounded number of them;
- a table of our own in nftables: a ``Door`` for each claim, found in constant time however many
  there are, and a ``Backing`` for each portal that has a door: where it leads to.

Nothing here touches a kernel; the edges do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from k8slite.decide.balancing import Endpoint
from k8slite.netfilter.rules import CHAINS, Rule, rules_of


@dataclass(frozen=True, slots=True)
class Portal:
    """One port of one service, and what serves it: a listener of this process, or the kernel.

    ``name`` is ``namespace/service:portname`` (the port name may be empty: the colon stays, as in
    the article). ``addresses`` are the portal address and the public ones. ``listener`` is its
    local port; 0: the kernel forwards to ``endpoints``. ``affinity`` is the seconds that a client
    stays with its endpoint, or None. ``inside`` and ``outside`` are the endpoints for clients of
    the cluster (pods, this host) and for all others. With ``ranges`` (networks) the kernel lets
    only their clients come to the ``guarded`` ones of the addresses and to the node port.
    """

    name: str
    protocol: str
    addresses: tuple[str, ...]
    port: int
    listener: int = 0
    node_port: int = 0
    inside: tuple[Endpoint, ...] = ()
    outside: tuple[Endpoint, ...] = ()
    affinity: float | None = None
    ranges: tuple[str, ...] = ()
    guarded: tuple[str, ...] = ()


#: The chains are IPv4's: a node port that stands there has a door for IPv6 beside.
EVERY_IPV6 = "::"


class Claim(NamedTuple):
    """What only one portal may hold. ``address`` "" is every address of the host: a node port;
    ``EVERY_IPV6`` those of IPv6 alone."""

    address: str
    protocol: str
    port: int

    def __str__(self) -> str:
        where = "node port" if self.address in ("", EVERY_IPV6) else f"{self.address} port"
        return f"{where} {self.port}/{self.protocol}"


class Door(NamedTuple):
    """Who asks for ``claim`` is led to the backing of ``portal``."""

    claim: Claim
    portal: str


class Backing(NamedTuple):
    """Where the doors of ``portal`` lead: to ``listener`` (address:port) of this process, or, when
    that is "", to ``inside`` or ``outside`` in turn; without any the client is refused. ``ranges``
    and ``guarded`` are those of the ``Portal``."""

    portal: str
    protocol: str
    listener: str
    inside: tuple[Endpoint, ...] = ()
    outside: tuple[Endpoint, ...] = ()
    affinity: float | None = None
    ranges: tuple[str, ...] = ()
    guarded: tuple[str, ...] = ()

    def guards(self, claim: Claim) -> bool:
        """Whether only clients of ``ranges`` may come in there."""
        of_the_host = claim.address in ("", EVERY_IPV6)
        return bool(self.ranges) and (of_the_host or claim.address in self.guarded)


#: What stands for one claim: a pair of rules in the chains, or a door, or nothing.
Standing: TypeAlias = tuple[Rule, ...] | Door | None


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything that should be there: rules by chain, doors, and backings by their portal."""

    chains: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    doors: frozenset[Door] = frozenset()
    backings: Mapping[str, Backing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableChange:
    """A difference of the table. ``backed`` are new and changed backings, ``bare`` are portals
    that need theirs no longer. Make backings before doors, and take doors away before backings."""

    closed: tuple[Door, ...] = ()
    opened: tuple[Door, ...] = ()
    backed: tuple[Backing, ...] = ()
    bare: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.closed or self.opened or self.backed or self.bare)


@dataclass(frozen=True, slots=True)
class Change:
    """What turns the items of before into those of now: rules of the chains, and the table's."""

    remove: tuple[Rule, ...] = ()
    add: tuple[Rule, ...] = ()
    table: TableChange = TableChange()

    def __bool__(self) -> bool:
        return bool(self.remove or self.add or self.table)


class DesiredRules:
    """All that a node should have; every operation costs as much as what it changes.

    ``chain_room`` is how many claims the chains take: None for all of them, because there is no
    table; 0 for none. A claim stays where it was put as long as somebody holds it. IPv6 stands in
    the table alone.

    Two services may ask for the same address, protocol and port (two owners of one public
    address). The one that came first keeps it and the others wait; when it goes, the next in
    order of arrival gets it. ``put`` says who lost to whom, because silence here would look like
    a broken network.
    """

    def __init__(self, node_ip: str, chain_room: int | None = None) -> None:
        self.node_ip = node_ip
        self._room = chain_room
        self._portals: dict[str, Portal] = {}
        # First in each queue is the owner. Dicts keep the order of arrival.
        self._claims: dict[Claim, dict[str, None]] = {}
        self._standing: dict[Claim, Standing] = {}
        self._chained = 0  # claims in the chains
        self._doors: Counter[str] = Counter()  # of each portal
        self._backings: dict[str, Backing] = {}
        # What was there at the last ``take``, of all that was touched since.
        self._stood: dict[Claim, Standing] = {}
        self._backed: dict[str, Backing | None] = {}

    def __len__(self) -> int:
        return 2 * self._chained + sum(self._doors.values()) + len(self._backings)

    def put(self, portal: Portal) -> dict[Claim, str]:
        """Want this portal. Returns what it may not have: the claim and the name of its owner, or
        "" where nothing on this host can hold it (IPv6 without a table)."""
        old = self._portals.get(portal.name)
        if old != portal:
            self._portals[portal.name] = portal
            now = self._wanted(portal)
            for claim in self._wanted(old) if old else ():
                if claim not in now:
                    self._release(claim, portal.name)
            for claim in now:
                self._claims.setdefault(claim, {}).setdefault(portal.name)
                self._refresh(claim)
            self._refresh_backing(portal.name)
        return self.lost(portal.name)

    def owner(self, claim: Claim) -> str | None:
        """The name of the portal that has ``claim``."""
        return next(iter(self._claims.get(claim, ())), None)

    def lost(self, name: str) -> dict[Claim, str]:
        """What the portal of this name may not have now; see ``put``."""
        portal = self._portals.get(name)
        lost = {}
        for claim in self._wanted(portal) if portal else ():
            owner = next(iter(self._claims[claim]))
            if owner != name:
                lost[claim] = owner
            elif claim not in self._standing:
                lost[claim] = ""
        return lost

    def remove(self, name: str) -> None:
        """Want the portal of this name no longer. An unknown name is no error."""
        portal = self._portals.pop(name, None)
        for claim in self._wanted(portal) if portal else ():
            self._release(claim, name)
        self._refresh_backing(name)

    def all(self) -> Desired:
        """The whole desired set."""
        chains: dict[str, list[Rule]] = {chain: [] for chain in CHAINS}
        doors = []
        for standing in self._standing.values():
            if isinstance(standing, Door):
                doors.append(standing)
            else:
                for rule in standing or ():
                    chains[rule.chain].append(rule)
        rules = {chain: tuple(found) for chain, found in chains.items()}
        return Desired(rules, frozenset(doors), dict(self._backings))

    def take(self) -> Change:
        """What changed since the last ``take``; what came and went in between is left out."""
        remove: list[Rule] = []
        add: list[Rule] = []
        closed: list[Door] = []
        opened: list[Door] = []
        for claim, old in self._stood.items():
            new = self._standing.get(claim)
            if old == new:
                continue
            for standing, rules, doors in ((old, remove, closed), (new, add, opened)):
                if isinstance(standing, Door):
                    doors.append(standing)
                else:
                    rules += standing or ()
        backed = [
            backing
            for name, was in self._backed.items()
            if (backing := self._backings.get(name)) is not None and backing != was
        ]
        bare = [name for name, was in self._backed.items() if was and name not in self._backings]
        self._stood, self._backed = {}, {}
        table = TableChange(tuple(closed), tuple(opened), tuple(backed), tuple(bare))
        return Change(tuple(remove), tuple(add), table)

    def _wanted(self, portal: Portal) -> dict[Claim, None]:
        """What a portal asks for. A listener answers clients of IPv6 whatever its endpoints are."""
        claims = [Claim(address, portal.protocol, portal.port) for address in portal.addresses]
        if portal.node_port:
            claims.append(Claim("", portal.protocol, portal.node_port))
            if portal.listener and self._room is not None:
                claims.append(Claim(EVERY_IPV6, portal.protocol, portal.node_port))
        return dict.fromkeys(claims)

    def _release(self, claim: Claim, name: str) -> None:
        queue = self._claims.get(claim, {})
        queue.pop(name, None)
        if not queue:
            self._claims.pop(claim, None)
        self._refresh(claim)

    def _refresh(self, claim: Claim) -> None:
        """Make what stands for a claim that of its owner."""
        queue = self._claims.get(claim)
        old = self._standing.get(claim)
        owner = self._portals[next(iter(queue))] if queue else None
        new = self._stand(claim, owner, old) if owner else None
        if old == new:
            return
        self._stood.setdefault(claim, old)
        if new is None:
            del self._standing[claim]
        else:
            self._standing[claim] = new
        self._chained += _in_chains(new) - _in_chains(old)
        if isinstance(old, Door):
            self._doors[old.portal] -= 1
            self._refresh_backing(old.portal)
        if isinstance(new, Door):
            self._doors[new.portal] += 1
            self._refresh_backing(new.portal)

    def _stand(self, claim: Claim, portal: Portal, old: Standing) -> Standing:
        """Rules or a door for ``claim``: of the kind that it has, else of the kind that fits."""
        room = self._room is None or _in_chains(old) or self._chained < self._room
        if portal.listener and room and ":" not in claim.address and not isinstance(old, Door):
            return rules_of(
                portal.name, claim.protocol, claim.address, claim.port,
                portal.listener, self.node_ip,
            )  # fmt: skip
        return None if self._room is None else Door(claim, portal.name)

    def _refresh_backing(self, name: str) -> None:
        """Have a backing for a portal that has doors, as the portal is now."""
        old = self._backings.get(name)
        portal = self._portals.get(name) if self._doors[name] else None
        new = self._backing(portal) if portal else None
        if not self._doors[name]:
            del self._doors[name]
        if old == new:
            return
        self._backed.setdefault(name, old)
        if new is None:
            del self._backings[name]
        else:
            self._backings[name] = new

    def _backing(self, portal: Portal) -> Backing:
        if portal.listener:
            return Backing(portal.name, portal.protocol, f"{self.node_ip}:{portal.listener}")
        return Backing(
            portal.name, portal.protocol, "", portal.inside, portal.outside, portal.affinity,
            portal.ranges, portal.guarded,
        )  # fmt: skip


def _in_chains(standing: Standing) -> bool:
    return standing is not None and not isinstance(standing, Door)


def difference(desired: Iterable[Rule], present: Iterable[Rule]) -> Change:
    """What makes ``present`` rules ``desired`` ones. A rule present twice is removed once."""
    wanted = dict.fromkeys(desired)
    seen: set[Rule] = set()
    remove = []
    for rule in present:
        if rule in wanted and rule not in seen:
            seen.add(rule)
        else:
            remove.append(rule)
    return Change(tuple(remove), tuple(rule for rule in wanted if rule not in seen))
