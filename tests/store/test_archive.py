"""One-file backups: whole, private, of one revision; damage is found and named."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from tests.store.conftest import shelf_of_stores

from k8slite.kit.clock import Clock
from k8slite.store import archive, moving
from k8slite.store.archive import BadArchive
from k8slite.store.base import Compacted, Create, Delete, KeyValue, Put, Store, StoreUnavailable
from k8slite.store.contents import Contents
from k8slite.store.moving import FileShelf
from k8slite.store.sqlite import SqliteStore

MADE = "2026-01-02T03:04:05Z"
CONTENTS = Contents(
    9,
    [KeyValue("", b"", 2, 2), KeyValue("/a", b"\x00\xff", 3, 4), KeyValue("/é", b"x", 5, 9, 7)],
    {7: 60.0},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    header = archive.write(path, CONTENTS, MADE)
    assert archive.read(path) == (header, CONTENTS)
    assert (header.revision, header.count, header.made) == (9, 3, MADE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["backup"]


def test_a_backup_never_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_text("precious")
    with pytest.raises(BadArchive, match="is there already"):
        archive.write(path, CONTENTS, MADE)
    assert path.read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == ["backup"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:-1], "is cut short"),
        (lambda data: data[: data.index(b"\n") + 1], "is cut short: 0 bytes"),
        (lambda data: data + b"x", "is too long"),
        (lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], "its sha256 is not"),
        (lambda data: b"", "is no backup of k8slite"),
        (lambda data: b"SQLite format 3\0" + data, "is no backup of k8slite"),
        (lambda data: data.replace(b'"version":1', b'"version":2'), "of version 2"),
        (lambda data: data.replace(b"k8slite-backup", b"k8slite-recipe"), "its format is"),
        (lambda data: data.replace(b'"count":3', b'"count":4'), "3 keys, its header says 4"),
    ],
)
def test_a_damaged_backup_is_refused_by_what_is_wrong(tmp_path: Path, damage, told: str) -> None:
    path = tmp_path / "backup"
    archive.write(path, CONTENTS, MADE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadArchive, match=told) as caught:
        archive.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_store_comes_back_from_its_backup(stores, tmp_path: Path) -> None:
    """The same keys and values, at revisions that only grow; nobody resumes across it unaware."""
    store = await stores.open()
    for number in range(250):
        await store.commit([Put(f"/registry/pods/n/{number % 100}", b"%d" % number)])
    lease = await store.grant(3000)
    await store.commit([Put("/registry/events/n/e", b"event", lease)])
    sign = await store.grant(3000)
    await store.commit([Put("/registry/leases/nodes/n1", b"alive", sign)])
    last = await store.commit([Put("/authority", b"keys"), Delete("/registry/pods/n/0")])
    before = {item.key: item.value for item in (await store.scan("")).items}

    if (shelf := shelf_of_stores(stores)) is None:
        return  # nothing of a store in memory outlives its process
    contents = await shelf.contents()  # while it runs
    assert contents.revision == last
    await store.commit([Put("/later", b"")])
    archive.write(tmp_path / "backup", contents, MADE)
    _, read = archive.read(tmp_path / "backup")
    target = FileShelf(tmp_path / "new" / "store.db", Clock())
    moved = await moving.restore(read, target)
    assert (moved.keys, moved.left_out) == (len(before) - 1, 1)
    async with SqliteStore(target.path, Clock()) as restored:
        await _is(restored, before, last)


async def _is(restored: Store, before: dict[str, bytes], last: int) -> None:
    snapshot = await restored.scan("")
    del before["/registry/leases/nodes/n1"]
    assert {item.key: item.value for item in snapshot.items} == before
    assert all(item.create_revision > last for item in snapshot.items)
    with pytest.raises(Compacted):
        await anext(restored.watch("", last - 1))
    event = await restored.get("/registry/events/n/e")
    assert event is not None
    await restored.revoke(event.lease)
    assert await restored.get("/registry/events/n/e") is None


async def test_a_restore_into_what_is_not_empty_names_what_is_there(tmp_path: Path) -> None:
    target = FileShelf(tmp_path / "store.db", Clock())
    async with SqliteStore(target.path, Clock()) as store:
        await store.commit([Create("/registry/pods/n/a", b""), Create("/authority", b"")])
    with pytest.raises(StoreUnavailable, match=r"holds 2 keys.*1 /authority, 1 pods"):
        await moving.restore(CONTENTS, target)
    async with SqliteStore(target.path, Clock()) as store:
        assert (await store.stats()).keys == 2


async def test_a_store_that_is_open_is_not_filled(tmp_path: Path) -> None:
    target = FileShelf(tmp_path / "store.db", Clock())
    async with SqliteStore(target.path, Clock()):
        with pytest.raises(StoreUnavailable, match="in use by process"):
            await moving.restore(CONTENTS, target)


async def test_a_backup_while_everybody_writes_is_of_one_revision(stores) -> None:
    store = await stores.open()
    if (shelf := shelf_of_stores(stores)) is None:
        return
    stopping = False

    async def write(number: int) -> None:
        turn = 0
        while not stopping:
            turn += 1
            value = b"%d" % turn
            await store.commit([Put(f"/a/{number}", value), Put(f"/b/{number}", value)])

    writers = [asyncio.create_task(write(number)) for number in range(8)]
    for _ in range(10):
        contents = await shelf.contents()
        values = {item.key: item.value for item in contents.items}
        assert {k[3:]: v for k, v in values.items() if k.startswith("/a/")} == {
            k[3:]: v for k, v in values.items() if k.startswith("/b/")
        }
        assert all(item.mod_revision <= contents.revision for item in contents.items)
        await asyncio.sleep(0.02)
    stopping = True
    await asyncio.gather(*writers)
