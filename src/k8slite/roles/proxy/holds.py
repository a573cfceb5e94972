"""Ports of this host that belong to services, held so that nobody else takes them.

kube-proxy opened a node port, and the port of a public address that is the host's own, before it
wrote rules for it (v0.18, claimNodePort). So a service never takes the door of something that runs
on the host, its SSH or the API server for two, and nothing that starts later finds its port
redirected. What is held is bound and not listened on: without rules a client is refused.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import suppress

from k8slite.netfilter.portals import Claim

#: Not ours to hold: an address that is not this host's, or a port that only root may bind.
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM)


class Holds:
    """Sockets by what they hold, for as long as any portal wants it."""

    def __init__(self) -> None:
        self._sockets: dict[Claim, socket.socket | None] = {}
        self._wanted: dict[str, frozenset[Claim]] = {}  # by portal name
        self._holders: dict[Claim, set[str]] = {}

    def keep(self, name: str, claims: Iterable[Claim]) -> dict[Claim, str]:
        """The portal ``name`` wants these held, and nothing else. Returns those that cannot be
        had and why; ask again later. What is held already costs nothing."""
        wanted = frozenset(claims)
        for claim in self._wanted.get(name, frozenset()) - wanted:
            self._give_back(claim, name)
        self._wanted[name] = wanted
        taken = {}
        for claim in wanted:
            if name in self._holders.get(claim, ()):
                continue
            try:
                if claim not in self._sockets:
                    self._sockets[claim] = _bound(claim)
            except OSError as error:
                taken[claim] = _why(error)
            else:
                self._holders.setdefault(claim, set()).add(name)
        return taken

    def release(self, name: str) -> None:
        """Hold nothing for this portal any more; an unknown name is no error."""
        for claim in self._wanted.pop(name, ()):
            self._give_back(claim, name)

    def close(self) -> None:
        for name in tuple(self._wanted):
            self.release(name)

    def _give_back(self, claim: Claim, name: str) -> None:
        holders = self._holders.get(claim, set())
        holders.discard(name)
        if not holders:
            self._holders.pop(claim, None)
            held = self._sockets.pop(claim, None)
            if held is not None:
                held.close()


def _bound(claim: Claim) -> socket.socket | None:
    """A socket that holds ``claim``; None when there is nothing to hold. Raises OSError."""
    kind = socket.SOCK_STREAM if claim.protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in claim.address or not claim.address else socket.AF_INET
    try:
        held = socket.socket(family, kind)
    except OSError:
        if claim.address:
            return None
        held = socket.socket(socket.AF_INET, kind)  # a host without IPv6
    try:
        with suppress(OSError):
            # The wildcard address of both families; an address of IPv6 alone.
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(claim.address)))
        if kind == socket.SOCK_STREAM:
            # Connections that a former server of the host left (TIME_WAIT) are no claim.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            # Nobody reads what comes here while there are no rules.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        held.bind((claim.address, claim.port))
        # From now on: whoever listens here after us shall not.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        held.close()
        if error.errno in _NOT_OURS:
            return None
        raise
    return held


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something else on this host uses it"
    return os.strerror(error.errno or errno.EIO)
