"""What the kernel has in one family's table of ours, read whole: for adoption and repair."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from k8slite.decide.balancing import Endpoint
from k8slite.netfilter.edge import Drifted
from k8slite.netfilter.nft import netlink as nl
from k8slite.netfilter.nft.layout import (
    DOORS,
    OURS,
    SLOT_BITS,
    SLOTS,
    TABLE,
    Family,
    Shape,
)
from k8slite.netfilter.nft.netlink import Link, attribute, attributes, text
from k8slite.netfilter.nft.services import endpoint_of

_TABLE = attribute(1, text(TABLE))


@dataclass(slots=True)
class Listed:
    """A table as listed. ``chains`` have their hook (number, priority; or None) and their rules
    (handle, expressions); ``doors`` are by map and key, and lead to a chain. ``astray`` are marks
    of elements that cannot be ours, by map; ``strange`` says that there is one without a key."""

    chains: dict[str, tuple[tuple[int, int] | None, list[tuple[int, bytes]]]] = field(
        default_factory=dict
    )
    shapes: dict[str, Shape] = field(default_factory=dict)
    doors: dict[str, dict[bytes, str]] = field(default_factory=dict)
    slots: dict[int, dict[int, Endpoint]] = field(default_factory=lambda: defaultdict(dict))
    rings: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    astray: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    strange: bool = False

    def places(self) -> dict[tuple[str, bytes], str]:
        """Where each door stands, and the chain that it leads to."""
        return {
            (name, key): chain
            for name, entries in self.doors.items()
            for key, chain in entries.items()
        }


def listed(link: Link, family: Family) -> Listed | None:
    """The table of a family, None when there is none that can be used. Raises NetfilterError."""
    found = Listed()
    number = family.number
    if not _awake(link, number):
        return None
    for parts in _all(link.dump(nl.GETCHAIN, number)):
        if parts[1] == text(TABLE):
            found.chains[_text(parts[3])] = (_hook(parts), [])
    for parts in _all(link.dump(nl.GETRULE, number, _TABLE)):
        chain = found.chains.get(_text(parts[2]))
        if chain is not None:
            chain[1].append((int.from_bytes(parts[3], "big"), parts.get(4, b"")))
    for parts in _all(link.dump(nl.GETSET, number, _TABLE)):
        shape = _shape(parts)
        found.shapes[shape.name] = shape
    for name in DOORS:
        found.doors[name] = {
            key: _chain_of(data) for key, data in _elements(found, link, number, name)
        }
    for key, data in _elements(found, link, number, "endpoints"):
        mark = _native(key)
        if mark & OURS:
            found.slots[(mark & ~OURS) >> SLOT_BITS][mark % SLOTS] = endpoint_of(data)
        else:
            found.astray["endpoints"].append(mark)
    for key, data in _elements(found, link, number, "ring"):
        mark, to = _native(key), _native(data)
        if mark & OURS and mark // SLOTS == to // SLOTS:
            found.rings[(mark & ~OURS) >> SLOT_BITS][mark % SLOTS] = to % SLOTS
        else:
            found.astray["ring"].append(mark)
    return found


def counted(link: Link, family: Family) -> Iterator[tuple[str, int]]:
    """The chain and the packets of each rule of ours that counts."""
    for parts in _all(link.dump(nl.GETRULE, family.number, _TABLE)):
        for _, body in attributes(parts.get(4, b"")):
            inner = dict(attributes(body))
            if inner.get(1) == b"counter\0":
                packets = dict(attributes(inner[2])).get(2, b"")
                yield _text(parts[2]), int.from_bytes(packets, "big")


def handle_of(link: Link, family: Family, chain: str, place: int) -> int:
    """The handle of the rule at a place of a chain. Raises Drifted when it is not there."""
    where = _TABLE + attribute(2, text(chain))
    rules = link.dump(nl.GETRULE, family.number, where)
    if len(rules) <= place:
        raise Drifted(f"chain {chain} is not as it was left")
    return int.from_bytes(dict(attributes(rules[place]))[3], "big")


def exists(link: Link, family: Family) -> bool:
    return any(parts[1] == text(TABLE) for parts in _all(link.dump(nl.GETTABLE, family.number)))


def _awake(link: Link, family: int) -> bool:
    """Whether the table is there and not switched off (NFT_TABLE_F_DORMANT)."""
    return any(
        parts[1] == text(TABLE) and not any(parts.get(2, b""))
        for parts in _all(link.dump(nl.GETTABLE, family))
    )


def _all(objects: list[bytes]) -> Iterator[dict[int, bytes]]:
    return (dict(attributes(data)) for data in objects)


def _elements(found: Listed, link: Link, family: int, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and data of every element of a map; a verdict's data is the verdict. A catch-all has no
    key."""
    where = _TABLE + attribute(2, text(name))
    for parts in _all(link.dump(nl.GETELEMENT, family, where)):
        for _, body in attributes(parts.get(3, b"")):
            pair = dict(attributes(body))
            if 1 not in pair:
                found.strange = True
                continue
            _, key = next(attributes(pair[1]))
            _, data = next(attributes(pair[2]), (0, b""))
            yield key, data


def _hook(parts: dict[int, bytes]) -> tuple[int, int] | None:
    if 4 not in parts:
        return None
    hook = dict(attributes(parts[4]))
    (priority,) = struct.unpack("!i", hook[2])
    return int.from_bytes(hook[1], "big"), priority


def _shape(parts: dict[int, bytes]) -> Shape:
    flags, *sizes = (int.from_bytes(parts.get(kind, b""), "big") for kind in (3, 4, 5, 6, 7))
    timeout = int.from_bytes(parts.get(11, b""), "big") / 1e3
    key_type, key_size, data_type, data_size = sizes
    return Shape(_text(parts[2]), flags, key_type, key_size, data_type, data_size, timeout)


def _chain_of(verdict: bytes) -> str:
    return _text(dict(attributes(verdict)).get(2, b""))


def _native(data: bytes) -> int:
    return int(struct.unpack("=I", data)[0])


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
