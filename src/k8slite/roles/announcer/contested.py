"""Somebody else answers for an address that this node announces.

A node that ranks before us and claims an address is alive, though no probe reached it: we yield for
a while. Anybody else is told of; who has the better right goes on telling everybody (RFC 5227).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

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
#: Seconds between two looks at who it is that claims.
LOOK_EVERY = 1.0
#: So many claims are remembered; the eldest give way. Anybody can invent claimants.
MOST = 1024


@dataclass(slots=True)
class _Claim:
    """When it was first heard, and when it was last looked into and told of."""

    since: float
    looked: float = float("-inf")
    said: float = float("-inf")


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
        self._claims: dict[tuple[str, str], _Claim] = {}  # by address and mac, eldest first
        self._yield: dict[str, float] = {}  # node → until

    def state(self, node: str) -> State:
        """What is known of a node, by its answers and by its claims."""
        if self._clock.monotonic() < self._yield.get(node, 0.0):
            return State.ALIVE
        return self._peers.state(node)

    def claimed(self, address: str, mac: str, before: Collection[str]) -> str:
        """What is to be told about it, or "". ``before``: the nodes of a better rank than ours."""
        now = self._clock.monotonic()
        claim = self._claim((address, mac), now)
        if now < claim.since + LASTS or now < claim.looked + LOOK_EVERY:
            return ""
        claim.looked = now
        node = self._peers.name_at(self._hosts().get(mac, ""))
        if node in before:
            self._yield[node] = now + YIELD
        if now < claim.said + SAY_EVERY:
            return ""
        claim.said = now
        if not node:
            return (
                f"{mac}, which is no node of this cluster, has {address} too: take the address "
                "from that host, or out of the pool"
            )
        return (
            f"node {node} announces {address} too: the nodes do not reach each other; open UDP "
            f"port {PORT} between them"
        )

    def _claim(self, key: tuple[str, str], now: float) -> _Claim:
        claim = self._claims.get(key)
        if claim is None:
            if len(self._claims) >= MOST:
                del self._claims[next(iter(self._claims))]
            claim = self._claims[key] = _Claim(now)
        elif now >= claim.since + SAY_EVERY:
            claim.since = now  # perhaps it was silent since
        return claim
