"""The HTTP client: what it reads and writes, and what it says when nobody knows what happened."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from k8slite.api.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Expired,
    Forbidden,
    NotFound,
    Unavailable,
    UnknownOutcome,
)
from k8slite.api.kinds import CONFIG_MAP, NAMESPACE, NODE, POD, SCHEME
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec
from k8slite.api.meta import ObjectMeta
from k8slite.client.access import Access
from k8slite.client.http import HttpClient, path_of, said_by_server
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.server import ApiServer
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore

LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def serving(data_dir: Path) -> AsyncIterator[str]:
    """A real API server on the memory store; its URL."""
    settings = Settings(
        node_name=LOOPBACK, node_ip=LOOPBACK, data_dir=data_dir,
        port=0, secure_port=0, read_only_port=0,
    )  # fmt: skip
    clock = Clock()
    async with MemoryStore(clock) as store:
        cache = WatchCache(store, SCHEME, clock)
        following = asyncio.create_task(cache.run(), name="cache")
        await cache.wait_ready()
        chain = admission.chain(("NamespaceAutoProvision",), cache)
        registry = Registry(store, cache, SCHEME, clock, settings, chain)
        server = ApiServer(settings, registry, cache, clock)
        running = asyncio.create_task(server.run(), name="server")
        try:
            await asyncio.wait_for(server.started.wait(), 20)
            yield f"http://{LOOPBACK}:{server.ports['insecure']}"
        finally:
            await stop(running)
            await stop(following)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[HttpClient]:
    async with serving(tmp_path) as url, HttpClient(url) as found:
        yield found


def config(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data)


async def test_every_verb(client: HttpClient) -> None:
    made = await client.create(config("a", x="1"))
    assert made.metadata.uid
    assert await client.get(CONFIG_MAP, "a", "default") == made
    changed = await client.update(ConfigMap(metadata=made.metadata, data={"x": "2"}))
    assert changed.metadata.resource_version != made.metadata.resource_version
    patched = await client.patch(CONFIG_MAP, "a", "default", {"data": {"y": "3"}})
    assert patched.data == {"x": "2", "y": "3"}
    listing = await client.list(CONFIG_MAP, "default", fields="metadata.name=a")
    assert listing.items == (patched,)
    assert (await client.list(CONFIG_MAP, labels="absent")).items == ()
    await client.delete(CONFIG_MAP, "a", "default", uid=made.metadata.uid)
    with pytest.raises(NotFound, match='configmaps "a" not found'):
        await client.get(CONFIG_MAP, "a", "default")


async def test_errors_are_those_of_the_api_and_say_who_said_them(client: HttpClient) -> None:
    made = await client.create(config("a", x="1"))
    with pytest.raises(AlreadyExists) as caught:
        await client.create(config("a"))
    assert said_by_server(caught.value)
    await client.update(ConfigMap(metadata=made.metadata, data={"x": "2"}))
    with pytest.raises(Conflict):
        await client.update(ConfigMap(metadata=made.metadata, data={"x": "3"}))
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAP, "a", "default", uid="another")


async def test_binding_and_finalizing(client: HttpClient) -> None:
    spec = PodSpec(containers=(Container(name="c", image="i"),))
    await client.create(Pod(metadata=ObjectMeta(name="p", namespace="default"), spec=spec))
    await client.bind("default", "p", "node-1")
    assert (await client.get(POD, "p", "default")).spec.node_name == "node-1"
    with pytest.raises(Conflict):
        await client.bind("default", "p", "node-2")
    namespace = await client.get(NAMESPACE, "default")
    assert (await client.finalize(namespace)).metadata.name == "default"


async def test_a_watch_begins_with_what_is_there_and_goes_on(client: HttpClient) -> None:
    await client.create(config("a"))
    seen = []
    async with asyncio.timeout(20):
        async for event in client.watch(CONFIG_MAP, "default"):
            seen.append((event.type, event.object.metadata.name))
            if len(seen) == 1:
                await client.create(config("b"))
            elif len(seen) == 2:
                await client.delete(CONFIG_MAP, "a", "default")
            else:
                break
    assert seen == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]


async def test_a_watch_resumes_where_it_is_told_to(client: HttpClient) -> None:
    await client.create(config("a"))
    version = (await client.list(CONFIG_MAP)).resource_version
    await client.create(config("b"))
    async with asyncio.timeout(20):
        async for event in client.watch(CONFIG_MAP, resource_version=version):
            assert event.object.metadata.name == "b"
            break


# --- servers that misbehave ---------------------------------------------------------------

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def strange(answer: bytes) -> AsyncIterator[HttpClient]:
    """A server that reads a request, says ``answer`` and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    async with server, HttpClient(f"{LOOPBACK}:{port}") as client:
        yield client


async def test_a_write_without_an_answer_has_an_unknown_outcome() -> None:
    async with strange(b"") as client:
        with pytest.raises(UnknownOutcome, match="may or may not have happened"):
            await client.create(config("a"))
        for write in (client.delete(NODE, "n"), client.update(config("a"))):
            with pytest.raises(UnknownOutcome):
                await write


async def test_half_an_answer_to_a_write_is_none() -> None:
    async with strange(b"HTTP/1.1 201 Created\r\nContent-Length: 999\r\n\r\n{") as client:
        with pytest.raises(UnknownOutcome):
            await client.create(config("a"))


async def test_a_read_without_an_answer_may_be_tried_again() -> None:
    async with strange(b"") as client:
        with pytest.raises(Unavailable):
            await client.get(NODE, "n")


async def test_a_server_that_is_not_there() -> None:
    async with HttpClient(f"http://{LOOPBACK}:9") as client:
        for call in (client.get(NODE, "n"), client.create(config("a"))):
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.message == (
                "The connection to the server 127.0.0.1:9 was refused - did you specify the "
                "right host or port?"
            )
            assert not said_by_server(caught.value)


async def test_the_error_of_a_proxy_is_told_in_its_own_words() -> None:
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n"
    async with strange(head + b"<p>not\n for you</p>") as client:
        with pytest.raises(Forbidden, match="<p>not for you</p>"):
            await client.get(NODE, "n")


async def test_an_expired_watch_says_so() -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    line = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
    async with strange(b"HTTP/1.1 200 OK\r\n\r\n" + line) as client:
        with pytest.raises(Expired, match="too old"):
            await anext(aiter(client.watch(NODE, resource_version="1")))


async def test_objects_of_other_servers_may_be_full_of_nulls() -> None:
    body = (
        b'{"kind":"PodList","metadata":{},"items":[{"metadata":{"name":"a","labels":null},'
        b'"spec":{"containers":[{"name":"c","ports":null,"command":null}],"volumes":null},'
        b'"status":{"conditions":null,"further":[1]}}]}'
    )
    async with strange(b"HTTP/1.1 200 OK\r\n\r\n" + body) as client:
        [pod] = (await client.list(POD)).items
        assert pod.spec.containers[0].ports == ()
        assert pod.kind == "Pod"


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", b"[]", b"\xff", b'{"items":3,"metadata":7,"seconds":"x"}']
)
async def test_a_success_that_is_no_word_of_the_api_is_an_error_of_the_api(body: bytes) -> None:
    said = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    async with strange(said) as client:
        for read in (client.get(NODE, "n"), client.list(NODE), client.heartbeat("n")):
            with pytest.raises(ApiError):
                await read
        with pytest.raises(UnknownOutcome, match="the write may have happened"):
            await client.update(config("a"))


async def test_an_error_that_needs_more_than_a_status_comes_as_its_kind() -> None:
    import k8slite.roles.apiserver.reading  # noqa: F401 - it knows an Expired with a token

    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    said = b"HTTP/1.1 410 Gone\r\n\r\n" + json.dumps(status).encode()
    async with strange(said) as client:
        with pytest.raises(Expired) as caught:
            await client.get(NODE, "n")
        assert caught.value.status().message == "too old"


async def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8slite.client.http.MAX_LINE", 1000)
    async with strange(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000) as client:
        with pytest.raises(ApiError, match="over 1000 bytes"):
            await anext(aiter(client.watch(NODE)))


# --- addresses and credentials ------------------------------------------------------------


def test_paths() -> None:
    assert path_of(POD, "default", "a", "log") == "/api/v1/namespaces/default/pods/a/log"
    assert path_of(POD) == "/api/v1/pods"
    assert path_of(NODE, "ignored", "a b") == "/api/v1/nodes/a%20b"
    assert path_of(POD, "d", "a/../b", version="v1beta3") == (
        "/api/v1beta3/namespaces/d/pods/a%2F..%2Fb"
    )


def test_credentials() -> None:
    assert Access(token="t").authorization() == "Bearer t"
    assert Access(username="u", password="p").authorization() == "Basic dTpw"
    assert Access().authorization() == ""
    assert Access(server="host:80/").url == "http://host:80"
    assert Access(server="http://h").tls() is None
    with pytest.raises(BadRequest, match="cannot be used"):
        Access(server="https://h", authority=b"nonsense").tls()
    with pytest.raises(BadRequest, match="cannot be used"):
        Access(server="https://h", certificate=b"nonsense").tls()
