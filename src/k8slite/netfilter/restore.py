"""The portal rules in nftables, through iptables-nft-restore.

For kernels without the legacy tables. iptables-nft keeps rules in nftables' table ``ip nat`` in
the form that iptables-save prints, so the listing is the article's here too, and it is the same
listing in which Docker's rules stand on Debian.

One restore is one nftables transaction: it happens whole or not at all. It is the tool for the
whole set. A small change goes over netlink instead (``netfilter.nftables``), because to delete a
rule the tool reads all of its chain (60 ms at 5,000 rules).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from k8slite.netfilter.edge import Drifted, Thread
from k8slite.netfilter.nftables import MOST_EDITS, Handles, Nftables, following
from k8slite.netfilter.portals import Change, Desired, difference
from k8slite.netfilter.rules import CHAINS, JUMPS, Jump, Rule, parse, stands
from k8slite.netfilter.tool import NFT, find_tool, run_tool

_RESTORE = ("iptables-nft-restore", "iptables-restore")
_SAVE = ("iptables-nft-save", "iptables-save")
#: Looks until all is found right, when others change nftables while we write.
_ROUNDS = 3


class NftEdge:
    """``netfilter.edge.Edge`` over the iptables-nft tools."""

    name = "iptables-nft"
    chain_room = None

    def __init__(self) -> None:
        self._thread = Thread("iptables-nft")
        self._tools: tuple[str, str] | None = None
        self._left: bytes | None = None  # nftables' generation after our last change
        self._present: dict[str, dict[Rule, None]] = {}
        self._kernel: Nftables | None = None
        self._handles: Handles | None = None  # of all present rules, once they are needed

    async def probe(self) -> None:
        await self._thread.run(self._probe)

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

    def _shut(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    def _probe(self) -> tuple[str, str]:
        """The restore and the save program. Raises Unsupported, NotPermitted."""
        if self._tools is None:
            self._kernel = Nftables()
            found = [find_tool(NFT, names) for names in (_RESTORE, _SAVE)]
            self._tools = (found[0], found[1])
            self._list()
        return self._tools

    def _sync(self, rules: Mapping[str, Sequence[Rule]]) -> Change:
        desired = {chain: dict.fromkeys(rules.get(chain, ())) for chain in CHAINS}
        if desired == self._present and self._left == self._generation():
            return Change()  # nothing in nftables has changed since
        removed: dict[Rule, None] = {}
        added: dict[Rule, None] = {}
        self._left, self._handles = None, None
        for _ in range(_ROUNDS):
            before = self._generation()
            lines, change = self._edits(desired)
            if not lines:
                self._left = before
                break
            removed |= dict.fromkeys(change.remove)
            added |= dict.fromkeys(change.add)
            self._restore(lines)
            if self._generation() == following(before):
                self._left = following(before)
                break
        self._present = desired
        return Change(tuple(removed), tuple(added))

    def _edits(self, desired: Mapping[str, dict[Rule, None]]) -> tuple[list[str], Change]:
        """What must be done to have what is desired, and the rules among it."""
        listing = self._list()
        lines: list[str] = []
        changes: list[Change] = []
        for chain, wanted in desired.items():
            present = listing.rules(chain, wanted)
            change = difference(wanted, (rule for rule in present if rule is not None))
            changes.append(change)
            if not stands(chain, wanted):
                lines += listing.removal(chain)
            elif chain not in listing.chains or None in present:
                lines.append(f":{chain} - [0:0]")  # makes it, or empties it
                lines += map(str, wanted)
            else:
                lines += _edits(change)
        lines += listing.jump_edits(_standing(desired))
        return lines, Change(
            tuple(rule for change in changes for rule in change.remove),
            tuple(rule for change in changes for rule in change.add),
        )

    def _change(self, change: Change) -> None:
        """The kernel counts the changes of nftables: when there was one more than ours, the next
        look must be a close one."""
        if not self._intact():
            raise Drifted("somebody else changed the portal rules")
        assert self._left is not None
        before, self._left = self._left, None
        present = {chain: dict(rules) for chain, rules in self._present.items()}
        for rule in change.remove:
            present[rule.chain].pop(rule, None)
        for rule in change.add:
            present[rule.chain][rule] = None
        by_handle = _standing(present) == _standing(self._present)
        if not by_handle or not self._changed_by_handle(change, before):
            self._restore(self._chain_edits(change, present))
            self._handles = None
            if self._generation() != following(before):
                raise Drifted("somebody else changed nftables at the same time")
        self._present, self._left = present, following(before)

    def _chain_edits(self, change: Change, present: Mapping[str, dict[Rule, None]]) -> list[str]:
        """The change, with the chains that come and go with it."""
        lines = _edits(change)
        for chain in CHAINS:
            jump, there = JUMPS[chain], stands(chain, self._present[chain])
            if stands(chain, present[chain]) and not there:
                lines = [f":{chain} - [0:0]", *lines, f"-A {jump.body}"]
            elif there and not stands(chain, present[chain]):
                lines += [f"-D {jump.body}", f"-X {chain}"]
        return lines

    def _changed_by_handle(self, change: Change, before: bytes) -> bool:
        """Make a small change over netlink. False when this kernel lists the rules in another form
        than ours, so that their handles are unknown."""
        assert self._kernel is not None
        if len(change.remove) + len(change.add) > MOST_EDITS:
            return False
        if self._handles is None:
            self._handles = self._kernel.handles(self._present)
        if not all(rule in self._handles for rule in change.remove):
            return False
        self._kernel.apply(change, self._handles, before)
        return True

    def _generation(self) -> bytes:
        self._probe()
        assert self._kernel is not None
        return self._kernel.generation()

    def _intact(self) -> bool:
        """The generation counts every change of nftables, also of others' tables; when it moved,
        our part of the listing decides."""
        now = self._generation()
        if self._left is None or now == self._left:
            return self._left is not None
        listing = self._list()
        same = not listing.jump_edits(_standing(self._present)) and all(
            (chain in listing.chains if stands(chain, wanted) else listing.gone(chain))
            and dict.fromkeys(listing.rules(chain, wanted)) == wanted
            for chain, wanted in self._present.items()
        )
        if same:
            self._left = now
        return same

    def _remove(self) -> list[str]:
        listing = self._list()
        lines = [line for chain in CHAINS for line in listing.removal(chain)]
        if lines:
            self._restore(lines)
            self._remove_empty_table()
        self._left, self._present, self._handles = None, {}, None
        return [chain for chain in CHAINS if chain in self._list().chains]

    def _remove_empty_table(self) -> None:
        """iptables-nft makes the table with its first rule and never takes it away. An empty one
        does nothing, so when ours were the last rules it goes too."""
        assert self._kernel is not None
        before = self._kernel.generation()
        if self._list().empty:
            try:
                self._kernel.delete_table("nat", before)
            except Drifted:
                pass  # somebody begins to use it

    def _list(self) -> _Listing:
        tool = (self._tools or self._probe())[1]
        return _Listing(run_tool([tool, "-t", "nat"], "").splitlines())

    def _restore(self, lines: Iterable[str]) -> None:
        text = "\n".join(("*nat", *lines, "COMMIT", ""))
        run_tool([self._probe()[0], "--noflush"], text)


class _Listing:
    """What iptables-save said about the table nat."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self.chains = {line[1:].split(" ", 1)[0] for line in lines if line.startswith(":")}

    @property
    def empty(self) -> bool:
        """Whether there is nothing but built-in chains that let everything pass."""
        rules = any(line.startswith("-A") for line in self.lines)
        chains = [line.split(" ")[1] for line in self.lines if line.startswith(":")]
        return not rules and set(chains) == {"ACCEPT"}

    def rules(self, chain: str, expected: Iterable[Rule] = ()) -> list[Rule | None]:
        """The chain's rules in order; None for one that is not of our form. Those ``expected``
        are recognised without reading them."""
        known = {str(rule): rule for rule in expected}
        prefix = f"-A {chain} "
        lines = (line for line in self.lines if line.startswith(prefix))
        return [known.get(line) or parse(line) for line in lines]

    def gone(self, chain: str) -> bool:
        """Not there; or empty, for somebody else's rule leads to it: then it cannot be deleted."""
        return chain not in self.chains or (self._held(chain) and not self.rules(chain))

    def removal(self, chain: str) -> list[str]:
        """What takes a chain and the jumps to it away."""
        lines = [f"-D {JUMPS[chain].body}"] * self._jumps(JUMPS[chain])
        if not self.gone(chain):
            lines.append(f":{chain} - [0:0]")
            if not self._held(chain):
                lines.append(f"-X {chain}")
        return lines

    def _held(self, chain: str) -> bool:
        own = f"-A {JUMPS[chain].body}"
        ends = (f" -j {chain}", f" -g {chain}")
        return any(line.endswith(ends) and line != own for line in self.lines)

    def jump_edits(self, chains: Iterable[str]) -> list[str]:
        """What makes each of the chains jumped to exactly once; a new jump goes first, one to
        node ports is always the last."""
        edits: list[str] = []
        for chain in chains:
            jump = JUMPS[chain]
            count = self._jumps(jump)
            if count == 1 and (not jump.node_ports or self._last(jump)):
                continue
            edits += [f"-D {jump.body}"] * count
            edits.append(f"-A {jump.body}" if jump.node_ports else _inserted(jump))
        return edits

    def _jumps(self, jump: Jump) -> int:
        return self.lines.count(f"-A {jump.body}")

    def _last(self, jump: Jump) -> bool:
        rules = [line for line in self.lines if line.startswith(f"-A {jump.builtin} ")]
        return rules[-1:] == [f"-A {jump.body}"]


def _inserted(jump: Jump) -> str:
    return f"-I {jump.builtin} 1 {jump.body.removeprefix(jump.builtin).lstrip()}"


def _standing(present: Mapping[str, dict[Rule, None]]) -> list[str]:
    """The chains that are there when they hold these rules."""
    return [chain for chain, rules in present.items() if stands(chain, rules)]


def _edits(change: Change) -> list[str]:
    return [f"-D {rule.chain} {rule.body}" for rule in change.remove] + list(map(str, change.add))
