"""What every store promises about transactions, reads and leases."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from k8slite.store.base import (
    Check,
    Create,
    Delete,
    KeyExists,
    KeyValue,
    LeaseGone,
    Mismatch,
    Op,
    Put,
    Snapshot,
    Store,
    StoreEvent,
    StoreUnavailable,
    Update,
)


async def state(store: Store) -> dict[str, bytes]:
    return {item.key: item.value for item in (await store.scan("")).items}


# -- transactions -------------------------------------------------------------------------------


async def test_the_first_write_makes_revision_two_or_later_and_revisions_grow(
    store: Store,
) -> None:
    first = await store.commit([Create("/a", b"1")])
    second = await store.commit([Create("/b", b"2")])
    assert first >= 2
    assert second > first
    assert await store.revision() == second


async def test_what_was_written_can_be_read(store: Store) -> None:
    created = await store.commit([Create("/a", b"1")])
    assert await store.get("/a") == KeyValue("/a", b"1", created, created)
    updated = await store.commit([Update("/a", b"2", created)])
    assert await store.get("/a") == KeyValue("/a", b"2", created, updated)
    await store.commit([Delete("/a", updated)])
    assert await store.get("/a") is None


@pytest.mark.parametrize("value", [b"", b"\x00\xff\x00", b"x" * 1_500_000], ids=len)
async def test_values_are_bytes_of_any_kind(store: Store, value: bytes) -> None:
    await store.commit([Put("/a", value)])
    found = await store.get("/a")
    assert found is not None
    assert found.value == value


async def test_a_key_made_again_is_a_new_key(store: Store) -> None:
    await store.commit([Create("/a", b"1")])
    await store.commit([Delete("/a")])
    again = await store.commit([Create("/a", b"2")])
    assert await store.get("/a") == KeyValue("/a", b"2", again, again)


async def test_put_creates_or_replaces(store: Store) -> None:
    created = await store.commit([Put("/a", b"1")])
    replaced = await store.commit([Put("/a", b"2")])
    assert await store.get("/a") == KeyValue("/a", b"2", created, replaced)


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (Create("/there", b"x"), KeyExists("/there")),
        (Update("/there", b"x", 1), Mismatch("/there", 2)),
        (Update("/gone", b"x", 2), Mismatch("/gone", 0)),
        (Update("/gone", b"x", 0), Mismatch("/gone", 0)),
        (Delete("/there", 1), Mismatch("/there", 2)),
        (Delete("/gone"), Mismatch("/gone", 0)),
        (Delete("/gone", 2), Mismatch("/gone", 0)),
        (Check("/there", 0), Mismatch("/there", 2)),
        (Check("/gone", 2), Mismatch("/gone", 0)),
        (Put("/there", b"x", lease=77), LeaseGone("lease 77 ended or never was")),
    ],
    ids=str,
)
async def test_a_refused_operation_is_certain_and_writes_nothing(
    store: Store, op: Op, error: Exception
) -> None:
    there = await store.commit([Create("/there", b"1")])
    with pytest.raises(type(error)) as caught:
        await store.commit([Put("/other", b"2"), op])
    if isinstance(error, Mismatch) and error.actual:
        error.actual = there
    assert vars(caught.value) == vars(error)
    assert await state(store) == {"/there": b"1"}
    assert await store.revision() == there


async def test_a_transaction_is_one_revision(store: Store) -> None:
    old = await store.commit([Create("/old", b"1")])
    revision = await store.commit(
        [Create("/a", b"1"), Put("/b", b"2"), Delete("/old", old), Check("/none", 0)]
    )
    snapshot = await store.scan("/")
    assert snapshot == Snapshot(
        revision,
        [KeyValue("/a", b"1", revision, revision), KeyValue("/b", b"2", revision, revision)],
    )


async def test_nothing_to_write_makes_no_revision(store: Store) -> None:
    revision = await store.commit([Create("/a", b"1")])
    assert await store.commit([Check("/a", revision)]) == revision
    assert await store.commit([]) == revision
    assert await store.revision() == revision


async def test_a_key_is_written_once_in_a_transaction(store: Store) -> None:
    with pytest.raises(ValueError, match="writes a key twice"):
        await store.commit([Put("/a", b"1"), Put("/a", b"2")])
    revision = await store.commit([Check("/a", 0), Put("/a", b"1")])
    assert revision == await store.revision()


async def test_of_many_that_compare_and_set_at_once_one_wins(store: Store) -> None:
    created = await store.commit([Create("/a", b"")])
    outcomes = await asyncio.gather(
        *(store.commit([Update("/a", b"%d" % number, created)]) for number in range(20)),
        return_exceptions=True,
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(won) == 1
    assert [error.actual for error in outcomes if isinstance(error, Mismatch)] == won * 19


async def test_concurrent_increments_are_never_lost(store: Store) -> None:
    await store.commit([Create("/count", b"0")])

    async def increment() -> None:
        while True:
            found = await store.get("/count")
            assert found is not None
            value = b"%d" % (int(found.value) + 1)
            try:
                await store.commit([Update("/count", value, found.mod_revision)])
                return
            except Mismatch:
                continue

    await asyncio.gather(*(increment() for _ in range(30)))
    assert await state(store) == {"/count": b"30"}


async def test_every_acknowledged_write_has_its_own_revision(store: Store) -> None:
    revisions = await asyncio.gather(
        *(store.commit([Create(f"/{number:03}", b"")]) for number in range(300))
    )
    assert sorted(set(revisions)) == sorted(revisions)
    items = (await store.scan("/")).items
    assert [item.mod_revision for item in items] == revisions


async def test_a_cancelled_commit_happens_whole_or_not_at_all(store: Store) -> None:
    commits = [
        asyncio.create_task(store.commit([Create(f"/a/{n}", b""), Create(f"/b/{n}", b"")]))
        for n in range(40)
    ]
    await asyncio.sleep(0)
    for commit in commits[::2]:
        commit.cancel()
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    after = await store.commit([Create("/last", b"")])
    keys = set(await state(store)) - {"/last"}
    assert {key[3:] for key in keys if key.startswith("/a/")} == {
        key[3:] for key in keys if key.startswith("/b/")
    }
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, int):
            assert f"/a/{number}" in keys
            assert outcome < after


# -- reads --------------------------------------------------------------------------------------


async def test_a_scan_holds_the_prefix_alone_in_key_order(store: Store) -> None:
    keys = ["/p/b", "/p/a", "/p", "/q/a", "/p/a/x", "/p/a-x", "/p/é", "/p/\U0001f600"]
    for key in keys:
        revision = await store.commit([Create(key, key.encode())])
    snapshot = await store.scan("/p/")
    assert [item.key for item in snapshot.items] == sorted(
        (key for key in keys if key.startswith("/p/")), key=str.encode
    )
    assert snapshot.revision == revision
    assert len((await store.scan("")).items) == len(keys)


async def test_a_read_sees_every_acknowledged_write(store: Store) -> None:
    async def write_and_read(number: int) -> None:
        revision = await store.commit([Create(f"/{number}", b"")])
        snapshot = await store.scan("/")
        assert snapshot.revision >= revision
        assert f"/{number}" in [item.key for item in snapshot.items]

    await asyncio.gather(*(write_and_read(number) for number in range(30)))


async def test_stats_count_keys_and_name_revisions(store: Store) -> None:
    await store.commit([Create("/a", b"1"), Create("/b", b"2")])
    revision = await store.commit([Delete("/a")])
    await store.compact(revision)
    stats = await store.stats()
    assert (stats.revision, stats.compacted, stats.keys) == (revision, revision, 1)
    assert stats.bytes > 0


async def test_a_closed_store_refuses(store: Store) -> None:
    await store.__aexit__(None, None, None)
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.commit([Put("/a", b"1")])
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.scan("/")
    with pytest.raises(StoreUnavailable, match="closed"):
        await anext(store.watch("/", 0))


# -- leases -------------------------------------------------------------------------------------


async def next_event(store: Store, after: int) -> StoreEvent:
    async with aclosing(store.watch("/", after)) as batches:
        async for events in batches:
            (event,) = events
            return event
    raise AssertionError("the watch ended")


async def test_a_lease_that_ends_deletes_its_keys_with_ordinary_events(stores) -> None:
    store = await stores.open()
    lease = await store.grant(20)
    created = await store.commit([Create("/leased", b"1", lease), Create("/kept", b"2")])
    await stores.pass_time(20)
    event = await next_event(store, created)
    assert event == StoreEvent("/leased", event.revision, None, created, b"1")
    assert event.revision > created
    assert await state(store) == {"/kept": b"2"}
    with pytest.raises(LeaseGone):
        await store.keep_alive(lease)
    with pytest.raises(LeaseGone):
        await store.commit([Put("/late", b"3", lease)])


async def test_a_lease_that_is_kept_alive_goes_on(stores) -> None:
    store = await stores.open()
    lease = await store.grant(30)
    revision = await store.commit([Create("/leased", b"1", lease)])
    for _ in range(4):
        await stores.pass_time(9)
        await store.keep_alive(lease)
    assert await state(store) == {"/leased": b"1"}
    assert await store.revision() == revision


async def test_a_sooner_lease_ends_sooner(stores) -> None:
    store = await stores.open()
    late, soon = await store.grant(100), await store.grant(20)
    created = await store.commit([Create("/late", b"", late), Create("/soon", b"", soon)])
    await stores.pass_time(20)
    assert (await next_event(store, created)).key == "/soon"
    assert await state(store) == {"/late": b""}


async def test_revoke_ends_a_lease_at_once_and_forgives(store: Store) -> None:
    lease = await store.grant(100)
    await store.commit([Create("/a", b"", lease), Create("/b", b"", lease)])
    await store.revoke(lease)
    await store.revoke(lease)
    assert await state(store) == {}
    with pytest.raises(LeaseGone):
        await store.keep_alive(lease)


async def test_a_key_put_again_belongs_to_its_last_lease_alone(store: Store) -> None:
    first, second = await store.grant(100), await store.grant(100)
    await store.commit([Create("/moved", b"", first), Create("/freed", b"", first)])
    await store.commit([Put("/moved", b"", second), Put("/freed", b"")])
    await store.revoke(first)
    assert set(await state(store)) == {"/moved", "/freed"}
    await store.revoke(second)
    assert set(await state(store)) == {"/freed"}


async def test_a_lease_and_its_end_need_no_turn_between(store: Store) -> None:
    lease = await store.grant(100)
    outcomes = await asyncio.gather(
        store.commit([Create("/a", b"", lease)]),
        store.revoke(lease),
        store.commit([Create("/b", b"", lease)]),
        return_exceptions=True,
    )
    assert isinstance(outcomes[2], LeaseGone)
    assert await state(store) == {}
