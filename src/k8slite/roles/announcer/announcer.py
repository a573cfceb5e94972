"""The shell: objects and answers in, a verdict out, said by a voice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

import structlog

from k8slite.api.kinds import ENDPOINTS, NODE, SERVICE
from k8slite.api.kinds.endpoints.types import Endpoints
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.service.types import Service
from k8slite.client.base import Informers
from k8slite.config import Settings
from k8slite.decide import announcing
from k8slite.decide.addresspool import Pool
from k8slite.decide.announcing import PORT, Offer, State, Verdict
from k8slite.decide.loadbalancer import ingress
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.network.voice import CannotAnnounce, Voice
from k8slite.roles.announcer.contested import Contested
from k8slite.roles.announcer.peers import Peers
from k8slite.roles.announcer.telling import Recorder, Teller
from k8slite.roles.announcer.wire import Opening, open_udp

log = structlog.get_logger()

#: Seconds between two looks while there are addresses to care for: at the other nodes, or only at
#: our own portal rules.
LOOK_EVERY, LOOK_AT_RULES_EVERY = 0.2, 1.0
#: Seconds that a new address, or all at the start, wait for their portal rules, at the most.
_RULES_WITHIN = 2.0
#: Seconds between two attempts to open what could not be opened.
_RETRY = 2.0
#: Seconds between two renewals: where answers get lost, they are asked for again and again. Who
#: never stops asking is heard more and more seldom, and as at first after a silence.
_RENEW_EVERY, _RENEW_AT_MOST, _SILENCE = 2.0, 60.0, 120.0
_OFFERED = "announced"


class Portals(Protocol):
    """What is asked of the proxy."""

    @property
    def trouble(self) -> str:
        """Why the portal rules cannot be written, or ""."""
        ...

    @property
    def settled(self) -> bool:
        """All rules that are wanted are in the kernel."""
        ...


class Announcer:
    """``trouble`` says why nothing is announced from here though it should be, or ""."""

    def __init__(
        self,
        settings: Settings,
        informers: Informers,
        recorder: Recorder,
        clock: Clock,
        portals: Portals,
        *,
        open_wire: Opening = open_udp,
    ) -> None:
        self.trouble = ""
        self._settings = settings
        self._me = settings.node_name
        self._ranks = settings.announce == "arp"
        self._pool = Pool.read(settings.address_pool)
        self._services = informers.of(SERVICE)
        self._endpoints = informers.of(ENDPOINTS)
        self._nodes = informers.of(NODE)
        self._services.index(_OFFERED, lambda service: ("",) if ingress(service) else ())
        self._clock = clock
        self._portals = portals
        self._open_wire = open_wire
        self._voice: Voice | None = None
        self._peers = Peers(clock, lambda: not self.trouble, self._revived)
        self.contested = Contested(clock, self._peers)
        self._teller = Teller(recorder, self._services, clock, self._me)
        self._changed = asyncio.Event()
        self._stale = True  # offers and places are to be read anew
        self._offers: dict[str, Offer] = {}
        self._places: dict[str, str] = {}
        self._states: dict[str, State] = {}  # of those that are watched, when this was decided:
        self._paces: dict[str, float] = {}
        self._verdict = Verdict(frozenset(), {})
        self._mine: frozenset[str] = frozenset()
        self._waiting: dict[str, float] = {}  # for their rules, since
        self._wire_at = float("-inf")  # no earlier attempt to open it
        self._voice_at = float("-inf")  # no earlier attempt to speak
        self._renewed = float("-inf")
        self._renew_every = _RENEW_EVERY

    @property
    def announced(self) -> frozenset[str]:
        """The addresses that this node announces."""
        return self._mine

    async def run(self, voice: Voice) -> None:
        """Until cancelled; then nothing is announced any more."""
        for informer in (self._services, self._endpoints, self._nodes):
            await informer.wait_synced()
        until = self._clock.monotonic() + _RULES_WITHIN
        while not self._portals.settled and self._clock.monotonic() < until:
            await self._clock.sleep(LOOK_EVERY)
        unsubscribe = [
            self._services.subscribe(self._on_service),
            self._endpoints.subscribe(self._on_endpoints),
            self._nodes.subscribe(self._on_node),
        ]
        self._voice = voice
        own = asyncio.create_task(voice.run(), name="announcer-voice")
        try:
            while True:
                self._changed.clear()
                await self._look(voice)
                every = LOOK_EVERY if self._ranks else LOOK_AT_RULES_EVERY
                idle = not (self._offers or self._mine or self.trouble)
                await self._clock.wait(self._changed, None if idle else every)
                if own.done():
                    own.result()
        finally:
            for leave in unsubscribe:
                leave()
            self._voice = None
            await stop(own)
            await voice.close()
            self._peers.leave()

    # -- news ----------------------------------------------------------------------------------

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        if any(service is not None and ingress(service) for service in (old, new)):
            self._again()

    def _on_endpoints(self, old: Endpoints | None, new: Endpoints | None) -> None:
        found = new or old
        if found is not None:
            service = self._services.get(found.key)
            if service is not None and ingress(service):
                self._again()

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if announcing.places(filter(None, (old,))) != announcing.places(filter(None, (new,))):
            self._again()

    def _again(self) -> None:
        self._stale = True
        self._changed.set()

    def _revived(self, peer: str) -> None:
        """We may have been apart, each announcing: whoever heard of the other shall hear of us.
        Anybody may invent a question, so nothing is done at once for every one."""
        now = self._clock.monotonic()
        if self._voice is not None and now >= self._renewed + self._renew_every:
            silent = now >= self._renewed + _SILENCE
            again = min(2 * self._renew_every, _RENEW_AT_MOST)
            self._renew_every = _RENEW_EVERY if silent else again
            self._renewed = now
            self._voice.renew(self._mine)
            self._changed.set()

    # -- a look --------------------------------------------------------------------------------

    async def _look(self, voice: Voice) -> None:
        trouble = self._portals.trouble
        if self._ranks:
            trouble = trouble or await self._reach_others()
        self._decide()
        wanted = self._with_rules(self._verdict.mine) if not trouble else frozenset()
        if self._clock.monotonic() < self._voice_at:
            trouble, wanted = trouble or self.trouble, frozenset()
        else:
            try:
                await voice.say(wanted)
            except CannotAnnounce as error:
                trouble, wanted = str(error), frozenset()
                self._voice_at = self._clock.monotonic() + _RETRY
        if trouble and trouble != self.trouble:
            log.error("addresses not announced", role="announcer", error=trouble)
            self._teller.trouble(self._offers, trouble)
        self.trouble = trouble
        self._tell(voice, wanted)

    async def _reach_others(self) -> str:
        """Have a wire, and probe by it whom the last decision named; why there is none, or ""."""
        if self._peers.wire is None and self._clock.monotonic() >= self._wire_at:
            self._wire_at = self._clock.monotonic() + _RETRY
            try:
                address = self._settings.node_ip
                self._peers.wire = await self._open_wire(address, self._peers.receive)
            except OSError as error:
                return f"the other nodes cannot be asked: UDP port {PORT}: {error.strerror}"
        if self._peers.wire is None:
            return self.trouble
        self._peers.ask(self._paces)
        return ""

    def _decide(self) -> None:
        """By the objects and states of now; nothing is done when they are those of before."""
        if self._stale:
            self._stale = False
            found = self._services.by_index(_OFFERED, "")
            self._offers = announcing.offers(found, self._endpoints.get, self._pool)
            self._places = announcing.places(self._nodes.items())
            self._peers.know(self._places)
        elif self._states == {peer: self.contested.state(peer) for peer in self._paces}:
            return
        if not self._ranks:
            self._verdict = announcing.by_all(self._me, self._offers, self._places)
            return
        state = self.contested.state
        self._verdict = announcing.by_rank(self._me, self._offers, self._places, state)
        self._paces = announcing.watched(self._me, self._offers, self._places, state)
        self._states = {peer: state(peer) for peer in self._paces}
        self._peers.ask(self._paces)

    def _with_rules(self, wanted: frozenset[str]) -> frozenset[str]:
        """Without those that are new and whose portal rules may not be there yet."""
        now = self._clock.monotonic()
        fresh = wanted - self._mine
        self._waiting = {address: self._waiting.get(address, now) for address in fresh}
        if self._portals.settled:
            return wanted
        return wanted - {a for a, since in self._waiting.items() if now < since + _RULES_WITHIN}

    def _tell(self, voice: Voice, wanted: frozenset[str]) -> None:
        offered, verdict = self._offers, self._verdict
        for address in sorted(wanted - self._mine):
            self._teller.announced(offered[address], self._settings.announce, voice.where)
        for address in sorted(self._mine - wanted):
            why = self.trouble or verdict.why_not.get(address, "no service has it any more")
            self._teller.withdrawn(offered.get(address), address, why)
        self._mine = wanted

    # -- others that claim our addresses -------------------------------------------------------

    def heard(self, address: str, mac: str) -> None:
        """Somebody with this hardware address says that it has ``address``."""
        offer = self._offers.get(address)
        if offer is None or address not in self._mine:
            return
        before = _before(self._me, announcing.candidates(offer, self._places))
        said = self.contested.claimed(address, mac, before)
        if said:
            log.warning("address claimed elsewhere", role="announcer", key=address, what=said)
            self._teller.contested(offer, said)


def _before(me: str, ranked: Iterable[str]) -> frozenset[str]:
    """Who comes before us."""
    found = []
    for node in ranked:
        if node == me:
            break
        found.append(node)
    return frozenset(found)
