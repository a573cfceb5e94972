"""The portal rules in the legacy tables, through python-iptables (libiptc).

This edge is the default where the kernel has the legacy tables: it needs no program on the host,
and its listing is the article's. Docker on Debian keeps its rules in nftables; both sets of nat
hooks live side by side in one kernel (since 4.18), the first one that rewrites a connection wins,
and ours match portal addresses only, so neither is in the other's way.

What the legacy tables cost: a commit hands the kernel the whole table, so a change among N rules
is O(N) in the kernel whatever is done here (about 25 ms at 10,000 rules). ``netfilter.nft``
has no such limit. What stays O(change) is everything on our side: entries are made from
templates (python-iptables takes 0.4 ms to build a rule, a template 3 µs), rules that are right
are neither read nor built again, and a table that nobody touched is recognised by 84 bytes.

What cannot be undone: the kernel makes a legacy table when it is first opened and keeps it, empty,
until the network namespace or the machine ends. After ``remove`` the listing of
``iptables-legacy-save`` has an empty ``*nat`` if there was none before; ``iptables-save`` of
Debian (nftables) prints on standard output what it printed before, and on standard error a
warning that legacy tables exist. Only ``nat`` is ever opened, though python-iptables would look
into all tables if it were let.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from k8slite.kit.clock import Clock
from k8slite.kit.lightly import without
from k8slite.netfilter.edge import (
    XTABLES_LOCK,
    Drifted,
    NetfilterError,
    NotPermitted,
    Thread,
    Unsupported,
    xtables_lock,
)
from k8slite.netfilter.portals import Change, Desired, difference
from k8slite.netfilter.rules import CHAINS, COMMENT_BYTES, HOST, JUMPS, Rule

#: The legacy tables that exist in this network namespace, a name a line. Reading makes none.
_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")

_IPT_SO_GET_INFO = 64
_INFO_BYTES = 84  # struct ipt_getinfo: name, hooks, number of entries, size
_IP_BYTES = 84  # struct ipt_ip, the head of struct ipt_entry
_ENTRY_BYTES = 112  # struct ipt_entry

#: Above so many removals a chain is emptied and filled anew instead.
_PIECEMEAL = 64


class LegacyEdge:
    """``netfilter.edge.Edge`` over python-iptables. ``lock_wait`` is in seconds."""

    name = "iptables-legacy"

    def __init__(
        self, clock: Clock, *, lock_wait: float = 5.0, lock_path: Path = XTABLES_LOCK
    ) -> None:
        self._clock = clock
        self._lock_wait = lock_wait
        self._lock_path = lock_path
        self._thread = Thread("iptables")
        self._nat: _Nat | None = None
        self._left: bytes | None = None  # the table's 84 bytes after our last commit

    async def probe(self) -> None:
        await self._thread.run(self._open)

    async def sync(self, desired: Desired) -> Change:
        return await self._thread.run(lambda: self._sync(desired.chains))

    async def change(self, change: Change) -> None:
        await self._thread.run(lambda: self._change(change))

    async def intact(self) -> bool:
        return await self._thread.run(lambda: self._left == self._open().info())

    async def remove(self) -> None:
        await self._thread.run(self._remove)

    async def close(self) -> None:
        await self._thread.run(self._shut)
        self._thread.close()

    def _open(self) -> _Nat:
        if self._nat is None:
            self._nat = _Nat()
        return self._nat

    def _shut(self) -> None:
        if self._nat is not None:
            self._nat.close()
            self._nat = None

    def _sync(self, rules: Mapping[str, Sequence[Rule]]) -> Change:
        nat = self._open()
        with xtables_lock(self._clock, self._lock_wait, self._lock_path):
            nat.refresh()
            removed: list[Rule] = []
            added: list[Rule] = []
            touched = False
            for chain in CHAINS:
                change, changed = nat.converge(chain, rules.get(chain, ()))
                removed += change.remove
                added += change.add
                touched |= changed
            touched |= nat.jump()
            if touched:
                nat.commit()
            self._left = nat.info()
        return Change(tuple(removed), tuple(added))

    def _change(self, change: Change) -> None:
        nat = self._open()
        with xtables_lock(self._clock, self._lock_wait, self._lock_path):
            if self._left is None or self._left != nat.info():
                raise Drifted("the nat table is not as it was left")
            nat.refresh()
            for rule in change.remove:
                nat.delete(rule)
            for rule in change.add:
                nat.append(rule)
            nat.commit()
            self._left = nat.info()

    def _remove(self) -> None:
        if self._nat is None and not legacy_table_exists("nat"):
            return  # looking for our chains would make the table
        nat = self._open()
        with xtables_lock(self._clock, self._lock_wait, self._lock_path):
            nat.refresh()
            if nat.clear():
                nat.commit()
            self._left = None


def legacy_table_exists(name: str) -> bool:
    """Whether this network namespace has the legacy table already; asking makes none."""
    try:
        return name in _LEGACY_TABLES.read_text().split()
    except OSError:
        return False


def table_info(libc: ctypes.CDLL, raw: socket.socket, table: str) -> bytes:
    """A legacy table's hooks, number of rules and size, asked over a raw socket. A foreign change
    that keeps all of these is found by a full comparison only. Makes a table that is not there."""
    buffer = ctypes.create_string_buffer(table.encode(), _INFO_BYTES)
    size = ctypes.c_uint32(_INFO_BYTES)
    if libc.getsockopt(raw.fileno(), socket.SOL_IP, _IPT_SO_GET_INFO, buffer, ctypes.byref(size)):
        raise NetfilterError(f"cannot read the {table} table: errno {ctypes.get_errno()}")
    return buffer.raw


def _import_iptc() -> Any:
    """python-iptables, imported late (it loads libraries) and light.

    It would take ``distutils`` where it finds one, which setuptools answers for with 16 MB of
    modules; finding none it is content with ``sysconfig``.
    """
    with without("distutils"):
        import iptc
    return iptc


class _Nat:
    """The table nat in libiptc's hands; every method belongs on the edge's thread."""

    def __init__(self) -> None:
        iptc = _import_iptc()
        # python-iptables asks every table for chains named like a target, and asking makes the
        # table. Tell it that there is only nat.
        tables = iptc.Table.existing_table_names
        tables.update({name: name == "nat" for name in iptc.Table.ALL})
        self._iptc = iptc
        self._templates: dict[tuple[str, str], _Template] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        except PermissionError as error:
            raise NotPermitted("changing iptables needs root or CAP_NET_ADMIN") from error
        try:
            self._table = iptc.Table(iptc.Table.NAT, autocommit=False)
            self._table.refresh()  # python-iptables keeps one object a table for ever
        except iptc.IPTCError as error:
            self._socket.close()
            raise _explained(error) from error

    def close(self) -> None:
        self._socket.close()
        self._table.close()

    def info(self) -> bytes:
        """What identifies the table's state without reading it (see ``table_info``)."""
        return table_info(self._libc, self._socket, "nat")

    def refresh(self) -> None:
        """Read the table as it is now; forget what was not committed."""
        try:
            self._table.refresh()
        except self._iptc.IPTCError as error:
            raise _explained(error) from error

    def commit(self) -> None:
        try:
            self._table.commit()
        except self._iptc.IPTCError as error:
            raise _explained(error) from error

    def converge(self, chain: str, desired: Sequence[Rule]) -> tuple[Change, bool]:
        """Make ``chain`` hold ``desired``. Returns the difference, and whether anything (an empty
        chain, a foreign rule) was touched at all."""
        fresh = not self._table.is_chain(chain)
        if fresh:
            self._table.create_chain(chain)
        known = {_essence(self._entry(rule)): rule for rule in desired}
        present = [
            known.get(_essence(entry)) or self._decoded(chain, entry)
            for entry in self._entries(chain)
        ]
        change = difference(desired, (rule for rule in present if rule is not None))
        foreign = present.count(None)
        if foreign or len(change.remove) > _PIECEMEAL:
            self._table.flush_entries(chain)
            for rule in desired:
                self.append(rule)
            return Change(change.remove, change.add), True
        for rule in change.remove:
            self.delete(rule)
        for rule in change.add:
            self.append(rule)
        return change, fresh or bool(change)

    def append(self, rule: Rule) -> None:
        self._table.append_entry(rule.chain, _buffer(self._entry(rule)))

    def delete(self, rule: Rule) -> None:
        entry = self._entry(rule)
        mask = _buffer(b"\xff" * len(entry))
        try:
            self._table.delete_entry(rule.chain, _buffer(entry), mask)
        except self._iptc.IPTCError as error:
            raise Drifted(f"rule is not there: {rule}") from error

    def jump(self) -> bool:
        """Have each of our chains jumped to exactly once; a new jump goes first, before Docker's,
        as in the article. Returns whether that took a change."""
        changed = False
        for chain, builtin in JUMPS.items():
            present = self._jumps(builtin, chain)
            if present == 1:
                continue
            for _ in range(present):
                self._chain(builtin).delete_rule(self._jump_rule(chain))
            self._chain(builtin).insert_rule(self._jump_rule(chain), 0)
            changed = True
        return changed

    def clear(self) -> bool:
        """Take away the jumps and our chains. Returns whether there was anything."""
        found = False
        for chain, builtin in JUMPS.items():
            if not self._table.is_chain(chain):
                continue
            found = True
            for _ in range(self._jumps(builtin, chain)):
                self._chain(builtin).delete_rule(self._jump_rule(chain))
            self._table.flush_entries(chain)
            self._table.delete_chain(chain)
        return found

    def _jumps(self, builtin: str, chain: str) -> int:
        """How many unconditional jumps to ``chain`` there are in ``builtin``."""
        count = 0
        entry = self._table.first_rule(builtin)
        while entry:
            raw = ctypes.string_at(ctypes.addressof(entry), _ENTRY_BYTES)
            plain = not any(raw[:_IP_BYTES]) and entry.target_offset == _ENTRY_BYTES
            if plain and self._table.get_target(entry) == chain.encode():
                count += 1
            entry = self._table.next_rule(entry)
        return count

    def _chain(self, name: str) -> Any:
        return self._iptc.Chain(self._table, name)

    def _jump_rule(self, chain: str) -> Any:
        rule = self._iptc.Rule()
        rule.create_target(chain)
        return rule

    def _entries(self, chain: str) -> Iterator[bytes]:
        entry = self._table.first_rule(chain)
        while entry:
            yield ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
            entry = self._table.next_rule(entry)

    def _entry(self, rule: Rule) -> bytes:
        """The rule as the kernel takes it (struct ipt_entry, its matches and its target)."""
        return self._template(rule.chain, rule.protocol).fill(rule)

    def _decoded(self, chain: str, entry: bytes) -> Rule | None:
        """The inverse of ``_entry``; None when it is no rule of our form."""
        for protocol in ("tcp", "udp"):
            rule = self._template(chain, protocol).read(entry)
            if rule is not None:
                return rule
        return None

    def _template(self, chain: str, protocol: str) -> _Template:
        shape = (chain, protocol)
        if shape not in self._templates:
            self._templates[shape] = _Template(self._iptc, chain, protocol)
        return self._templates[shape]


class _Template:
    """One shape of rule, built once by python-iptables with marks where the values go."""

    _ADDRESS, _COMMENT, _PORT = "1.2.3.4", "k8slite-mark", 0x5A5A
    _TO_ADDRESS, _TO_PORT = "5.6.7.8", 0x6B6B

    def __init__(self, iptc: Any, chain: str, protocol: str) -> None:
        self._chain = chain
        self._protocol = protocol
        rule = iptc.Rule()
        rule.protocol = protocol
        rule.dst = f"{self._ADDRESS}/32"
        rule.create_match("comment").comment = self._COMMENT
        rule.create_match(protocol).dport = str(self._PORT)
        if chain == HOST:
            rule.create_target("DNAT").to_destination = f"{self._TO_ADDRESS}:{self._TO_PORT}"
        else:
            rule.create_target("REDIRECT").to_ports = str(self._TO_PORT)
        rule.final_check()
        self._entry = bytes(rule.rule)
        self._address = self._marks(socket.inet_aton(self._ADDRESS))
        self._comment = self._marks(self._COMMENT.encode())
        self._port = self._marks(struct.pack("=H", self._PORT))
        self._to_address = self._marks(socket.inet_aton(self._TO_ADDRESS))
        self._to_port = self._marks(struct.pack("!H", self._TO_PORT))

    def _marks(self, mark: bytes) -> list[slice]:
        """Where ``mark`` stands (a range of ports or addresses has it twice)."""
        found, at = [], self._entry.find(mark)
        while at >= 0:
            found.append(slice(at, at + len(mark)))
            at = self._entry.find(mark, at + len(mark))
        return found

    def fill(self, rule: Rule) -> bytes:
        entry = bytearray(self._entry)
        address, _, port = rule.to.rpartition(":")
        self._put(entry, self._address, socket.inet_aton(rule.address))
        self._put(entry, self._port, struct.pack("=H", rule.port))
        self._put(entry, self._to_port, struct.pack("!H", int(port)))
        if address:
            self._put(entry, self._to_address, socket.inet_aton(address))
        start = self._comment[0].start
        comment = rule.comment.encode()[: COMMENT_BYTES - 1].ljust(COMMENT_BYTES, b"\0")
        entry[start : start + COMMENT_BYTES] = comment
        return bytes(entry)

    def read(self, entry: bytes) -> Rule | None:
        """The rule that fills the template to ``entry``, or None."""
        if len(entry) != len(self._entry):
            return None
        start = self._comment[0].start
        comment = entry[start : start + COMMENT_BYTES].split(b"\0", 1)[0]
        to = str(int.from_bytes(entry[self._to_port[0]], "big"))
        if self._to_address:
            to = f"{socket.inet_ntoa(entry[self._to_address[0]])}:{to}"
        rule = Rule(
            self._chain,
            socket.inet_ntoa(entry[self._address[0]]),
            self._protocol,
            comment.decode(errors="replace"),
            struct.unpack("=H", entry[self._port[0]])[0],
            to,
        )
        return rule if _essence(self.fill(rule)) == _essence(entry) else None

    @staticmethod
    def _put(entry: bytearray, places: list[slice], value: bytes) -> None:
        for place in places:
            entry[place] = value


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_ubyte]:
    return (ctypes.c_ubyte * len(data)).from_buffer_copy(data)


def _essence(entry: bytes) -> tuple[bytes, ...]:
    """What makes two entries the same rule: addresses, matches and target, without counters,
    kernel marks and whatever follows the end of a name."""
    parts = [entry[:_IP_BYTES]]
    at = _ENTRY_BYTES
    while at < len(entry):
        (size,) = struct.unpack_from("=H", entry, at)
        name = entry[at + 2 : at + 31].split(b"\0", 1)[0]
        data = entry[at + 32 : at + size]
        parts += (name, entry[at + 31 : at + 32], data.rstrip(b"\0"))
        at += size
    return tuple(parts)


def _explained(error: Exception) -> NetfilterError:
    """libiptc's words as one of our errors, with what to do."""
    text = str(error)
    if "ermission" in text:
        return NotPermitted(f"changing iptables needs root or CAP_NET_ADMIN ({text})")
    if "does not exist" in text or "not supported" in text.lower():
        return Unsupported(f"this kernel has no legacy nat table ({text})")
    return NetfilterError(f"iptables refused: {text}")
