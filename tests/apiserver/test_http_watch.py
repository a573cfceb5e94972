"""What a watch promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_serving import Served, serving

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as served:
        yield served


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
