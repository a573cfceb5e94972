"""The portal rules in the legacy tables, through python-iptables (libiptc).

This edge is the default where the kernel has the legacy tables: it needs no program on the host,
and its listing is the article's. Docker on Debian keeps its rules in nftables; both sets of nat
hooks live side by side in one kernel (since 4.18), the first one that rewrites a connection wins,
and ours match portal addresses only, so neither is in the other's way.

What the legacy tables cost: a commit hands the kernel the whole table, so a change among N rules
is O(N) in the kernel whatever is done here (about 25 ms at 10,000 rules). ``netfilter.nft``
has no such limit. What stays O(change) is everything on our side: entries are made from
templates (python-iptables takes 0.4 ms to build a rule, a template 3 µs), rules that are right
are neither read nor built again, and a table that nobody touched is recognised by its bytes.

What cannot be undone: the kernel makes a legacy table when it is first opened and keeps it, empty,
until the network namespace or the machine ends. After ``remove`` the listing of
``iptables-legacy-save`` has an empty ``*nat`` if there was none before; ``iptables-save`` of
Debian (nftables) prints on standard output what it printed before, and on standard error a
warning that legacy tables exist. Only ``nat`` is ever opened, though python-iptables would look
into all tables if it were let.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from k8slite.netfilter.entries import Template, buffer, essence, jump_rule, matches
from k8slite.netfilter.legacy import State, legacy_table_exists
from k8slite.netfilter.portals import Change, Desired, difference
from k8slite.netfilter.rules import CHAINS, JUMPS, Jump, Rule, stands

#: Above so many removals a chain is emptied and filled anew instead.
_PIECEMEAL = 64
#: Looks until all is found right: one that mends is followed by one that looks whether it did.
_ROUNDS = 3
#: What the head and the end of a chain of ours take in the table (XT_ERROR and XT_RETURN).
_CHAIN_ENTRIES, _CHAIN_BYTES = 2, 176 + 152


class LegacyEdge:
    """``netfilter.edge.Edge`` over python-iptables. ``lock_wait`` is in seconds."""

    name = "iptables-legacy"
    chain_room = None

    def __init__(
        self, clock: Clock, *, lock_wait: float = 5.0, lock_path: Path = XTABLES_LOCK
    ) -> None:
        self._clock = clock
        self._lock_wait = lock_wait
        self._lock_path = lock_path
        self._thread = Thread("iptables")
        self._nat: _Nat | None = None
        self._left: State | None = None  # the table when it was last found right

    async def probe(self) -> None:
        await self._thread.run(self._open)

    async def sync(self, desired: Desired) -> Change:
        return await self._thread.run(lambda: self._sync(desired.chains))

    async def change(self, change: Change) -> None:
        await self._thread.run(lambda: self._change(change))

    async def intact(self) -> bool:
        return await self._thread.run(self._intact)

    async def remove(self) -> list[str]:
        return await self._thread.run(self._remove)

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

    @contextmanager
    def _writing(self, nat: _Nat) -> Iterator[None]:
        """Nobody else writes meanwhile. Raises NetfilterError for what libiptc refuses."""
        with xtables_lock(self._clock, self._lock_wait, self._lock_path):
            try:
                yield
            except nat.error as error:
                raise _explained(error) from error

    def _intact(self) -> bool:
        return self._left is not None and self._left.same(self._open().state())

    def _sync(self, rules: Mapping[str, Sequence[Rule]]) -> Change:
        """Look and mend until a look finds nothing wrong. What counts as left in order is what
        the table was before that look: whatever others change later is seen next time."""
        nat = self._open()
        removed: dict[Rule, None] = {}
        added: dict[Rule, None] = {}
        with self._writing(nat):
            self._left = None
            for _ in range(_ROUNDS):
                before = nat.state()
                nat.refresh()
                change, touched = nat.converge(rules)
                if not touched:
                    self._left = before
                    break
                removed |= dict.fromkeys(change.remove)
                added |= dict.fromkeys(change.add)
                nat.commit()
        return Change(tuple(removed), tuple(added))

    def _change(self, change: Change) -> None:
        """What the table must have become in size tells a foreign change right before or after
        the commit."""
        nat = self._open()
        with self._writing(nat):
            left, self._left = self._left, None
            if left is None or not left.same(nat.state(brief=True)):
                raise Drifted("the nat table is not as it was left")
            nat.refresh()
            entries, size = nat.apply(change)
            nat.commit()
            now = nat.state(brief=True)
            if now.counts != (left.counts[0] + entries, left.counts[1] + size):
                raise Drifted("the nat table was changed while it was written")
            self._left = now

    def _remove(self) -> list[str]:
        if self._nat is None and not legacy_table_exists("nat"):
            return []  # looking for our chains would make the table
        nat = self._open()
        with self._writing(nat):
            nat.refresh()
            if nat.clear():
                nat.commit()
                nat.refresh()
            self._left = None
            return nat.chains()


def _import_iptc() -> Any:
    """python-iptables, imported late (it loads libraries) and light.

    It would take ``distutils`` where it finds one, which setuptools answers for with 16 MB of
    modules; finding none it is content with ``sysconfig``.
    """
    with without("distutils"):
        import iptc
    return iptc


class _Nat:
    """The table nat in libiptc's hands; every method belongs on the edge's thread. They raise
    ``error``, libiptc's own."""

    def __init__(self) -> None:
        iptc = _import_iptc()
        # python-iptables asks every table for chains named like a target, and asking makes the
        # table. Tell it that there is only nat.
        tables = iptc.Table.existing_table_names
        tables.update({name: name == "nat" for name in iptc.Table.ALL})
        self._iptc = iptc
        self.error: type[Exception] = iptc.IPTCError
        self._templates: dict[tuple[str, str], Template] = {}
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

    def state(self, *, brief: bool = False) -> State:
        """The table as it is in the kernel, unread."""
        return State(self._libc, self._socket, "nat", brief=brief)

    def refresh(self) -> None:
        """Read the table as it is now; forget what was not committed."""
        self._table.refresh()

    def commit(self) -> None:
        self._table.commit()

    def converge(self, desired: Mapping[str, Sequence[Rule]]) -> tuple[Change, bool]:
        """Make our chains hold what is desired and be jumped to. Returns the difference, and
        whether anything (an empty chain, a foreign rule, a jump) was touched at all."""
        removed: list[Rule] = []
        added: list[Rule] = []
        touched = False
        for chain in CHAINS:
            rules = desired.get(chain, ())
            if not stands(chain, rules):
                if self._table.is_chain(chain):
                    stale = (self._decoded(chain, entry) for entry in self._entries(chain))
                    removed += filter(None, stale)
                    touched |= self._drop(chain)
                continue
            change, changed = self._fill(chain, rules)
            removed += change.remove
            added += change.add
            touched |= changed
            touched |= self._jump(JUMPS[chain])
        return Change(tuple(removed), tuple(added)), touched

    def apply(self, change: Change) -> tuple[int, int]:
        """Make a difference. Returns by how many entries and bytes the table grows."""
        entries = size = 0
        for rule in change.remove:
            size -= len(self._entry(rule))
            self._delete(rule)
        for rule in change.add:
            if not self._table.is_chain(rule.chain):
                self._table.create_chain(rule.chain)
                self._jump(JUMPS[rule.chain])
                entries, size = entries + _CHAIN_ENTRIES + 1, size + self._chain_bytes(rule.chain)
            size += len(self._entry(rule))
            self._append(rule)
        for chain in {rule.chain for rule in change.remove}:
            if not stands(chain, ()) and not self._table.first_rule(chain):
                entries, size = entries - _CHAIN_ENTRIES - 1, size - self._chain_bytes(chain)
                self._drop(chain)
        return entries + len(change.add) - len(change.remove), size

    def _fill(self, chain: str, desired: Sequence[Rule]) -> tuple[Change, bool]:
        fresh = not self._table.is_chain(chain)
        if fresh:
            self._table.create_chain(chain)
        known = {essence(self._entry(rule)): rule for rule in desired}
        present = [
            known.get(essence(entry)) or self._decoded(chain, entry)
            for entry in self._entries(chain)
        ]
        change = difference(desired, (rule for rule in present if rule is not None))
        foreign = present.count(None)
        if foreign or len(change.remove) > _PIECEMEAL:
            self._table.flush_entries(chain)
            for rule in desired:
                self._append(rule)
            return Change(change.remove, change.add), True
        for rule in change.remove:
            self._delete(rule)
        for rule in change.add:
            self._append(rule)
        return change, fresh or bool(change)

    def _append(self, rule: Rule) -> None:
        self._table.append_entry(rule.chain, buffer(self._entry(rule)))

    def _delete(self, rule: Rule) -> None:
        entry = self._entry(rule)
        mask = buffer(b"\xff" * len(entry))
        try:
            self._table.delete_entry(rule.chain, buffer(entry), mask)
        except self._iptc.IPTCError as error:
            raise Drifted(f"rule is not there: {rule}") from error

    def _jump(self, jump: Jump) -> bool:
        """Have the chain jumped to exactly once. A new jump to portals goes first, before
        Docker's, as in the article; one to node ports is the last. Returns whether that took a
        change."""
        places = self._jumps(jump)
        total = len(list(self._entries(jump.builtin)))
        if len(places) == 1 and (not jump.node_ports or places[0] == total - 1):
            return False
        self._unjump(jump, len(places))
        builtin = self._iptc.Chain(self._table, jump.builtin)
        if jump.node_ports:
            builtin.append_rule(jump_rule(self._iptc, jump))
        else:
            builtin.insert_rule(jump_rule(self._iptc, jump), 0)
        return True

    def _unjump(self, jump: Jump, count: int) -> None:
        for _ in range(count):
            builtin = self._iptc.Chain(self._table, jump.builtin)
            builtin.delete_rule(jump_rule(self._iptc, jump))

    def _drop(self, chain: str) -> bool:
        """Take away the chain and its jumps; it stays, empty, where somebody else's rule leads to
        it. Returns whether there was anything."""
        if not self._table.is_chain(chain):
            return False
        jumps = self._jumps(JUMPS[chain])
        held = not self._table.first_rule(chain) and not jumps
        self._unjump(JUMPS[chain], len(jumps))
        self._table.flush_entries(chain)
        try:
            self._table.delete_chain(chain)
        except self.error as error:
            if os.strerror(errno.EMLINK) not in str(error):
                raise
            return not held
        return True

    def chains(self) -> list[str]:
        """Those of ours that are there."""
        return [chain for chain in CHAINS if self._table.is_chain(chain)]

    def clear(self) -> bool:
        """Take away the jumps and our chains. Returns whether there was anything."""
        dropped = [self._drop(chain) for chain in CHAINS]
        return any(dropped)

    def _jumps(self, jump: Jump) -> list[int]:
        """Where in its built-in chain the jump stands."""
        own = matches(bytes(jump_rule(self._iptc, jump).rule))
        places, place = [], 0
        entry = self._table.first_rule(jump.builtin)
        while entry:
            if self._table.get_target(entry) == jump.chain.encode():
                raw = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
                if matches(raw) == own:
                    places.append(place)
            entry = self._table.next_rule(entry)
            place += 1
        return places

    def _chain_bytes(self, chain: str) -> int:
        """What an empty chain and the jump to it take in the table."""
        return _CHAIN_BYTES + len(bytes(jump_rule(self._iptc, JUMPS[chain]).rule))

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

    def _template(self, chain: str, protocol: str) -> Template:
        shape = (chain, protocol)
        if shape not in self._templates:
            address = "" if JUMPS[chain].node_ports else "0.0.0.0"
            rule = Rule(chain, address, protocol, "", 0, "")
            self._templates[shape] = Template(self._iptc, rule)
        return self._templates[shape]


def _explained(error: Exception) -> NetfilterError:
    """libiptc's words as one of our errors, with what to do."""
    text = str(error)
    if "ermission" in text:
        return NotPermitted(f"changing iptables needs root or CAP_NET_ADMIN ({text})")
    if "temporarily unavailable" in text:
        return Drifted(f"the nat table was changed while it was written ({text})")
    if "does not exist" in text or "not supported" in text.lower():
        return Unsupported(f"this kernel has no legacy nat table ({text})")
    return NetfilterError(f"iptables refused: {text}")
