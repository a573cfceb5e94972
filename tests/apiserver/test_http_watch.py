"""What a watch promises."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from http_serving import Served, eventually, pod, serving

from k8slite.api.kinds import POD

PODS = "/api/v1/namespaces/default/pods"


async def test_a_watch_begins_with_what_is_there_and_goes_on(api: Served) -> None:
    await api.create_pod("a")
    async with api.watching(f"{PODS}?watch=true") as watch:
        assert await watch.take(1) == [("ADDED", "a")]
        await api.create_pod("b")
        await api.ask("DELETE", f"{PODS}/a")
        assert await watch.take(2) == [("ADDED", "b"), ("DELETED", "a")]


async def test_a_watch_resumes_after_a_version(api: Served) -> None:
    first = await api.create_pod("a")
    await api.create_pod("b")
    version = first["metadata"]["resourceVersion"]
    async with api.watching(f"{PODS}?watch=1&resourceVersion={version}") as watch:
        assert await watch.take(1) == [("ADDED", "b")]


async def test_an_object_that_begins_or_ceases_to_match_comes_and_goes(api: Served) -> None:
    await api.create_pod("a", labels={"app": "web"})
    async with api.watching(f"{PODS}?watch=1&labelSelector=app%3Ddb") as watch:
        for value in ("db", "web"):
            answer = await api.ask(
                "PATCH",
                f"{PODS}/a",
                {"metadata": {"labels": {"app": value}}},
                headers={"Content-Type": "application/merge-patch+json"},
            )
            assert answer.status == 200, answer.body
        added, deleted = await watch.next(), await watch.next()
        assert (added["type"], deleted["type"]) == ("ADDED", "DELETED")
        assert deleted["object"]["metadata"]["labels"] == {"app": "db"}
        assert (
            deleted["object"]["metadata"]["resourceVersion"]
            == answer.json["metadata"]["resourceVersion"]
        )


async def test_a_version_that_is_not_kept_is_expired(api: Served) -> None:
    table = api.cache.table(POD)
    await api.create_pod("a")
    table.restart_history(api.cache.revision)  # as after trouble with the store
    async with api.watching(f"{PODS}?watch=1&resourceVersion=1") as watch:
        event = await watch.next()
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
        assert event["object"]["reason"] == "Expired"
        with pytest.raises(EOFError):
            await watch.next()


async def test_a_watch_ends_at_its_timeout_with_a_bookmark(api: Served) -> None:
    await api.create_pod("a")
    path = f"{PODS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true"
    async with api.watching(path) as watch:
        assert await watch.take(1) == [("ADDED", "a")]
        event = await watch.next()
        assert event["type"] == "BOOKMARK"
        assert event["object"]["kind"] == "Pod"
        assert int(event["object"]["metadata"]["resourceVersion"]) == api.cache.revision
        with pytest.raises(EOFError):
            await watch.next()


async def test_bookmarks_come_to_those_who_asked(api: Served) -> None:
    asked, silent = f"{PODS}?watch=1&allowWatchBookmarks=1", f"{PODS}?watch=1"
    async with api.watching(asked) as one, api.watching(silent) as other:
        await api.create_pod("a")
        assert await one.take(1) == await other.take(1) == [("ADDED", "a")]
        api.server.dispatcher.watches.fanout.bookmark()
        await api.create_pod("b")
        assert [kind for kind, _ in await one.take(2)] == ["BOOKMARK", "ADDED"]
        assert [kind for kind, _ in await other.take(1)] == ["ADDED"]


async def test_the_initial_events_may_be_asked_for_and_have_an_end(api: Served) -> None:
    await api.create_pod("a")
    path = (
        f"{PODS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        "&allowWatchBookmarks=true"
    )
    async with api.watching(path) as watch:
        assert await watch.take(1) == [("ADDED", "a")]
        mark = await watch.next()
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await api.create_pod("b")
        assert await watch.take(1) == [("ADDED", "b")]
    assert (await api.get(f"{PODS}?watch=1&sendInitialEvents=true")).status == 400
    assert (await api.get(f"{PODS}?watch=1&resourceVersionMatch=Exact")).status == 400


async def test_without_initial_events_a_watch_begins_now(api: Served) -> None:
    await api.create_pod("a")
    path = f"{PODS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"
    async with api.watching(path) as watch:
        await api.create_pod("b")
        assert await watch.take(1) == [("ADDED", "b")]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("fieldSelector=metadata.name%3Dtwo", ["ADDED", "MODIFIED"]),
        ("fieldSelector=spec.nodeName%3Dn1", ["ADDED"]),
        ("fieldSelector=spec.nodeName%3D", ["ADDED", "ADDED", "DELETED"]),
        ("labelSelector=app", ["ADDED", "ADDED", "MODIFIED"]),
    ],
)
async def test_each_watcher_sees_its_selection(
    api: Served, selector: str, expected: list[str]
) -> None:
    async with api.watching(f"{PODS}?watch=1&{selector}") as watch:
        for name in ("one", "two"):
            await api.create_pod(name, labels={"app": "x"})
        body = {"metadata": {"name": "two"}, "target": {"kind": "Node", "name": "n1"}}
        assert (await api.post(f"{PODS}/two/binding", body)).status == 201
        seen = await watch.take(len(expected))
        assert [kind for kind, _ in seen] == expected


async def test_a_watch_of_another_namespace_hears_nothing(api: Served) -> None:
    async with api.watching("/api/v1/namespaces/other/pods?watch=1") as watch:
        await api.create_pod("a")
        answer = await api.post("/api/v1/namespaces/other/pods", pod("b"))
        assert answer.status == 201
        assert await watch.take(1) == [("ADDED", "b")]


async def test_one_object_may_be_watched_by_its_path(api: Served) -> None:
    async with api.watching("/api/v1/watch/namespaces/default/pods/b") as watch:
        await api.create_pod("a")
        await api.create_pod("b")
        assert await watch.take(1) == [("ADDED", "b")]


async def test_watches_come_in_the_old_version_and_in_other_forms(api: Served) -> None:
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    partial = {"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}
    async with (
        api.watching("/api/v1beta3/namespaces/default/pods?watch=1") as old,
        api.watching(f"{PODS}?watch=1", headers=table) as rows,
        api.watching(f"{PODS}?watch=1", headers=partial) as heads,
    ):
        await api.create_pod("a")
        assert (await old.next())["object"]["apiVersion"] == "v1beta3"
        assert (await rows.next())["object"]["rows"][0]["cells"][0] == "a"
        assert set((await heads.next())["object"]) == {"kind", "apiVersion", "metadata"}


async def test_a_watch_over_a_websocket(api: Served) -> None:
    async with api.session.ws_connect(api.url(f"{PODS}?watch=1&timeoutSeconds=5")) as socket:
        await api.create_pod("a")
        event = await socket.receive_json(timeout=10)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")
        message = await socket.receive(timeout=30)
        assert message.type is aiohttp.WSMsgType.CLOSE


async def test_the_end_of_the_client_ends_the_watch(api: Served) -> None:
    watches = api.server.dispatcher.watches.fanout
    async with api.watching(f"{PODS}?watch=1"):
        assert watches.counts()["pods"] == 1
    await eventually(lambda: watches.counts()["pods"] == 0)
    socket = await api.session.ws_connect(api.url(f"{PODS}?watch=1"))
    await eventually(lambda: watches.counts()["pods"] == 1)
    await socket.close()
    await eventually(lambda: watches.counts()["pods"] == 0)


async def test_a_slow_watcher_is_dropped_and_harms_no_one(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8slite.roles.apiserver.watching.BACKLOG", 1 << 16)
    watches = api.server.dispatcher.watches
    configs = "/api/v1/namespaces/default/configmaps"
    _, writer = await asyncio.open_connection("127.0.0.1", api.server.ports["insecure"])
    writer.transport.pause_reading()
    writer.write(f"GET {configs}?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await eventually(lambda: watches.fanout.counts()["configmaps"] == 1)
    async with api.watching(f"{configs}?watch=1") as healthy:
        number = 0
        while not watches.dropped:
            body = {"metadata": {"name": f"c{number:04}"}, "data": {"text": "x" * 500_000}}
            assert (await api.post(configs, body)).status == 201
            assert (await healthy.next())["object"]["metadata"]["name"] == f"c{number:04}"
            number += 1
        assert watches.dropped == 1
    writer.transport.abort()


async def test_a_long_beginning_is_sent_at_the_pace_of_the_client(api: Served) -> None:
    configs = "/api/v1/namespaces/default/configmaps"
    for number in range(12):
        body = {"metadata": {"name": f"c{number:02}"}, "data": {"text": "x" * 500_000}}
        await api.post(configs, body)
    async with api.watching(f"{configs}?watch=1") as watch:
        await api.post(configs, {"metadata": {"name": "last"}})
        names = [name for _, name in await watch.take(13)]
    assert names == [*(f"c{number:02}" for number in range(12)), "last"]


async def test_the_end_of_the_server_ends_watches_in_good_order(shared_data: Path) -> None:
    async with serving(shared_data) as api:
        path = api.url(f"{PODS}?watch=1&allowWatchBookmarks=1")
        session = aiohttp.ClientSession()
        response = await session.get(path)
    lines = (await response.content.read()).splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["BOOKMARK"]
    await session.close()
