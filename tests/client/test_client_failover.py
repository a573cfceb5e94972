"""A client of several masters: one of them dies, freezes or loses its store, and nothing is
written twice, nothing read is lost, nobody waits long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from masters import LOOPBACK, Master, masters

from k8slite.api.errors import BadRequest, NotFound, Unavailable, UnknownOutcome
from k8slite.api.kinds import CONFIG_MAP
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.meta import ObjectMeta
from k8slite.client import http, wire
from k8slite.client.access import Access
from k8slite.client.http import HttpClient
from k8slite.client.reflector import RemoteInformers
from k8slite.client.servers import Servers
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """But long enough for a healthy master, which shares this loop, on a busy machine."""
    monkeypatch.setattr(wire, "READ_HURRIED", 2.0)
    monkeypatch.setattr(wire, "WRITE_HURRIED", 2.0)
    monkeypatch.setattr(wire, "BEGIN_HURRIED", 2.0)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[list[Master]]:
    async with masters(tmp_path) as found:
        yield found


@pytest.fixture
async def client(three: list[Master]) -> AsyncIterator[HttpClient]:
    async with HttpClient(",".join(master.wire.url for master in three)) as found:
        yield found


def config(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await Clock().sleep(0.005)


async def test_the_one_that_works_is_kept(client: HttpClient, three: list[Master]) -> None:
    await client.create(config("a"))
    three[0].wire.die()
    assert (await client.get(CONFIG_MAP, "a", "default")).metadata.name == "a"
    await client.create(config("b"))
    assert client.server == three[1].wire.url
    before = three[2].wire.connections
    assert len((await client.list(CONFIG_MAP, "default")).items) == 2
    assert client.server == three[1].wire.url
    assert three[2].wire.connections == before


async def test_a_master_that_is_gone_costs_neither_read_nor_write(
    client: HttpClient, three: list[Master]
) -> None:
    three[0].wire.die()
    three[1].wire.die()
    made = await client.create(config("a"))
    assert await client.get(CONFIG_MAP, "a", "default") == made


async def test_a_read_is_asked_of_another_when_a_master_freezes(
    client: HttpClient, three: list[Master]
) -> None:
    made = await client.create(config("a"))
    three[0].wire.freeze()
    async with asyncio.timeout(20):
        assert await client.get(CONFIG_MAP, "a", "default") == made


async def test_a_write_that_a_frozen_master_has_seen_is_not_sent_again(
    client: HttpClient, three: list[Master]
) -> None:
    await client.create(config("a"))
    three[0].wire.freeze()
    with pytest.raises(UnknownOutcome, match="may or may not have happened"):
        await client.create(config("b"))
    assert not three[1].wire.received
    assert not three[2].wire.received
    # The next one goes to a master that answers: the caller can look.
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAP, "b", "default")
    three[0].wire.thaw()
    await until(lambda: any(e.object.metadata.name == "b" for e in stored(three[1])))


def stored(master: Master) -> list[object]:
    return list(master.registry.cache.table(CONFIG_MAP).entries("default"))


async def test_a_write_whose_connection_is_cut_is_not_sent_again(
    client: HttpClient, three: list[Master]
) -> None:
    await client.create(config("a"))
    three[0].wire.freeze()
    writing = asyncio.create_task(client.create(config("b")))
    seen = len(three[0].wire.received)
    await until(lambda: len(three[0].wire.received) > seen)
    three[0].wire.die()
    with pytest.raises(UnknownOutcome):
        await writing
    assert not three[1].wire.received


async def test_nobody_there_is_said_with_all_their_names() -> None:
    async with HttpClient(f"{LOOPBACK}:9,{LOOPBACK}:10") as client:
        for call in (client.get(CONFIG_MAP, "a", "d"), client.create(config("a"))):
            with pytest.raises(Unavailable, match=r"none of 127\.0\.0\.1:9, 127\.0\.0\.1:10: "):
                await call


async def answering(status: bytes) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, LOOPBACK, 0)


async def test_a_master_without_its_store_is_passed_over_by_reads_alone(
    three: list[Master],
) -> None:
    server = await answering(b"503 Service Unavailable")
    ill = f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    well = three[0].wire.url
    async with server:
        async with HttpClient(f"{ill},{well}") as client:
            assert (await client.list(CONFIG_MAP, "default")).items == ()
            assert client.server == well
        async with HttpClient(f"{ill},{well}") as client:
            with pytest.raises(Unavailable):
                await client.create(config("a"))
            await client.create(config("a"))  # the caller's own second try


async def test_a_watch_goes_on_at_another_master_from_where_it_was(
    client: HttpClient, three: list[Master]
) -> None:
    informers = RemoteInformers(client, Clock())
    running = asyncio.create_task(informers.run())
    try:
        informer = informers.of(CONFIG_MAP)
        await informer.wait_synced()
        told: list[str] = []
        informer.subscribe(lambda old, new: told.append(new.metadata.name if new else "-"))
        async with HttpClient(three[2].wire.url) as other:
            await other.create(config("a"))
            await until(lambda: told == ["a"])
            three[0].wire.die()
            for name in "bcd":
                await other.create(config(name))
            await until(lambda: len(told) >= 4)
            assert told == ["a", "b", "c", "d"]
    finally:
        await stop(running)


async def test_a_watch_of_a_master_that_froze_is_noticed(
    client: HttpClient, three: list[Master], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SILENCE", 0.5)
    informers = RemoteInformers(client, Clock())
    running = asyncio.create_task(informers.run())
    try:
        informer = informers.of(CONFIG_MAP)
        await informer.wait_synced()
        await until(lambda: three[0].server.dispatcher.watches.fanout.counts()["configmaps"] == 1)
        three[0].wire.freeze()
        async with HttpClient(three[2].wire.url) as other:
            await other.create(config("a"))
        await until(lambda: informer.get("default/a") is not None)
    finally:
        await stop(running)


# --- whom to ask ---------------------------------------------------------------------------------


def test_servers_are_asked_in_turn_from_the_one_that_worked() -> None:
    servers = Servers(("a", "b", "c"))
    assert servers.order() == ("a", "b", "c")
    servers.failed("a")
    servers.failed("a")  # a second request that was under way changes nothing
    assert servers.order() == ("b", "c", "a")
    servers.worked("c")
    servers.failed("c")
    assert servers.current == "a"


def test_several_servers_are_told_by_commas() -> None:
    access = Access("one:8080, https://two/,one:8080")
    assert access.urls == ("http://one:8080", "https://two")
    assert (access.url, access.host) == ("http://one:8080", "one:8080")
    assert access.tls() is not None
    for wrong in ("", ",", "a,ftp://b", "a,:0"):
        with pytest.raises(BadRequest, match="is no server"):
            Access(wrong)
