"""One family's table of ours: what stands in it, and the messages that change it.

Messages are gathered from any number of changes and ordered once: what was closed goes before what
is behind it, and what is opened comes after.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from k8slite.netfilter.edge import NetfilterError
from k8slite.netfilter.nft import netlink as nl
from k8slite.netfilter.nft.chains import Surroundings, chains, skeleton
from k8slite.netfilter.nft.expressions import GOTO, native, same, verdict_data
from k8slite.netfilter.nft.layout import (
    OURS,
    SLOT_BITS,
    Family,
    affinity_map,
    delete_chain,
    delete_set,
    delete_table,
    doors_map,
    element,
    elements,
    empty_chain,
    maps,
    new_chain,
    new_rule,
    new_set,
    new_table,
    replace_rule,
)
from k8slite.netfilter.nft.netlink import Link, Message
from k8slite.netfilter.nft.reading import Listed, handle_of
from k8slite.netfilter.nft.services import Edits, ServiceChain, Wanted, adopted, affinity_name
from k8slite.netfilter.portals import EVERY_IPV6, Claim

#: Numbers that chains can have; 0 is nobody's.
_NUMBERS = (OURS >> SLOT_BITS) - 1
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}

#: Where a door stands: a map's name, and the key in it.
Place = tuple[str, bytes]


def place_of(claim: Claim, family: Family, *, outside: bool = False) -> Place | None:
    """Where the door of a claim stands in a family's table; None when it is of the other family.
    A node port is of both, unless it is IPv6's alone."""
    behind = struct.pack("!B3xH2x", _PROTOCOLS[claim.protocol], claim.port)
    if claim.address == EVERY_IPV6 and family.size == 4:
        return None
    if claim.address in ("", EVERY_IPV6):
        return doors_map(True, outside), behind
    address = ipaddress.ip_address(claim.address)
    if len(address.packed) != family.size:
        return None
    return doors_map(False, outside), address.packed + behind


def claim_of(place: Place) -> Claim:
    """The inverse, of a door for clients inside or outside."""
    _, key = place
    address, protocol, port = key[:-8], key[-8], key[-4:-2]
    names = {number: name for name, number in _PROTOCOLS.items()}
    host = str(ipaddress.ip_address(address)) if address else ""
    return Claim(host, names.get(protocol, str(protocol)), int.from_bytes(port, "big"))


@dataclass(slots=True)
class Batch:
    """Messages of one transaction for one table, in the order in which they must come."""

    first: list[Message] = field(default_factory=list)
    closed: dict[str, list[bytes]] = field(default_factory=dict)
    made: list[Message] = field(default_factory=list)
    edits: Edits = field(default_factory=Edits)
    rules: list[Message] = field(default_factory=list)
    opened: dict[str, list[bytes]] = field(default_factory=dict)
    emptied: list[Message] = field(default_factory=list)
    last: list[Message] = field(default_factory=list)

    def messages(self, family: Family) -> Iterator[Message]:
        yield from self.first
        for name, packed in self.closed.items():
            yield from elements(family, nl.DELELEMENT, name, packed)
        for name, packed in self.edits.gone.items():
            yield from elements(family, nl.DELELEMENT, name, packed)
        yield from self.made
        for name, packed in self.edits.new.items():
            yield from elements(family, nl.NEWELEMENT, name, packed)
        yield from self.rules
        for name, packed in self.opened.items():
            yield from elements(family, nl.NEWELEMENT, name, packed)
        yield from self.emptied
        yield from self.last


class FamilyTable:
    """Raises NetfilterError where a question to the kernel fails. After a transaction that failed
    it is of no use any more: read anew."""

    def __init__(self, family: Family, around: Surroundings, link: Link) -> None:
        self.family = family
        self.around = around
        self.present = False
        self.chains: dict[str, ServiceChain] = {}
        self.doors: dict[Place, str] = {}
        self.touched: set[str] = set()  # chains that were made or whose endpoints changed
        self._link = link
        self._free: list[int] = []
        self._next = 1
        self._batch = Batch()

    def take(self) -> list[Message]:
        """What is to be done since the last time."""
        batch, self._batch = self._batch, Batch()
        return list(batch.messages(self.family))

    def begin(self) -> None:
        """Make the table with what always stands in it, in place of whatever is there."""
        self._batch.first += [new_table(self.family), delete_table(self.family)]
        self._batch.first += skeleton(self.family, self.around)
        self.present = True

    def open(self, place: Place, chain: str) -> None:
        if self.doors.get(place) == chain:
            return
        self.close(place)
        name, key = place
        self.doors[place] = chain
        packed = element(key, verdict_data(GOTO, chain))
        self._batch.opened.setdefault(name, []).append(packed)

    def close(self, place: Place) -> None:
        if self.doors.pop(place, None) is not None:
            name, key = place
            self._batch.closed.setdefault(name, []).append(element(key))

    def want(self, name: str, wanted: Wanted) -> None:
        """Have the chain ``name`` lead to what is wanted."""
        chain = self.chains.get(name)
        if chain is None or not chain.fits(wanted):
            self.touched.add(name)
            self._make(name, wanted, replaces=chain)
            return
        if frozenset(chain.ring) == frozenset(wanted.endpoints):
            return
        self.touched.add(name)
        if not chain.serve(wanted.endpoints, self._batch.edits):
            return
        if not chain.handle:
            chain.handle = handle_of(self._link, self.family, name, chain.drawing_at)
        self._batch.rules.append(replace_rule(self.family, name, chain.handle, chain.drawing()))

    def drop(self, name: str) -> None:
        """Take the chain away; its doors are closed."""
        chain = self.chains.pop(name, None)
        if chain is None:
            return
        self._forget(chain)
        self._batch.emptied.append(empty_chain(self.family, name))
        self._batch.last.append(delete_chain(self.family, name))
        if chain.affinity is not None:
            self._batch.last.append(delete_set(self.family, affinity_name(name)))

    def _make(self, name: str, wanted: Wanted, replaces: ServiceChain | None) -> None:
        batch, family = self._batch, self.family
        if replaces is not None:
            self._forget(replaces)
            batch.made.append(empty_chain(family, name))
            if replaces.affinity is not None:
                batch.made.append(delete_set(family, affinity_name(name)))
        else:
            batch.made.append(new_chain(family, name))
        number = self._number() if wanted.draws else 0
        chain = ServiceChain(family, name, number, wanted.form)
        self.chains[name] = chain
        chain.serve(wanted.endpoints, batch.edits)
        if chain.affinity is not None:
            shape = affinity_map(family, affinity_name(name), chain.affinity)
            batch.made.append(new_set(family, shape))
        batch.rules += (new_rule(family, name, rule) for rule in chain.rules())

    def _forget(self, chain: ServiceChain) -> None:
        """Its elements go, and its number is free."""
        chain.serve((), self._batch.edits)
        if chain.number:
            self._free.append(chain.number)

    def _number(self) -> int:
        if self._free:
            return self._free.pop(0)
        number = self._next
        if number > _NUMBERS:
            raise NetfilterError(f"more than {_NUMBERS:,} chains of services")
        self._next += 1
        return number

    # -- adoption ----------------------------------------------------------------------------------

    def adopt(
        self, found: Listed, wanted: Mapping[str, Wanted], doors: Mapping[Place, str]
    ) -> None:
        """Keep what is right of a table that is there; what is not goes with the next batch.
        ``wanted`` and ``doors`` are all that there shall be."""
        self.present = True
        self._mend_fixed(found)
        self._adopt_chains(found, wanted)
        self._adopt_doors(found, doors)
        self._clear_strays(found)

    def _mend_fixed(self, found: Listed) -> None:
        first = self._batch.first
        for chain in chains(self.family, self.around):
            _, rules = found.chains.get(chain.name, (None, []))
            if len(rules) == len(chain.rules) and all(
                same(mine, rule) for mine, (_, rule) in zip(chain.rules, rules, strict=True)
            ):
                continue
            first.append(new_chain(self.family, chain.name, chain.hook))
            first.append(empty_chain(self.family, chain.name))
            first += (new_rule(self.family, chain.name, rule) for rule in chain.rules)

    def _adopt_chains(self, found: Listed, wanted: Mapping[str, Wanted]) -> None:
        used: set[int] = set()
        for name, want in wanted.items():
            hook, rules = found.chains.get(name, (None, []))
            chain = adopted(self.family, name, want, rules, found.slots, found.rings)
            if chain is None or hook or chain.number in used:
                continue
            if chain.affinity is not None:
                shape = affinity_map(self.family, affinity_name(name), chain.affinity)
                if found.shapes.get(shape.name) != shape:
                    continue
            used |= {chain.number} - {0}
            self.chains[name] = chain
        for name, chain in tuple(self.chains.items()):
            if chain.form.onward and chain.form.onward not in self.chains:
                del self.chains[name]  # made anew with the one that it names
        self._next = 1 + max((*used, *found.slots, *found.rings), default=0)
        self._free = [number for number in range(1, self._next) if number not in used]

    def _adopt_doors(self, found: Listed, doors: Mapping[Place, str]) -> None:
        for name, entries in found.doors.items():
            for key, chain in entries.items():
                self.doors[name, key] = chain
        for place, chain in tuple(self.doors.items()):
            if doors.get(place) != chain or chain not in self.chains:
                self.close(place)

    def _clear_strays(self, found: Listed) -> None:
        """What is nobody's goes: chains, maps and elements; also a chain that is wanted but not
        right, to be made anew."""
        family, made, edits = self.family, self._batch.made, self._batch.edits
        ours = self.chains.keys() | {chain.name for chain in chains(family, self.around)}
        strays = [name for name in found.chains if name not in ours]
        made += (empty_chain(family, name) for name in strays)
        known = {shape.name for shape in maps(family)}
        known |= {affinity_name(c.name) for c in self.chains.values() if c.affinity is not None}
        for name, shape in found.shapes.items():
            if name not in known and not shape.flags & ANONYMOUS:
                made.append(delete_set(family, name))
        made += (delete_chain(family, name) for name in strays)  # no map leads to them any more
        used = {chain.number for chain in self.chains.values()}
        for map_name, by_number in (("endpoints", found.slots), ("ring", found.rings)):
            for number, numbered in by_number.items():
                for slot in numbered if number not in used else ():
                    edits.remove(map_name, native(OURS | number << SLOT_BITS | slot))
            for mark in found.astray[map_name]:
                edits.remove(map_name, native(mark))


#: A set that belongs to a rule, and goes with it.
ANONYMOUS = 1


def sound(family: Family, found: Listed, around: Surroundings) -> bool:
    """Whether the table's maps and hooks are ours; if not, nothing in it can be mended."""
    if found.strange:
        return False
    for shape in maps(family):
        listed = found.shapes.get(shape.name)
        if listed is None or listed._replace(data_size=shape.data_size) != shape:
            return False
    for chain in chains(family, around):
        if chain.name in found.chains and found.chains[chain.name][0] != chain.hook:
            return False
    return True
