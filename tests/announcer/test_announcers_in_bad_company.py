"""What strangers send costs a bounded time and memory, and makes nobody believe anything."""

from __future__ import annotations

from tests.announcer.simulated import Site
from tests.announcer.test_simulated_nodes import alone, ranked, story

from k8slite.kit.clock import Clock
from k8slite.roles.announcer import contested
from k8slite.roles.announcer.contested import LASTS, LOOK_EVERY, Contested
from k8slite.roles.announcer.peers import Peers
from k8slite.roles.announcer.wire import Message, encode


class Stopped(Clock):
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_invented_claimants_are_forgotten_and_a_real_one_is_looked_into_now_and_then() -> None:
    clock, looks = Stopped(), []
    peers = Peers(clock, lambda: True, lambda peer: None)
    peers.know({"n1": "192.168.0.11"})

    def hosts() -> dict[str, str]:
        looks.append(clock.now)
        return {"02:00:00:00:00:01": "192.168.0.11"}

    heard = Contested(clock, peers, hosts)
    for number in range(3 * contested.MOST):
        assert not heard.claimed("192.168.0.240", f"{number:012x}", ())
    assert len(heard._claims) == contested.MOST
    said = []
    for step in range(1000):
        clock.now = step / 100
        told = heard.claimed("192.168.0.240", "02:00:00:00:00:01", ("n1",))
        said += [told] if told else []
    assert len(said) == 1
    assert "node n1 announces 192.168.0.240 too" in said[0]
    assert len(looks) <= (10 - LASTS) / LOOK_EVERY + 1
    assert heard.state("n1") is contested.State.ALIVE


@story(3)
async def test_invented_questions_are_answered_and_nothing_more(site: Site) -> None:
    first, _, third = ranked(site)
    node = site.named(first)
    looks = 0

    async def say(addresses: frozenset[str]) -> None:
        nonlocal looks
        looks += 1
        node.voice.said = addresses

    node.voice.say = say  # type: ignore[method-assign]
    source = site.named(third).address
    for _ in range(1000):
        site.network.wires[node.address](encode(Message(7, well=False)), source)
        site.network.wires[node.address](encode(Message(7, True, well=False)), source)
        await site.clock.sleep(0.001)
    assert looks < 20
    assert alone(site, first)


@story(3)
async def test_who_never_stops_asking_makes_no_storm(site: Site) -> None:
    first, _, third = ranked(site)
    node, source = site.named(first), site.named(third).address
    before = node.voice.renewed
    for _ in range(600):
        site.network.wires[node.address](encode(Message(7, well=False)), source)
        await site.clock.sleep(1.0)
    assert 5 < node.voice.renewed - before < 20
    await site.clock.sleep(200)
    for _ in range(2):
        before = node.voice.renewed
        site.network.wires[node.address](encode(Message(7, well=False)), source)
        assert node.voice.renewed == before + 1, "who returns is told of us at once"
        await site.clock.sleep(3)
