"""Balancing: fair to the connection, faithful to the client, patient with no broken endpoint."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from k8slite.decide import balancing
from k8slite.decide.balancing import AFFINITY_SECONDS, Balancer, Endpoint

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
    bad = some(2)[0]
    for _ in range(3):
        under_test.failed(bad, 0.0)
    assert bad not in [under_test.pick("c", 3.9) for _ in range(4)]
    under_test.served(bad)
    assert bad in [under_test.pick("c", 3.9) for _ in range(2)]


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
