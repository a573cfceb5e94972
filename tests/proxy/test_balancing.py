"""Balancing: fair to the connection, faithful to the client, patient with no broken endpoint."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.decide import balancing
from k8slite.decide.balancing import AFFINITY_SECONDS, Balancer, Endpoint
from k8slite.decide.rounds import FIRST_SHARE, PROBE_SECONDS

endpoints = st.sets(st.integers(1, 12), min_size=1).map(
    lambda numbers: [Endpoint("10.0.0.1", number) for number in sorted(numbers)]
)
seeds = st.integers(0, 100)


def balancer(members: list[Endpoint], seed: int = 0, affinity: float | None = None) -> Balancer:
    made = Balancer(random.Random(seed), affinity=affinity)
    made.set_endpoints(members)
    return made


def some(count: int) -> list[Endpoint]:
    return [Endpoint("10.0.0.1", number) for number in range(1, count + 1)]


@given(endpoints, seeds, st.integers(1, 5), st.integers(0, 20))
def test_every_round_serves_each_endpoint_once(
    members: list[Endpoint], seed: int, rounds: int, skip: int
) -> None:
    under_test = balancer(members, seed)
    for _ in range(skip):
        under_test.pick("c", 0.0)
    picked = Counter(under_test.pick("c", 0.0) for _ in range(rounds * len(members)))
    assert picked == dict.fromkeys(members, rounds)


def test_the_start_and_the_order_are_random() -> None:
    members = some(6)
    orders = {
        tuple(made.pick("c", 0.0) for _ in members)
        for made in (balancer(members, seed) for seed in range(40))
    }
    assert len(orders) > 20


@given(endpoints, endpoints, seeds, st.integers(0, 20))
def test_a_changed_set_keeps_the_place_and_the_order(
    before: list[Endpoint], after: list[Endpoint], seed: int, drawn: int
) -> None:
    under_test, twin = balancer(before, seed), balancer(before, seed)
    for _ in range(drawn):
        under_test.pick("c", 0.0)
        twin.pick("c", 0.0)
    upcoming = [twin.pick("c", 0.0) for _ in before]
    under_test.set_endpoints(after)
    now_upcoming = [under_test.pick("c", 0.0) for _ in after]
    assert sorted(now_upcoming) == after
    stay = set(before) & set(after)
    assert [e for e in now_upcoming if e in stay] == [e for e in upcoming if e in stay]


def test_the_same_set_changes_nothing() -> None:
    members = some(5)
    under_test = balancer(members)
    first = under_test.pick("c", 0.0)
    assert not under_test.set_endpoints(reversed(members))
    rest = [under_test.pick("c", 0.0) for _ in range(4)]
    assert sorted([first, *rest]) == members


def test_without_endpoints_there_is_none() -> None:
    under_test = balancer(some(2))
    under_test.set_endpoints([])
    assert under_test.pick("c", 0.0) is None
    under_test.set_endpoints(some(1))
    assert under_test.pick("c", 0.0) == some(1)[0]


def test_a_client_stays_until_it_was_away_for_the_affinitys_time() -> None:
    under_test = balancer(some(4), affinity=AFFINITY_SECONDS)
    mine = under_test.pick("me", 0.0)
    assert mine != under_test.pick("you", 0.0)
    # Every use counts: three hours since the last one, not since the first.
    assert under_test.pick("me", AFFINITY_SECONDS - 1) == mine
    assert under_test.pick("me", 2 * AFFINITY_SECONDS - 2) == mine
    assert under_test.pick("me", 3 * AFFINITY_SECONDS) != mine


def test_a_client_moves_when_its_endpoint_goes_or_fails_it() -> None:
    under_test = balancer(some(3), affinity=60.0)
    mine = under_test.pick("me", 0.0)
    assert mine is not None
    other = under_test.pick("me", 1.0, [mine])
    assert other != mine
    assert under_test.pick("me", 2.0) == other
    under_test.set_endpoints([mine])
    assert under_test.pick("me", 3.0) == mine


@pytest.mark.parametrize("client", ["10.1.2.3", "fd00::7", "fe80::1%eth0"])
def test_affinity_is_to_the_whole_address_of_either_family(client: str) -> None:
    under_test = balancer(some(4), affinity=60.0)
    mine = under_test.pick(client, 0.0)
    assert under_test.pick(client + "1", 0.0) != mine
    assert under_test.pick(client, 0.0) == mine


def test_an_ipv4_client_is_the_same_by_an_ipv6_socket() -> None:
    under_test = balancer(some(4), affinity=60.0)
    assert under_test.pick("10.1.2.3", 0.0) == under_test.pick("::ffff:10.1.2.3", 0.0)


def test_a_client_stays_with_its_endpoint_whatever_others_met_there() -> None:
    under_test = balancer(some(2), affinity=60.0)
    mine = under_test.pick("me", 0.0)
    assert mine is not None
    under_test.failed(mine, 0.0)
    assert under_test.pick("stranger", 0.1) != mine
    assert under_test.pick("me", 0.1) == mine
    moved = under_test.pick("me", 0.1, [mine])  # it failed me too
    assert moved != mine
    assert under_test.pick("me", 50.0) == moved


def test_remembered_clients_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(balancing, "AFFINITY_CLIENTS", 10)
    under_test = balancer(some(3), affinity=60.0)
    for number in range(1000):
        under_test.pick(f"client-{number}", 0.0)
    assert len(under_test._clients) == 10


@given(endpoints, seeds)
def test_a_failing_endpoint_is_passed_over_and_comes_back(
    members: list[Endpoint], seed: int
) -> None:
    under_test = balancer(members, seed)
    bad = members[0]
    under_test.failed(bad, 0.0)
    during = [under_test.pick("c", 0.5) for _ in range(3 * len(members))]
    if len(members) > 1:
        assert bad not in during
        healthy = Counter(during)
        assert max(healthy.values()) - min(healthy.values()) <= 1
    assert bad in [under_test.pick("c", 60.0) for _ in members]


def test_each_failure_in_a_row_costs_longer_and_success_clears() -> None:
    under_test = balancer(some(2))
    bad, good = some(2)
    now = 0.0
    for longer in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        under_test.failed(bad, now)
        assert {under_test.pick("c", now + longer - 0.1) for _ in range(4)} == {good}
        now += longer
        assert bad in [under_test.pick("c", now) for _ in range(2)]  # the probe
    under_test.served(bad)
    assert bad in [under_test.pick("c", now) for _ in range(2)]
    under_test.failed(bad, now)
    assert bad in [under_test.pick("c", now + 1.0) for _ in range(2)]


def test_connections_that_were_on_their_way_together_are_one_failure() -> None:
    under_test = balancer(some(2))
    bad = some(2)[0]
    for number in range(100):
        under_test.failed(bad, number / 1000)
    assert bad in [under_test.pick("c", 1.1) for _ in range(2)]


@given(endpoints, seeds, st.integers(1, 50))
def test_one_connection_probes_and_the_others_wait_how_it_goes(
    members: list[Endpoint], seed: int, others: int
) -> None:
    bad, *rest = [*members, Endpoint("10.0.0.2", 80)]
    under_test = balancer([bad, *rest], seed)
    under_test.failed(bad, 0.0)
    picked = [under_test.pick("c", 1.0) for _ in range(len(rest) + others)]
    assert picked.count(bad) == 1
    under_test.served(bad)
    assert [under_test.pick("c", 1.0) for _ in range(len(rest) + 1)].count(bad) == 1


def test_a_probe_that_nothing_was_heard_of_went_well() -> None:
    """The client went away, or the server is one that never answers."""
    under_test = balancer(some(2))
    bad = some(2)[0]
    under_test.failed(bad, 0.0)
    assert bad in [under_test.pick("c", 1.0) for _ in range(2)]
    later = 1.0 + PROBE_SECONDS
    assert [under_test.pick("c", later) for _ in range(10)].count(bad) == 5


@given(st.integers(2, 12), seeds)
def test_however_many_refuse_all_are_passed_over_while_one_is_left(count: int, seed: int) -> None:
    good, *bad = some(count)
    under_test = balancer([good, *bad], seed)
    for endpoint in bad:
        under_test.failed(endpoint, 0.0)
    assert {under_test.pick("c", 0.5) for _ in range(3 * count)} == {good}


@given(endpoints, seeds)
def test_with_all_ejected_the_round_goes_on_over_all(members: list[Endpoint], seed: int) -> None:
    under_test = balancer(members, seed)
    for member in members:
        under_test.failed(member, 0.0)
    picked = Counter(under_test.pick("c", 0.5) for _ in range(2 * len(members)))
    assert picked == dict.fromkeys(members, 2)


@given(endpoints, seeds)
def test_when_all_fail_one_is_still_tried(members: list[Endpoint], seed: int) -> None:
    under_test = balancer(members, seed)
    for member in members:
        under_test.failed(member, 0.0)
    assert under_test.pick("c", 0.1) in members


@given(endpoints, seeds)
def test_attempts_of_one_connection_try_all_before_any_twice(
    members: list[Endpoint], seed: int
) -> None:
    under_test = balancer(members, seed)
    tried: list[Endpoint] = []
    for _ in members:
        picked = under_test.pick("c", 0.0, tried)
        assert picked is not None
        under_test.failed(picked, 0.0)
        tried.append(picked)
    assert sorted(tried) == members
    assert under_test.pick("c", 0.0, tried) in members


# -- warming up ------------------------------------------------------------------------------------


def warming(old: int, new: int, *, over: float = 100.0, at: float = 0.0) -> Balancer:
    """``old`` endpoints that were there first, then ``new`` ones that came ``at``."""
    under_test = Balancer(random.Random(1))
    under_test.set_warm_up(over)
    under_test.set_endpoints(some(old), 0.0)
    under_test.set_endpoints(some(old + new), at)
    return under_test


def test_those_that_were_there_first_are_warm() -> None:
    under_test = Balancer(random.Random(1))
    under_test.set_warm_up(100.0)
    under_test.set_endpoints([], 0.0)
    under_test.set_endpoints(some(3), 1.0)
    assert [under_test.weight(endpoint, 1.0) for endpoint in some(3)] == [1.0] * 3


@pytest.mark.parametrize(("age", "share"), [(0, FIRST_SHARE), (25, 0.25), (50, 0.5), (100, 1.0)])
def test_a_new_endpoints_share_grows_to_a_whole_one(age: float, share: float) -> None:
    under_test = warming(3, 1, at=1000.0)
    now, rounds = 1000.0 + age, 40
    new = some(4)[3]
    assert under_test.weight(new, now) == share
    picked: Counter[Endpoint | None] = Counter()
    while picked[some(4)[0]] < rounds:
        picked[under_test.pick("c", now)] += 1
    assert abs(picked[new] - share * rounds) <= 1
    warm = [picked[endpoint] for endpoint in some(3)]
    assert max(warm) - min(warm) <= 1


def test_a_new_endpoints_turns_are_spread_evenly() -> None:
    under_test = warming(3, 1)
    picked = [under_test.pick("c", 25.0) for _ in range(130)]
    turns = [place for place, endpoint in enumerate(picked) if endpoint == some(4)[3]]
    assert {after - before for before, after in itertools.pairwise(turns)} == {13}


@given(st.integers(1, 12), seeds, st.floats(0.0, 120.0))
def test_when_all_are_new_all_are_equal(count: int, seed: int, now: float) -> None:
    under_test = Balancer(random.Random(seed))
    under_test.set_warm_up(100.0)
    under_test.set_endpoints([Endpoint("10.0.0.9", 1)], 0.0)
    under_test.set_endpoints(some(count), 0.0)
    picked = Counter(under_test.pick("c", now) for _ in range(5 * count))
    assert picked == dict.fromkeys(some(count), 5)


def test_a_warm_one_that_fails_leaves_the_work_to_those_that_warm_up() -> None:
    under_test = warming(1, 2)
    under_test.failed(some(1)[0], 1.0)
    assert Counter(under_test.pick("c", 1.5) for _ in range(10)) == dict.fromkeys(some(3)[1:], 5)


# -- endpoints of this node ------------------------------------------------------------------------


def divided(local: list[Endpoint], *, inside: bool, outside: bool) -> Balancer:
    under_test = Balancer(random.Random(1), inside=lambda client: client.startswith("172.16."))
    under_test.set_local(inside=inside, outside=outside)
    under_test.set_endpoints(some(4), 0.0, local)
    return under_test


POD, OUTSIDE = "172.16.1.9", "8.8.8.8"


@pytest.mark.parametrize(
    ("inside", "outside", "pod", "stranger"),
    [(False, False, 4, 4), (False, True, 4, 2), (True, False, 2, 4), (True, True, 2, 2)],
)
def test_who_is_kept_to_this_node_is_served_here(
    inside: bool, outside: bool, pod: int, stranger: int
) -> None:
    under_test = divided(some(2), inside=inside, outside=outside)
    for client, count in ((POD, pod), (OUTSIDE, stranger)):
        picked = Counter(under_test.pick(client, 0.0) for _ in range(count))
        assert picked == dict.fromkeys(some(count), 1)
    assert under_test.endpoints == set(some(max(pod, stranger)))


def test_without_an_endpoint_here_who_is_kept_here_gets_none() -> None:
    under_test = divided([], inside=False, outside=True)
    assert under_test.pick(OUTSIDE, 0.0) is None
    assert under_test.pick(POD, 0.0) is not None
    assert len(divided([], inside=True, outside=True)) == 0


def test_what_one_client_met_holds_for_inside_and_outside() -> None:
    under_test = divided(some(2), inside=False, outside=True)
    bad = some(1)[0]
    under_test.failed(bad, 0.0)
    assert bad not in [under_test.pick(client, 0.5) for client in (POD, OUTSIDE) * 8]


def test_a_flow_may_stay_where_its_client_could_be_brought() -> None:
    under_test = divided(some(2), inside=False, outside=True)
    here, elsewhere = some(4)[0], some(4)[3]
    assert under_test.serves(POD, elsewhere)
    assert under_test.serves(OUTSIDE, here)
    assert not under_test.serves(OUTSIDE, elsewhere)


def test_a_policy_that_is_taken_back_holds_no_longer() -> None:
    under_test = divided(some(1), inside=True, outside=True)
    under_test.set_local(inside=False, outside=False)
    under_test.set_endpoints(some(4), 0.0)
    assert Counter(under_test.pick(OUTSIDE, 0.0) for _ in range(4)) == dict.fromkeys(some(4), 1)


# -- the promise -----------------------------------------------------------------------------------

NUMBERS = st.sets(st.integers(1, 12), max_size=12)


@given(
    stay=st.sets(st.integers(100, 107), min_size=1),
    seed=seeds,
    story=st.lists(
        st.one_of(
            st.tuples(st.just("set"), NUMBERS),
            st.tuples(st.just("draw"), st.integers(1, 8)),
            st.tuples(st.just("fail"), st.integers(1, 12)),
            st.tuples(st.just("wait"), st.integers(1, 20)),
        ),
        max_size=40,
    ),
)
def test_those_that_stay_take_turns_in_one_order_whatever_comes_goes_fails_or_warms_up(
    stay: set[int], seed: int, story: list[tuple[str, Any]]
) -> None:
    """See ``decide.rounds``: this is the promise of exact fairness."""
    staying = some(200)[99:107]
    staying = [endpoint for endpoint in staying if endpoint.port in stay]
    under_test = Balancer(random.Random(seed))
    under_test.set_warm_up(10.0)
    under_test.set_endpoints(staying, 0.0)
    now, drawn = 0.0, []
    for what, value in [*story, ("draw", 30)]:
        if what == "set":
            others = [Endpoint("10.0.0.1", number) for number in value]
            under_test.set_endpoints([*others, *staying], now)
        elif what == "fail":
            under_test.failed(Endpoint("10.0.0.1", value), now)
        elif what == "wait":
            now += value
        else:
            drawn += [under_test.pick("c", now) for _ in range(value)]
    turns = [endpoint for endpoint in drawn if endpoint in set(staying)]
    order = turns[: len(staying)]
    assert sorted(order) == staying
    assert turns == [order[place % len(order)] for place in range(len(turns))]
