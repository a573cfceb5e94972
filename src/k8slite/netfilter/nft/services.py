"""The chain of one service port: who serves, numbered, and what the kernel needs to know of it.

A chain has a number of its own; with the number of an endpoint it makes the mark of a connection.
Endpoints are numbered 0 … n - 1 without gaps, for they are drawn in turn: when one goes, the last
takes its number. With affinity they are numbered for good, for clients are remembered by it, and
the map ``ring`` leads from 0 … n - 1 to those numbers.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from k8slite.decide.balancing import Endpoint
from k8slite.netfilter.conntrack import canonical
from k8slite.netfilter.nft import expressions as x
from k8slite.netfilter.nft.chains import comes_from, refusal
from k8slite.netfilter.nft.expressions import R
from k8slite.netfilter.nft.layout import (
    IP,
    IP6,
    OURS,
    SLOT_BITS,
    SLOTS,
    Family,
    element,
)
from k8slite.netfilter.nft.netlink import attribute
from k8slite.netfilter.portals import Backing, Claim


class Wanted(NamedTuple):
    """What a chain shall lead to: ``endpoints`` in turn, or, where the host's own address is not
    known in the family, to the port ``redirect`` of this host; or to the chain ``onward``, and that
    only clients of ``ranges`` (networks)."""

    endpoints: tuple[Endpoint, ...] = ()
    affinity: float | None = None
    redirect: int = 0
    onward: str = ""
    ranges: tuple[str, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether endpoints are drawn there."""
        return not (self.redirect or self.onward)

    @property
    def form(self) -> Wanted:
        """What cannot be changed by elements and the rule that draws."""
        return self._replace(endpoints=())


def wanted_of(backing: Backing, family: Family) -> dict[str, Wanted]:
    """The chains of a backing by name. Clients from outside have one of their own when other
    endpoints are theirs."""
    inside, outside = _chain_name("service", backing.portal), _chain_name("outside", backing.portal)
    if backing.listener:
        host, _, port = backing.listener.rpartition(":")
        if family is IP:
            return {inside: Wanted((Endpoint(host, int(port)),))}
        return {inside: Wanted(redirect=int(port))}
    ours = Wanted(of_family(family, backing.inside), backing.affinity)
    theirs = Wanted(of_family(family, backing.outside), backing.affinity)
    return {inside: ours} if ours == theirs else {inside: ours, outside: theirs}


def guarded(chain: str) -> str:
    """The chain that lets the clients of some networks pass to ``chain``."""
    return f"from-{chain}"


def of_family(family: Family, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Those of a family, once each, written as the kernel's listing is read."""
    six = family is not IP
    found = (e for e in endpoints if (":" in e.ip) == six)
    if six:
        found = (Endpoint(canonical(e.ip), e.port) for e in found)
    return tuple(dict.fromkeys(found))[: SLOTS - 1]


def _chain_name(side: str, portal: str) -> str:
    """``service-default/web/http`` for ``default/web:http``."""
    return f"{side}-{portal.replace(':', '/').rstrip('/')}"


def portal_of(chain: str) -> str:
    """The inverse; "" when it is no service's chain."""
    side, _, name = chain.removeprefix("from-").partition("-")
    parts = name.split("/")
    if side not in ("service", "outside") or len(parts) not in (2, 3):
        return ""
    return f"{parts[0]}/{parts[1]}:{parts[2] if len(parts) == 3 else ''}"


def families_of(backing: Backing, claims: Iterable[Claim]) -> tuple[Family, ...]:
    """In whose tables a portal stands. A node port is IPv4's, and also IPv6's when there is an
    endpoint to lead to."""
    four = six = node_port = False
    for claim in claims:
        six |= ":" in claim.address
        four |= ":" not in claim.address
        node_port |= not claim.address
    if node_port and not six:
        six = any(":" in endpoint.ip for endpoint in (*backing.inside, *backing.outside))
    return (*((IP,) if four else ()), *((IP6,) if six else ()))


def affinity_name(chain: str) -> str:
    return f"affinity-{chain}"


@dataclass(slots=True)
class Edits:
    """Elements to take out and to put in, by map: key and data, ready for ``layout.elements``."""

    gone: dict[str, list[bytes]] = field(default_factory=dict)
    new: dict[str, list[bytes]] = field(default_factory=dict)

    def remove(self, name: str, key: bytes) -> None:
        self.gone.setdefault(name, []).append(element(key))

    def put(self, name: str, packed: bytes) -> None:
        self.new.setdefault(name, []).append(packed)


@dataclass(slots=True)
class ServiceChain:
    """What stands in the kernel for one chain. ``slots`` are the endpoints' numbers when they are
    not their places in ``ring``. ``handle`` is that of the rule that draws, once it is known."""

    family: Family
    name: str
    number: int
    form: Wanted = field(default_factory=Wanted)
    ring: list[Endpoint] = field(default_factory=list)
    slots: dict[Endpoint, int] = field(default_factory=dict)
    handle: int = 0
    next_slot: int = 1
    turns: int = 0  # how often the rule was made anew, modulo the number of endpoints

    @property
    def affinity(self) -> float | None:
        return self.form.affinity

    @property
    def base(self) -> int:
        return OURS | self.number << SLOT_BITS

    @property
    def modulus(self) -> int:
        return max(1, len(self.ring))

    def fits(self, wanted: Wanted) -> bool:
        """Whether the chain can be made ``wanted`` by elements and the rule that draws."""
        return self.form == wanted.form

    def drawing(self) -> bytes:
        """The rule that draws a number."""
        return x.in_turn(self.modulus, self.base, R[0]) + x.set_connection_mark(R[0])

    def rules(self) -> tuple[bytes, ...]:
        if self.form.redirect:
            port = x.immediate(R[0], struct.pack("!H", self.form.redirect))
            return (x.counter() + port + x.redirect(R[0]),)
        if self.form.onward:
            tests = (comes_from(self.family, network) for network in self.form.ranges)
            onward = x.verdict(x.GOTO, self.form.onward)
            return (*(test + onward for test in tests if test is not None), *refusal(self.family))
        if self.affinity is None:
            return (self.drawing(), x.counter() + x.verdict(x.GOTO, "pick"))
        known = affinity_name(self.name)
        client = x.network(self.family.source, self.family.size, R[0])
        data = self.family.port_register  # behind the client's address
        mark = x.connection_mark(data)
        remember = client + mark + x.remember(x.UPDATE, known, R[0], data)
        return (
            x.counter(),
            client + x.mapped(known, R[0], R[0]) + x.set_connection_mark(R[0])
            + remember + x.verdict(x.JUMP, "stay"),
            client + mark + x.remember(x.DELETE, known, R[0], data),
            self.drawing(),
            x.connection_mark(R[0]) + x.mapped("ring", R[0], R[0]) + x.set_connection_mark(R[0]),
            remember,
            x.verdict(x.GOTO, "pick"),
        )  # fmt: skip

    @property
    def drawing_at(self) -> int:
        """The place of the rule that draws."""
        return 0 if self.affinity is None else 3

    def serve(self, endpoints: Iterable[Endpoint], edits: Edits) -> bool:
        """Lead to ``endpoints`` from now on; ``edits`` gets what that changes. Returns whether the
        rule that draws changes, too."""
        before = self.ring
        self.ring = _arranged(before, dict.fromkeys(endpoints))
        renewed = max(1, len(before)) != self.modulus
        if renewed and before and len(self.ring) > 1:
            # A new rule draws the first place first. It shall not be the same one's every time,
            # or whoever stands there gets all of a service that changes faster than it is asked.
            self.turns = (self.turns + 1) % len(self.ring)
            self.ring[0], self.ring[self.turns] = self.ring[self.turns], self.ring[0]
        if self.affinity is not None:
            self._number(before, edits)
        for at, (old, new) in enumerate(zip_longest(before, self.ring)):
            if old != new:
                self._place(at, old, new, edits)
        return renewed

    def _number(self, before: Iterable[Endpoint], edits: Edits) -> None:
        """Give endpoints that came a number for good, and take back those of others."""
        for endpoint in frozenset(before).difference(self.ring):
            edits.remove("endpoints", x.native(self.base + self.slots.pop(endpoint)))
        for endpoint in self.ring:
            if endpoint not in self.slots:
                slot = self.slots[endpoint] = self._slot()
                edits.put("endpoints", endpoint_element(self.family, self.base + slot, endpoint))

    def _place(self, at: int, old: Endpoint | None, new: Endpoint | None, edits: Edits) -> None:
        key = x.native(self.base + at)
        name = "endpoints" if self.affinity is None else "ring"
        if old is not None:
            edits.remove(name, key)
        if new is not None and self.affinity is None:
            edits.put(name, endpoint_element(self.family, self.base + at, new))
        elif new is not None:
            edits.put(name, element(key, attribute(1, x.native(self.base + self.slots[new]))))

    def _slot(self) -> int:
        """A number that was not in use lately. 0 is nobody's: who finds no endpoint draws it."""
        used = frozenset(self.slots.values())
        while self.next_slot in used:
            self.next_slot = self.next_slot % (SLOTS - 1) + 1
        slot = self.next_slot
        self.next_slot = slot % (SLOTS - 1) + 1
        return slot


def _arranged(ring: Iterable[Endpoint], wanted: Mapping[Endpoint, None]) -> list[Endpoint]:
    """``wanted`` in a row without gaps, in which as many as can be stay where they were."""
    present = frozenset(ring)
    fresh = [endpoint for endpoint in wanted if endpoint not in present]
    row = [endpoint if endpoint in wanted else None for endpoint in ring]
    row += [None] * (len(wanted) - len(row))
    for at, endpoint in enumerate(row):
        if endpoint is None and fresh:
            row[at] = fresh.pop(0)
    while None in row:
        last = row.pop()
        if last is not None:
            row[row.index(None)] = last
    return [endpoint for endpoint in row if endpoint is not None]


_ENDPOINT = struct.Struct("=HHHHHHIHHHH4sH2x")


def endpoint_element(family: Family, mark: int, endpoint: Endpoint) -> bytes:
    """An element of ``endpoints``; 50,000 of them are made in one go."""
    port = socket.htons(endpoint.port)
    if family is IP:
        packed = socket.inet_aton(endpoint.ip)
        return _ENDPOINT.pack(32, 1, 12, 1, 8, 1, mark, 16, 2, 12, 1, packed, port)
    packed = socket.inet_pton(socket.AF_INET6, endpoint.ip)
    data = packed + struct.pack("=H2x", port)
    return element(x.native(mark), attribute(1, data))


def endpoint_of(data: bytes) -> Endpoint:
    """The inverse, of an element's data."""
    size = len(data) - 4
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    (port,) = struct.unpack_from("!H", data, size)
    return Endpoint(socket.inet_ntop(family, data[:size]), port)


#: Elements by the number of their chain: endpoints by slot, and slots by place in the ring.
Slots = Mapping[int, Mapping[int, Endpoint]]
Rings = Mapping[int, Mapping[int, int]]


def adopted(
    family: Family,
    name: str,
    wanted: Wanted,
    rules: Sequence[tuple[int, bytes]],
    slots: Slots,
    rings: Rings,
) -> ServiceChain | None:
    """The chain as the kernel has it (``rules``: handle and expressions), when it is a right one
    of the kind wanted, whoever it leads to; None when it must be made anew."""
    chain = ServiceChain(family, name, 0, wanted.form)
    modulus = 1
    if wanted.draws:
        if len(rules) <= chain.drawing_at:
            return None
        chain.handle, drawing = rules[chain.drawing_at]
        modulus, base = _drawn(drawing)
        chain.number = (base & ~OURS) >> SLOT_BITS
        if base != chain.base or not chain.number:
            return None
        if not _numbered(chain, slots.get(chain.number, {}), rings.get(chain.number, {})):
            return None
    ours = chain.rules()
    right = len(ours) == len(rules) and modulus == chain.modulus
    if right and all(x.same(mine, rule) for mine, (_, rule) in zip(ours, rules, strict=True)):
        return chain
    return None


def _drawn(rule: bytes) -> tuple[int, int]:
    """Modulus and offset of the rule that draws; 0, 0 when it is another."""
    for name, values in x.parsed(rule):
        if name == b"numgen" and 2 in values and 4 in values:
            return int.from_bytes(values[2], "big"), int.from_bytes(values[4], "big")
    return 0, 0


def _numbered(chain: ServiceChain, slots: Mapping[int, Endpoint], ring: Mapping[int, int]) -> bool:
    """Give the chain its endpoints from the elements with its number; False when they are no
    whole."""
    if chain.affinity is None:
        places = slots
    else:
        if any(slot not in slots for slot in ring.values()) or 0 in slots:
            return False
        places = {at: slots[slot] for at, slot in ring.items()}
        chain.slots = {endpoint: slot for slot, endpoint in slots.items()}
        chain.next_slot = max(slots, default=0) % (SLOTS - 1) + 1
    chain.ring = [places[at] for at in range(len(places)) if at in places]
    whole = len(chain.ring) == len(places) == len(frozenset(chain.ring))
    return whole and len(slots) == len(places) and (chain.affinity is not None or not ring)
