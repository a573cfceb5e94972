"""Who announces an address: exactly one, if all see the same and anybody may."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from k8slite.decide.announcing import (
    DEPTH,
    MISSES,
    PATIENCE,
    PROBE_EVERY,
    Offer,
    Sight,
    State,
    by_all,
    by_rank,
    candidates,
    watched,
)

NAMES = [f"n{number}" for number in range(12)]
ADDRESSES = [f"192.168.0.{240 + number}" for number in range(6)]

_OFFERS = st.builds(
    Offer,
    address=st.sampled_from(ADDRESSES),
    services=st.just(("default/web",)),
    ready=st.booleans(),
    nodes=st.none() | st.frozensets(st.sampled_from(NAMES)),
)
_SITES = st.lists(_OFFERS, unique_by=lambda offer: offer.address)
_STATES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from((State.ALIVE, State.DEAD)))


@settings(max_examples=300)
@given(_SITES, _STATES)
def test_one_announces_if_anybody_may_and_none_otherwise(
    site: list[Offer], states: dict[str, State]
) -> None:
    offered = {offer.address: offer for offer in site}
    living = [name for name, state in states.items() if state is State.ALIVE]
    said = Counter(
        address
        for name in living
        for address in by_rank(name, offered, states, states.__getitem__).mine
    )
    for address, offer in offered.items():
        able = [n for n in living if offer.ready and (offer.nodes is None or n in offer.nodes)]
        assert said[address] == (1 if able else 0)


@given(_SITES, st.frozensets(st.sampled_from(NAMES)), st.data())
def test_a_node_that_may_live_is_robbed_of_nothing(
    site: list[Offer], nodes: frozenset[str], data: st.DataObject
) -> None:
    """Each knows something else of the others; but nobody is dead."""
    offered = {offer.address: offer for offer in site}
    said: Counter[str] = Counter()
    for name in nodes:
        states = {n: data.draw(st.sampled_from((State.ALIVE, State.UNKNOWN))) for n in nodes}
        said.update(by_rank(name, offered, nodes, states.__getitem__).mine)
    assert all(times == 1 for times in said.values())


@given(_SITES, st.frozensets(st.sampled_from(NAMES)))
def test_routers_are_told_by_all_who_may(site: list[Offer], nodes: frozenset[str]) -> None:
    offered = {offer.address: offer for offer in site}
    for name in nodes:
        verdict = by_all(name, offered, nodes)
        assert verdict.mine == {a for a, o in offered.items() if name in candidates(o, nodes)}
        assert verdict.mine | verdict.why_not.keys() == offered.keys()


def test_addresses_spread_and_those_of_a_dead_node_spread_over_the_rest() -> None:
    offered = [Offer(f"10.9.{i // 250}.{i % 250}", (), True) for i in range(1000)]
    first = {o.address: candidates(o, NAMES[:4])[0] for o in offered}
    assert min(Counter(first.values()).values()) > 200
    without = {o.address: candidates(o, NAMES[1:4])[0] for o in offered}
    moved = [a for a in first if first[a] != without[a]]
    assert {first[a] for a in moved} == {NAMES[0]}, "the others stay where they were"
    assert min(Counter(without[a] for a in moved).values()) > 50


def test_only_the_first_of_the_living_before_us_are_watched_and_all_the_dead() -> None:
    offer = Offer("192.168.0.240", (), True)
    ranked = candidates(offer, NAMES)
    offered = {offer.address: offer}
    assert watched(ranked[0], offered, NAMES, lambda name: State.ALIVE) == {}
    last = watched(ranked[-1], offered, NAMES, lambda name: State.ALIVE)
    assert set(last) == set(ranked[:DEPTH])
    assert min(last.values()) > watched(ranked[1], offered, NAMES, lambda _: State.ALIVE)[ranked[0]]
    dead = set(ranked[:3])
    state = {name: State.DEAD if name in dead else State.ALIVE for name in NAMES}
    paces = watched(ranked[-1], offered, NAMES, state.__getitem__)
    assert set(paces) == dead | set(ranked[3 : 3 + DEPTH])


def test_silence_is_death_only_when_somebody_asked() -> None:
    sight = Sight()
    assert sight.state("a", 0.0) is State.UNKNOWN
    now = 0.0
    sight.sent("a", now)
    sight.heard("a", well=True)
    assert sight.state("a", now + 5) is State.ALIVE
    for _ in range(MISSES):
        now += PROBE_EVERY
        assert sight.due("a", PROBE_EVERY, now)
        sight.sent("a", now)
        assert sight.state("a", now) is not State.DEAD
    assert sight.state("a", now + PATIENCE) is State.DEAD
    assert sight.heard("a", well=True), "it is back"
    assert not sight.heard("a", well=False)
    assert sight.state("a", now) is State.DEAD, "unwell is as good as dead"
    assert sight.heard("a", well=True)
    assert sight.state("a", now + 3600) is State.UNKNOWN, "that was long ago"
