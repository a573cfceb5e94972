"""The chains and the table as one edge: what has no place in the one stands in the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from k8slite.netfilter.edge import Edge, NetfilterError, Unsupported
from k8slite.netfilter.nft.edge import TableEdge
from k8slite.netfilter.portals import Change, Desired

log = structlog.get_logger()


class JoinedEdge:
    """``netfilter.edge.Edge`` over both. ``room`` is how many claims the chains may take where
    there is a table.

    A table that turns out not to work is left alone from then on; ``table_trouble`` says why. With
    a ``room`` of 0 the chains are taken away once the table stands, and left alone from then on.
    """

    def __init__(self, chains: Edge, table: TableEdge, room: int) -> None:
        self.table_trouble = ""
        self._chains = chains
        self._table = table
        self._room = room
        self._tried = False
        self._bare = False  # the chains are known to be away
        self._chains_trouble = ""  # why they are not
        self._chained = False  # they are known to be there

    @property
    def name(self) -> str:
        if self.table_trouble:
            return self._chains.name
        return self._table.name if self._room == 0 else f"{self._chains.name}, {self._table.name}"

    @property
    def chain_room(self) -> int | None:
        """Finds out whether there is a table when first asked, which takes a few milliseconds."""
        if not self._tried:
            self._tried = True
            try:
                self._table.try_out()
            except NetfilterError as error:
                self.table_trouble = str(error)
                log.warning("no table of nftables", role="proxy", error=str(error))
        return None if self.table_trouble else self._room

    def heed(self, disturbed: Callable[[], None]) -> None:
        """Have ``disturbed`` called when others changed nftables (``TableEdge.heed``)."""
        self._table.heed(disturbed)

    async def probe(self) -> None:
        if self.chain_room != 0:
            await self._chains.probe()

    async def sync(self, desired: Desired) -> Change:
        if self.chain_room == 0:
            done = await self._table.sync(desired)
            await self._take_chains_away()
            return done
        if self.chain_room is None:
            return await self._chains.sync(desired)
        if not self._chained:
            # An agent in the mode nft may have been here: what it left in the table serves on until
            # the chains do.
            found = await self._chains.sync(desired)
            self._chained = True
            table_found = await self._table.sync(desired)
            return Change(found.remove, found.add, table_found.table)
        # Neither waits for the other: a tool may hold the chains' tables for long.
        table, chains = await asyncio.gather(
            self._table.sync(desired), self._chains.sync(desired), return_exceptions=True
        )
        if isinstance(table, BaseException):
            raise table
        if isinstance(chains, BaseException):
            raise chains
        return Change(chains.remove, chains.add, table.table)

    async def change(self, change: Change) -> None:
        if change.table:
            await self._table.change(Change(table=change.table))
        if change.remove or change.add:
            await self._chains.change(Change(change.remove, change.add))

    async def intact(self) -> bool:
        if self.chain_room is not None and not await self._table.intact():
            return False
        if self.chain_room == 0:
            await self._take_chains_away()
            return True
        return await self._chains.intact()

    async def _take_chains_away(self) -> None:
        """Once; what keeps us from it keeps nothing else, and is tried again with the next look."""
        if self._bare:
            return
        try:
            await self._chains.remove()
            self._bare = True
        except Unsupported:
            self._bare = True  # who cannot have chains has left none
        except NetfilterError as error:
            if str(error) != self._chains_trouble:
                self._chains_trouble = str(error)
                log.warning("the other mode's rules stay", role="proxy", error=str(error))

    async def connections(self) -> dict[str, int]:
        """How many connections each portal of the table had; read when somebody asks."""
        return {} if self.chain_room is None else await self._table.connections()

    async def remove(self) -> list[str]:
        try:
            return await self._chains.remove()
        finally:  # who holds the chains' tables keeps nobody from this one
            try:
                await self._table.remove()
            except Unsupported:
                pass  # no nftables, no table

    async def close(self) -> None:
        await self._chains.close()
        await self._table.close()
