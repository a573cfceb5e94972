"""The announcers of the other nodes: asked, answered, and known by their answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from k8slite.decide.announcing import MISSES, Sight, State
from k8slite.kit.clock import Clock
from k8slite.roles.announcer.wire import Message, Wire, decode, encode

#: Numbers of a peer that an answer may still bring.
_OPEN = MISSES + 1


class Peers:
    """``well()``: how this node is, which is what it answers. ``revived(peer)`` is called when a
    node answers that was taken for dead, or takes us for dead."""

    def __init__(
        self, clock: Clock, well: Callable[[], bool], revived: Callable[[str], None]
    ) -> None:
        self._clock = clock
        self._well = well
        self._revived = revived
        self._sight = Sight()
        self._places: dict[str, str] = {}  # name → address
        self._names: dict[str, str] = {}  # and back
        self._asked: dict[str, deque[int]] = {}
        self._askers: dict[str, int] = {}  # node → the last number that it sent
        self.wire: Wire | None = None

    def know(self, places: Mapping[str, str]) -> None:
        """Where the nodes are; who is not among them is gone."""
        gone = self._places.keys() - places.keys()
        self._sight.forget(gone)
        for name in gone:
            self._asked.pop(name, None)
            self._askers.pop(name, None)
        self._places = dict(places)
        self._names = {address: name for name, address in places.items()}

    def name_at(self, address: str) -> str:
        """The node with this address; "" when there is none."""
        return self._names.get(address, "")

    def state(self, peer: str) -> State:
        return self._sight.state(peer, self._clock.monotonic())

    def ask(self, paces: Mapping[str, float]) -> None:
        """Probe those whose turn it is. ``paces``: seconds between two probes of each."""
        if self.wire is None:
            return
        now = self._clock.monotonic()
        for peer, pace in paces.items():
            if not self._sight.due(peer, pace, now):
                continue
            number = self._clock.rng.getrandbits(64)
            self._asked.setdefault(peer, deque(maxlen=_OPEN)).append(number)
            answering = self._sight.state(peer, now) is not State.DEAD
            self._sight.sent(peer, now)
            self.wire.send(encode(Message(number, well=answering)), self._places[peer])

    def receive(self, data: bytes, address: str) -> None:
        message, peer = decode(data), self._names.get(address)
        if message is None or peer is None or self.wire is None:
            return
        if not message.answer:
            self._askers[peer] = message.number
            self.wire.send(encode(Message(message.number, True, self._well())), address)
            if not message.well:
                self._revived(peer)
            return
        known = message.number in self._asked.get(peer, ())
        if known and self._sight.heard(peer, well=message.well):
            self._revived(peer)

    def leave(self) -> None:
        """Say good-bye to those who ask us: nobody has to find out by our silence."""
        wire, self.wire = self.wire, None
        if wire is not None:
            for peer, number in self._askers.items():
                wire.send(encode(Message(number, True, well=False)), self._places[peer])
            wire.close()
