"""What the announcer asks of an edge that tells the network of addresses: ARP or BGP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class CannotAnnounce(Exception):
    """Nothing can be announced from this node; the text says why and what to do."""


class Voice(Protocol):
    """One way of announcing, on this host."""

    @property
    def where(self) -> str:
        """From where or to whom, in words."""
        ...

    async def run(self) -> None:
        """What the voice has to do by itself, until cancelled."""
        ...

    async def say(self, addresses: frozenset[str]) -> None:
        """Announce these from now on, and no others; called again and again. Raises
        CannotAnnounce."""
        ...

    def renew(self, addresses: Iterable[str]) -> None:
        """Tell of these anew: somebody may have been told otherwise."""
        ...

    async def close(self) -> None:
        """Announce nothing any more, and leave nothing behind."""
        ...
