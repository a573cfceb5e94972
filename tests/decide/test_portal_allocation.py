"""Allocation: what is drawn is free, in range, and found as long as there is any."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.errors import FieldError
from k8slite.decide import allocation

NET = IPv4Network("10.0.0.0/27")


def nobody(what: object) -> bool:
    return False


FREE = [str(NET.network_address + offset) for offset in range(3, 31)]


@given(st.sets(st.sampled_from(FREE)), st.integers())
def test_a_drawn_address_is_free_and_may_be_had(taken: set[str], seed: int) -> None:
    drawn = allocation.draw_address(NET, taken.__contains__, Random(seed))
    if len(taken) == len(FREE):
        assert isinstance(drawn, FieldError)
        assert str(NET) in drawn.message
        return
    assert isinstance(drawn, str)
    assert drawn in set(FREE) - taken
    assert allocation.refuse_address(NET, drawn, "a/b", taken.__contains__) is None


@given(st.integers(min_value=0, max_value=40), st.sampled_from(["a/b", "default/kubernetes"]))
def test_only_hosts_of_the_net_may_be_asked_for(offset: int, service: str) -> None:
    address = str(IPv4Address(int(NET.network_address) + offset))
    error = allocation.refuse_address(NET, address, service, nobody)
    kept_for = {1: "default/kubernetes-ro", 2: "default/kubernetes"}.get(offset, service)
    assert (error is None) is (0 < offset < 31 and kept_for == service)


@pytest.mark.parametrize("net", ["10.0.0.0/31", "10.0.0.0/32", "10.0.0.0/30"])
def test_a_net_without_room_is_exhausted_from_the_start(net: str) -> None:
    assert isinstance(allocation.draw_address(IPv4Network(net), nobody, Random(1)), FieldError)


def test_draws_are_spread() -> None:
    rng = Random(7)
    drawn = {allocation.draw_address(NET, nobody, rng) for _ in range(400)}
    assert drawn == set(FREE)


@given(st.integers())
def test_the_last_node_port_is_found(seed: int) -> None:
    taken = set(allocation.NODE_PORTS) - {31337}
    assert allocation.draw_port(taken.__contains__, (), "p", Random(seed)) == 31337
    none_left = allocation.draw_port(taken.__contains__, {31337}, "p", Random(seed))
    assert isinstance(none_left, FieldError)
