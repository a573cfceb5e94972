"""The portals of a table of our own in nftables: ``netfilter.edge.Edge`` for doors and backings.

A change is one transaction and costs what it changes. Whether anybody else changed the table is
known from the kernel's own news, in order, so nothing is read again while nobody did; and a change
between our writing and our looking cannot be missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from k8slite.netfilter.edge import Drifted, Locked, NetfilterError, Thread, Unsupported
from k8slite.netfilter.nft.chains import Surroundings, skeleton
from k8slite.netfilter.nft.layout import (
    IP,
    IP6,
    LOOPBACK_MAP,
    TABLE,
    Family,
    delete_table,
    doors_map,
)
from k8slite.netfilter.nft.netlink import Link, News
from k8slite.netfilter.nft.reading import Listed, counted, exists, listed
from k8slite.netfilter.nft.services import Wanted, families_of, guarded, portal_of, wanted_of
from k8slite.netfilter.nft.table import FamilyTable, Place, claim_of, place_of, sound
from k8slite.netfilter.portals import Backing, Change, Claim, Desired, Door, TableChange

log = structlog.get_logger()

FAMILIES = (IP, IP6)
_OURS = frozenset((family.number, TABLE) for family in FAMILIES)
#: Changes of others that may come between while it is tried out whether a table works.
_TRIES = 50
#: Seconds between news of others' changes and the look at what they did.
_PAUSE = 0.1
#: Whether bridged packets meet the rules of each family; without the file they do not.
_BRIDGED = {
    family: Path(f"/proc/sys/net/bridge/bridge-nf-call-{family.word}tables") for family in FAMILIES
}


@dataclass(slots=True)
class _Plan:
    """What one portal needs in one family's table."""

    chains: dict[str, Wanted] = field(default_factory=dict)
    doors: dict[Place, str] = field(default_factory=dict)


class TableEdge:
    """``netfilter.edge.Edge`` over the tables ``k8slite``. ``pod_network`` (as 172.16.0.0/16) and
    ``bridge`` tell pods of this node from others."""

    name = "nftables"
    chain_room = 0

    def __init__(self, pod_network: str, bridge: str) -> None:
        self._pod_network = pod_network
        self._bridge = bridge
        self._thread = Thread("nftables")
        self._link: Link | None = None
        self._news: News | None = None
        self._known = False  # whether what follows is what the kernel has
        self._tables: dict[Family, FamilyTable] = {}
        self._claims: dict[str, set[Claim]] = {}
        self._backings: dict[str, Backing] = {}
        self._plans: dict[str, dict[Family, _Plan]] = {}
        self._disturbed: Callable[[], None] | None = None
        self._listening = False

    def heed(self, disturbed: Callable[[], None]) -> None:
        """Have ``disturbed`` called, in the loop of whoever uses the edge, when others changed
        nftables: ask then whether all is ``intact``."""
        self._disturbed = disturbed

    async def probe(self) -> None:
        await self._thread.run(self.try_out)

    def try_out(self) -> None:
        """Make the table and take it back in one transaction, on any thread. Raises Unsupported,
        NotPermitted."""
        link = Link()
        try:
            if not any(self._tried_out(link) for _ in range(_TRIES)):
                raise Locked("nftables changes all the time; end what changes it")
            News(link.port).close()
        finally:
            link.close()

    def _tried_out(self, link: Link) -> bool:
        """Nobody else's table may get lost: only while nothing changes."""
        generation = link.generation()
        if exists(link, IP):
            return True
        try:
            link.commit([*skeleton(IP, self._around(IP)), delete_table(IP)], generation)
        except Drifted as error:
            if link.generation() == generation:  # an expression is not there
                raise Unsupported(f"{error}; this kernel's nftables lacks it") from error
            return False
        return True

    async def sync(self, desired: Desired) -> Change:
        done = await self._thread.run(lambda: self._sync(desired))
        self._listen()
        return done

    async def change(self, change: Change) -> None:
        await self._thread.run(lambda: self._change(change.table))
        self._listen()

    async def intact(self) -> bool:
        intact = await self._thread.run(self._intact)
        self._listen()
        return intact

    async def remove(self) -> list[str]:
        await self._thread.run(self._remove)
        return []

    async def close(self) -> None:
        self._deafen()
        await self._thread.run(self._shut)
        self._thread.close()

    async def connections(self) -> dict[str, int]:
        """How many came to each portal since its chain was made; read when somebody asks."""
        return await self._thread.run(self._connections)

    def _listen(self) -> None:
        """Wait for news again: what came so far was looked at."""
        if self._disturbed is not None and self._news is not None and not self._listening:
            self._listening = True
            asyncio.get_running_loop().add_reader(self._news, self._hear)

    def _hear(self) -> None:
        self._deafen()
        if self._disturbed is not None:
            # One change seldom comes alone, and somebody busy shall not keep us busy.
            asyncio.get_running_loop().call_later(_PAUSE, self._disturbed)

    def _deafen(self) -> None:
        if self._listening and self._news is not None:
            self._listening = False
            asyncio.get_running_loop().remove_reader(self._news)

    def _open(self) -> Link:
        if self._link is None:
            link = Link()
            try:
                self._news = News(link.port)
            except NetfilterError:
                link.close()
                raise
            self._link = link
        return self._link

    def _shut(self) -> None:
        for part in (self._link, self._news):
            if part is not None:
                part.close()
        self._link = self._news = None
        self._known = False

    def _around(self, family: Family) -> Surroundings:
        try:
            bridged = _BRIDGED[family].read_text().strip() == "1"
        except OSError:
            bridged = False
        return Surroundings(self._pod_network, self._bridge, bridged)

    def _intact(self) -> bool:
        if self._known and self._news is not None and self._news.of(_OURS):
            self._known = False
        return self._known

    # -- changes -----------------------------------------------------------------------------------

    def _change(self, change: TableChange) -> None:
        if not self._intact():
            raise Drifted("somebody else changed the table k8slite")
        touched: dict[str, None] = {}
        for door in change.closed:
            self._claims.get(door.portal, set()).discard(door.claim)
            touched[door.portal] = None
        for door in change.opened:
            self._claims.setdefault(door.portal, set()).add(door.claim)
            touched[door.portal] = None
        for backing in change.backed:
            self._backings[backing.portal] = backing
            touched[backing.portal] = None
        for name in change.bare:
            self._backings.pop(name, None)
            touched[name] = None
        self._known = False  # until all is done
        # What is given up goes first: a door may change hands.
        plans = {name: self._plan(name) for name in touched}
        for name in touched:
            self._give_up(name, plans[name])
        for name in touched:
            self._have(name, plans[name])
        self._commit()

    def _plan(self, name: str) -> dict[Family, _Plan]:
        """What a portal needs, by family."""
        backing, claims = self._backings.get(name), self._claims.get(name)
        if not claims:
            self._claims.pop(name, None)
        if backing is None or not claims:
            return {}
        return {
            family: _planned(backing, claims, family)
            for family in families_of(backing, claims)
        }  # fmt: skip

    def _give_up(self, name: str, plans: Mapping[Family, _Plan]) -> None:
        for family, old in self._plans.get(name, {}).items():
            new = plans.get(family, _Plan())
            for place in old.doors.keys() - new.doors.keys():
                self._tables[family].close(place)
            for chain in old.chains.keys() - new.chains.keys():
                self._tables[family].drop(chain)

    def _have(self, name: str, plans: dict[Family, _Plan]) -> None:
        for family, plan in plans.items():
            table = self._tables[family]
            if not table.present:
                table.begin()
            for chain, wanted in plan.chains.items():
                table.want(chain, wanted)
            for place, chain in plan.doors.items():
                table.open(place, chain)
        if plans:
            self._plans[name] = plans
        else:
            self._plans.pop(name, None)

    def _commit(self) -> bool:
        """Do what was gathered. Returns whether there was anything."""
        link = self._open()
        messages = [message for table in self._tables.values() for message in table.take()]
        if messages:
            link.commit(messages)
        self._known = True
        return bool(messages)

    # -- the whole ---------------------------------------------------------------------------------

    def _sync(self, desired: Desired) -> Change:
        if self._intact() and all(
            table.around == self._around(family) for family, table in self._tables.items()
        ):
            change = self._difference(desired)
            if change:
                self._change(change)
            return Change(table=change)
        return Change(table=self._adopt(desired))

    def _difference(self, desired: Desired) -> TableChange:
        """From what was left to what is desired."""
        left = {Door(claim, name) for name, claims in self._claims.items() for claim in claims}
        backed = tuple(
            backing
            for name, backing in desired.backings.items()
            if self._backings.get(name) != backing
        )
        return TableChange(
            tuple(left - desired.doors),
            tuple(desired.doors - left),
            backed,
            tuple(self._backings.keys() - desired.backings.keys()),
        )

    def _adopt(self, desired: Desired) -> TableChange:
        """Read what the kernel has, keep what is right of it, and mend the rest."""
        link = self._open()
        assert self._news is not None
        self._news.of(_OURS)  # what comes from now on was not read
        self._claims, self._backings, self._plans = {}, dict(desired.backings), {}
        for door in desired.doors:
            self._claims.setdefault(door.portal, set()).add(door.claim)
        plans = {name: self._plan(name) for name in desired.backings}
        change = TableChange()
        for family in FAMILIES:
            table = self._tables[family] = FamilyTable(family, self._around(family), link)
            found = listed(link, family)
            wanted = {name: plan[family] for name, plan in plans.items() if family in plan}
            change = _sum(change, self._adopt_family(table, found, wanted))
        for name, plan in plans.items():
            self._have(name, plan)
        touched = {portal_of(chain) for t in self._tables.values() for chain in t.touched}
        backed = tuple(self._backings[name] for name in touched if name in self._backings)
        for table in self._tables.values():
            table.touched.clear()
        if self._commit() and change.closed + change.opened + change.bare + backed:
            log.info("table written", role="proxy", table=TABLE)
        return TableChange(change.closed, change.opened, backed, change.bare)

    def _adopt_family(
        self, table: FamilyTable, found: Listed | None, plans: Mapping[str, _Plan]
    ) -> TableChange:
        """What doors have to change for it, and which portals' chains are nobody's."""
        usable = found is not None and sound(table.family, found, table.around)
        doors = {place: chain for plan in plans.values() for place, chain in plan.doors.items()}
        before: dict[Place, str] = {}
        if found is not None and usable:
            chains = {c: wanted for plan in plans.values() for c, wanted in plan.chains.items()}
            table.adopt(found, chains, doors)
            before = found.places()
        elif found is not None:
            table.begin()  # one that is not there is made with the first that stands in it
        opened = (place for place, chain in doors.items() if table.doors.get(place) != chain)
        closed = (place for place, chain in before.items() if doors.get(place) != chain)
        bare = {portal_of(chain) for chain in (found.chains if found else ())} - {""}
        return TableChange(
            tuple({_door(place, before[place]) for place in closed}),
            tuple({_door(place, doors[place]) for place in opened}),
            (),
            tuple(bare - plans.keys()),
        )

    # -- the end -----------------------------------------------------------------------------------

    def _remove(self) -> None:
        link = self._open()
        there = [family for family in FAMILIES if exists(link, family)]
        if there:
            link.commit([delete_table(family) for family in there])
        self._known = False

    def _connections(self) -> dict[str, int]:
        link = self._open()
        counts = dict.fromkeys(self._backings, 0)
        for family in FAMILIES:
            for chain, packets in counted(link, family):
                name = portal_of(chain)
                if name in counts:
                    counts[name] += packets
        return counts


def _planned(backing: Backing, claims: Iterable[Claim], family: Family) -> _Plan:
    chains = wanted_of(backing, family)
    sides = list(chains)  # for the inside, and for the outside if it has its own
    doors = {}
    for claim in claims:
        for chain, outside in zip(sides, (False, True), strict=False):
            place = place_of(claim, family, outside=outside)
            if place is None:
                continue
            if backing.guards(claim):
                doors[place] = guarded(chain)
                chains[guarded(chain)] = Wanted(onward=chain, ranges=backing.ranges)
            else:
                doors[place] = chain
                if backing.listener and place[0] == doors_map(True, False):
                    doors[LOOPBACK_MAP, place[1]] = chain
    return _Plan(chains, doors)


def _door(place: Place, chain: str) -> Door:
    return Door(claim_of(place), portal_of(chain))


def _sum(one: TableChange, other: TableChange) -> TableChange:
    return TableChange(
        tuple(dict.fromkeys(one.closed + other.closed)),
        tuple(dict.fromkeys(one.opened + other.opened)),
        one.backed + other.backed,
        tuple(dict.fromkeys(one.bare + other.bare)),
    )
