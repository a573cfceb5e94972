"""The edge to netfilter for the pod network's chains, through the iptables tools.

There are two sets of tables in a kernel, the legacy ones and nftables', and a packet must be let
pass by both. The chains go where ``iptables`` of this host writes, for that is where Docker's
rules are; the chain of ``filter`` goes into the other set as well when somebody filters there.

A look whether all is well costs one question to the kernel; the tools run only when something
changed. Everything blocking happens on a thread of the edge's own (law 7).
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterable, Sequence

from k8slite.netfilter.edge import (
    NetfilterError,
    NotPermitted,
    Thread,
    Unsupported,
)
from k8slite.netfilter.legacy import legacy_table_exists, table_info
from k8slite.netfilter.nftables import Nftables
from k8slite.netfilter.tool import LEGACY, NFT, find_tool, run_tool, variant_of
from k8slite.network.firewall import Chain, bare, edits, removal, script

_PREFIX = {NFT: "iptables-nft", LEGACY: "iptables-legacy"}
#: Looks until all is found right: one that mends is followed by one that looks whether it did.
_ROUNDS = 3
#: Seconds that a tool waits for another one that holds the legacy tables.
_WAIT = "5"


class Tables:
    """Keeps chains in this process's network namespace."""

    def __init__(self) -> None:
        self._thread = Thread("pod-firewall")
        self._variants: dict[str, _Variant] = {}
        self._main = ""
        self._left: tuple[tuple[Chain, ...], tuple[bytes, ...]] | None = None

    async def converge(self, chains: Sequence[Chain], *, compare: bool = False) -> list[str]:
        """Make the chains right; the names of those that were not. ``compare`` looks closely even
        when nothing seems to have changed. Raises NetfilterError."""
        return await self._thread.run(lambda: self._converge(tuple(chains), compare))

    async def remove(self, chains: Sequence[Chain]) -> list[str]:
        """Take the chains away wherever they are; the names of those that were there."""
        return await self._thread.run(lambda: self._remove(chains))

    async def close(self) -> None:
        """Give back the thread. The chains stay."""
        await self._thread.run(self._shut)
        self._thread.close()

    def _shut(self) -> None:
        for variant in self._variants.values():
            variant.close()
        self._variants.clear()

    def _find(self) -> None:
        """Find out what there is, once. Raises Unsupported."""
        if self._variants:
            return
        found = {}
        for kind in (NFT, LEGACY):
            try:
                found[kind] = _Variant(kind)
            except Unsupported:
                continue
        main = variant_of("iptables")
        if not found:
            raise Unsupported("pods need the iptables tools on this host: apt install iptables")
        self._main = main if main in found else next(iter(found))
        self._variants = found

    def _converge(self, chains: tuple[Chain, ...], compare: bool) -> list[str]:
        self._find()
        if not compare and self._left == (chains, self._states()):
            return []
        self._left = None
        mended: dict[str, None] = {}
        for _ in range(_ROUNDS):
            # Taken before the look: what others change after it is seen next time.
            before = self._states()
            wrong = self._mend(chains)
            if not wrong:
                self._left = (chains, before)
                break
            mended |= dict.fromkeys(wrong)
        return list(mended)

    def _mend(self, chains: tuple[Chain, ...]) -> list[str]:
        """Look at every chain, put right those that are not; their names."""
        mended = []
        for kind, variant in self._variants.items():
            for chain in chains:
                if kind != self._main and not (
                    chain.table == "filter" and variant.filters(chain.name)
                ):
                    continue
                lines = edits(variant.listing(chain.table), chain)
                if lines:
                    variant.restore(chain.table, lines)
                    mended.append(chain.name)
        return mended

    def _remove(self, chains: Iterable[Chain]) -> list[str]:
        self._find()
        self._left = None
        removed: dict[str, None] = {}
        for variant in self._variants.values():
            for chain in chains:
                if not variant.exists(chain.table):
                    continue
                lines = removal(variant.listing(chain.table), chain)
                if lines:
                    variant.restore(chain.table, lines)
                    variant.drop_if_bare(chain.table)
                    removed[chain.name] = None
        return list(removed)

    def _states(self) -> tuple[bytes, ...]:
        """What changes with the tables."""
        return tuple(variant.state() for variant in self._variants.values())


class _Variant:
    """One set of tables. Raises Unsupported when this host has not got it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        prefix = _PREFIX[kind]
        self._restore = find_tool(kind, (f"{prefix}-restore", "iptables-restore"))
        self._save = find_tool(kind, (f"{prefix}-save", "iptables-save"))
        self._kernel = Nftables() if kind == NFT else None
        self._raw: socket.socket | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)

    def close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
        if self._raw is not None:
            self._raw.close()

    def state(self) -> bytes:
        if self._kernel is not None:
            return self._kernel.generation()
        tables = [name for name in ("filter", "nat") if self.exists(name)]
        if not tables:
            return b""
        if self._raw is None:
            try:
                self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            except PermissionError as error:
                raise NotPermitted("changing iptables needs root or CAP_NET_ADMIN") from error
        return b"".join(table_info(self._libc, self._raw, name) for name in tables)

    def exists(self, table: str) -> bool:
        """Whether to look into the table: looking makes a legacy one."""
        return self.kind == NFT or legacy_table_exists(table)

    def filters(self, chain: str) -> bool:
        """Whether anybody but us keeps forwarded packets from passing here."""
        if not self.exists("filter"):
            return False
        lines = self.listing("filter").splitlines()
        others = [ln for ln in lines if ln.startswith("-A FORWARD ") and not ln.endswith(chain)]
        return bool(others) or any(line.startswith(":FORWARD DROP") for line in lines)

    def listing(self, table: str) -> str:
        return run_tool([self._save, "-t", table])

    def restore(self, table: str, lines: Iterable[str]) -> None:
        wait = ["--wait", _WAIT] if self.kind == LEGACY else []
        run_tool([self._restore, "--noflush", *wait], script(table, lines))

    def drop_if_bare(self, table: str) -> None:
        """iptables-nft makes a table with its first rule and never takes it away. An empty one
        does nothing, so when ours were the last rules it goes too."""
        if self._kernel is None:
            return
        before = self._kernel.generation()
        if bare(self.listing(table)):
            try:
                self._kernel.delete_table(table, before)
            except NetfilterError:
                pass  # somebody begins to use it
