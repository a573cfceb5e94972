"""Somebody else answers for an address that this node announces.

A node that ranks before us and claims an address is alive, though no probe reached it: we yield for
a while. Anybody else is told of; who has the better right goes on telling everybody (RFC 5227).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from k8slite.decide.announcing import PORT, State
from k8slite.kit.clock import Clock
from k8slite.network.speaker import neighbours
from k8slite.roles.announcer.peers import Peers

#: A claim counts when it is heard again after so many seconds: until then it may be what was under
#: way when an address moved.
LASTS = 3.0
#: Seconds that we take a node for alive because it claimed an address of a better rank.
YIELD = 10.0
#: Seconds between two words on the same claim, and until a claim is forgotten.
SAY_EVERY = 60.0


class Contested:
    """``hosts()``: hardware address → IPv4 address of the hosts around."""

    def __init__(
        self,
        clock: Clock,
        peers: Peers,
        hosts: Callable[[], Mapping[str, str]] = neighbours,
    ) -> None:
        self._clock = clock
        self._peers = peers
        self._hosts = hosts
        self._since: dict[tuple[str, str], float] = {}  # address, mac → first heard
        self._said: dict[tuple[str, str], float] = {}
        self._yield: dict[str, float] = {}  # node → until

    def state(self, node: str) -> State:
        """What is known of a node, by its answers and by its claims."""
        if self._clock.monotonic() < self._yield.get(node, 0.0):
            return State.ALIVE
        return self._peers.state(node)

    def claimed(self, address: str, mac: str, before: Collection[str]) -> str:
        """What is to be told about it, or "". ``before``: the nodes of a better rank than ours."""
        now = self._clock.monotonic()
        self._since = {k: at for k, at in self._since.items() if now < at + SAY_EVERY}
        self._said = {k: at for k, at in self._said.items() if now < at + SAY_EVERY}
        claim = address, mac
        if now < self._since.setdefault(claim, now) + LASTS:
            return ""
        node = self._peers.name_at(self._hosts().get(mac, ""))
        if node in before:
            self._yield[node] = now + YIELD
        if claim in self._said:
            return ""
        self._said[claim] = now
        if not node:
            return (
                f"{mac}, which is no node of this cluster, has {address} too: take the address "
                "from that host, or out of the pool"
            )
        return (
            f"node {node} announces {address} too: the nodes do not reach each other; open UDP "
            f"port {PORT} between them"
        )
