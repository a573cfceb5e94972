"""Who keeps a place in a full table of UDP sessions, and who is silent for too long."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from k8slite.roles.proxy.udp.sessions import ANSWERED, LIVE, NEW, SessionTable


@dataclass(eq=False)
class One:
    caller: int
    rank: int = NEW
    used: bool = False
    seen: float = 0.0


def come(table: SessionTable[One], caller: int, rank: int = NEW) -> One | None:
    """A session of so high a rank begins. Returns who had to go for it."""
    surplus = table.surplus()
    if surplus is not None:
        table.remove(surplus)
    one = One(caller)
    table.add(one, 0.0)
    for higher in range(ANSWERED, rank + 1):
        table.promote(one, higher)
    return surplus


def test_invented_senders_push_out_each_other_and_nobody_else() -> None:
    table: SessionTable[One] = SessionTable(64)
    for caller in range(30):
        come(table, caller, LIVE)
    for caller in range(1_000, 11_000):
        come(table, caller)
    assert len(table) == 64
    assert all(table.of(caller) for caller in range(30))


def test_invented_senders_that_are_answered_push_out_nobody_who_came_back() -> None:
    table: SessionTable[One] = SessionTable(64)
    for caller in range(30):
        come(table, caller, LIVE)
    for caller in range(1_000, 11_000):
        come(table, caller, ANSWERED)
    assert all(table.of(caller) for caller in range(30))


def test_a_new_client_has_time_to_be_answered_in_a_full_table() -> None:
    table: SessionTable[One] = SessionTable(64)
    for caller in range(200):
        come(table, caller, LIVE)
    come(table, 1_000)
    for caller in range(2_000, 2_007):
        come(table, caller)
    assert table.of(1_000)


def test_the_silent_give_way_before_those_that_speak() -> None:
    table: SessionTable[One] = SessionTable(8)
    for caller in range(8):
        come(table, caller, LIVE)
    for one in table:
        one.used = one.caller != 5
    assert (gone := come(table, 8)) is not None
    assert gone.caller == 5


def test_silence_is_what_ends_a_session() -> None:
    table: SessionTable[One] = SessionTable(8)
    come(table, 1)
    come(table, 2)
    for now in range(1, 10):
        one = table.of(1)
        assert one is not None
        one.used = True
        assert table.silent(float(now), 10.0) == []
    assert [one.caller for one in table.silent(10.0, 10.0)] == [2]
    assert [one.caller for one in table.silent(19.0, 10.0)] == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([NEW, ANSWERED, LIVE]))))
def test_there_are_never_more_than_the_most(arrivals: list[tuple[int, int]]) -> None:
    table: SessionTable[One] = SessionTable(8)
    for number, (caller, rank) in enumerate(arrivals):
        one = table.of(caller)
        if one is None:
            come(table, caller, rank)
        elif number % 3:
            one.used = True
        else:
            assert table.remove(one)
            assert not table.remove(one)
        assert len(table) == len(list(table)) <= 8
        assert {one.caller for one in table} == {c for c in range(31) if table.of(c)}


def test_one_that_left_says_nothing_about_the_next_of_its_caller() -> None:
    table: SessionTable[One] = SessionTable(8)
    come(table, 1)
    first = table.of(1)
    assert first is not None
    assert table.remove(first)
    come(table, 1)
    table.promote(first, ANSWERED)
    assert not table.remove(first)
    second = table.of(1)
    assert second is not None
    assert second.rank == NEW
