"""What a list promises: selection, versions, pages, forms."""

from __future__ import annotations

from typing import Any

import pytest
from http_serving import Served

PODS = "/api/v1/namespaces/default/pods"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


def names(listing: Any) -> list[str]:
    return [item["metadata"]["name"] for item in listing["items"]]


@pytest.fixture
async def five(api: Served) -> Served:
    for number in range(5):
        await api.create_pod(f"p{number}", labels={"parity": "even" if number % 2 == 0 else "odd"})
    return api


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("labelSelector=parity%3Deven", ["p0", "p2", "p4"]),
        ("labelSelector=parity%20notin%20(even)", ["p1", "p3"]),
        ("fieldSelector=metadata.name%3Dp3", ["p3"]),
        ("fieldSelector=metadata.name%21%3Dp3,spec.nodeName%3D", ["p0", "p1", "p2", "p4"]),
        ("labelSelector=parity%3Deven&fieldSelector=metadata.name%3Dp3", []),
    ],
)
async def test_selectors(five: Served, query: str, expected: list[str]) -> None:
    assert names((await five.get(f"{PODS}?{query}")).json) == expected


@pytest.mark.parametrize(
    "query",
    ["labelSelector=%21%21", "fieldSelector=spec.nothing%3D1", "limit=many", "resourceVersion=new",
     "resourceVersionMatch=Exact", "resourceVersion=1&resourceVersionMatch=Roughly",
     "continue=nonsense"],
)  # fmt: skip
async def test_a_question_that_cannot_be_read_is_a_bad_request(api: Served, query: str) -> None:
    answer = await api.get(f"{PODS}?{query}")
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert "\n" not in answer.json["message"]


async def test_pages_are_of_one_moment(five: Served) -> None:
    first = (await five.get(f"{PODS}?limit=2")).json
    assert names(first) == ["p0", "p1"]
    assert first["metadata"]["remainingItemCount"] == 3
    await five.ask("DELETE", f"{PODS}/p2")
    await five.create_pod("p11")
    token = first["metadata"]["continue"]
    second = (await five.get(f"{PODS}?limit=2&continue={token}")).json
    assert names(second) == ["p2", "p3"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    third = (await five.get(f"{PODS}?limit=2&continue={second['metadata']['continue']}")).json
    assert names(third) == ["p4"]
    assert "continue" not in third["metadata"]


async def test_a_page_of_a_selection_tells_no_remaining_count(five: Served) -> None:
    page = (await five.get(f"{PODS}?limit=1&labelSelector=parity%3Deven")).json
    assert "remainingItemCount" not in page["metadata"]


async def test_a_token_of_a_forgotten_list_is_expired_and_offers_another(five: Served) -> None:
    first = (await five.get(f"{PODS}?limit=2")).json
    for _ in range(70):  # more lists than are kept
        await five.create_pod(f"q{_}")
        await five.get(f"{PODS}?limit=1")
    answer = await five.get(f"{PODS}?limit=2&continue={first['metadata']['continue']}")
    assert (answer.status, answer.json["reason"]) == (410, "Expired")
    token = answer.json["metadata"]["continue"]
    await five.create_pod("z")
    second = (await five.get(f"{PODS}?limit=2&continue={token}")).json
    assert names(second) == ["p2", "p3"]
    # From there on it is a list that is kept, as any other.
    third = await five.get(f"{PODS}?limit=2&continue={second['metadata']['continue']}")
    assert (third.status, names(third.json)) == (200, ["p4", "q0"])


async def test_an_exact_version_is_served_while_nothing_changed_since(five: Served) -> None:
    version = (await five.get(PODS)).json["metadata"]["resourceVersion"]
    exact = f"{PODS}?resourceVersionMatch=Exact&resourceVersion={version}"
    await five.post("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "other"}})
    answer = (await five.get(exact)).json
    assert answer["metadata"]["resourceVersion"] == version
    await five.ask("DELETE", f"{PODS}/p0")
    assert (await five.get(exact)).status == 410


async def test_a_version_from_the_future_is_waited_for_in_vain(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8slite.roles.apiserver.watching.FUTURE_WAIT", 0.01)
    answer = await api.get(f"{PODS}?resourceVersion=999999")
    assert answer.status == 504
    assert "Too large resource version" in answer.json["message"]


async def test_a_table_has_the_columns_of_the_kind(five: Served) -> None:
    answer = (await five.get(PODS, headers={"Accept": TABLE})).json
    assert (answer["kind"], answer["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert answer["columnDefinitions"][0]["name"] == "Name"
    assert [row["cells"][0] for row in answer["rows"]] == ["p0", "p1", "p2", "p3", "p4"]
    assert answer["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    single = (await five.get(f"{PODS}/p1", headers={"Accept": TABLE})).json
    assert [row["cells"][0] for row in single["rows"]] == ["p1"]
    whole = await five.get(f"{PODS}/p1?includeObject=Object", headers={"Accept": TABLE})
    assert whole.json["rows"][0]["object"]["kind"] == "Pod"


async def test_metadata_alone(five: Served) -> None:
    listing = PARTIAL.replace("Metadata;", "MetadataList;")
    answer = (await five.get(PODS, headers={"Accept": listing})).json
    assert answer["kind"] == "PartialObjectMetadataList"
    assert set(answer["items"][0]) == {"kind", "apiVersion", "metadata"}
    single = (await five.get(f"{PODS}/p1", headers={"Accept": PARTIAL})).json
    assert (single["kind"], single["metadata"]["name"]) == ("PartialObjectMetadata", "p1")


async def test_what_cannot_be_served_is_not_acceptable(api: Served) -> None:
    answer = await api.get(PODS, headers={"Accept": "application/vnd.kubernetes.protobuf"})
    assert (answer.status, answer.json["reason"]) == (406, "NotAcceptable")
    both = "application/vnd.kubernetes.protobuf,application/json"
    assert (await api.get(PODS, headers={"Accept": both})).status == 200


async def test_people_get_indented_answers(five: Served) -> None:
    assert b"\n  " in (await five.get(PODS, headers={"User-Agent": "curl/8"})).body
    assert b"\n" not in (await five.get(PODS)).body
    assert b"\n  " in (await five.get(f"{PODS}/p1?pretty=true")).body


async def test_the_old_version_converts_at_the_door(five: Served) -> None:
    answer = (await five.get("/api/v1beta3/namespaces/default/pods")).json
    assert (answer["kind"], answer["apiVersion"]) == ("PodList", "v1beta3")
    assert {item["apiVersion"] for item in answer["items"]} == {"v1beta3"}


async def test_a_long_list_arrives_whole(api: Served) -> None:
    text = "x" * 100_000
    for number in range(30):
        body = {"metadata": {"name": f"c{number:02}"}, "data": {"text": text}}
        assert (await api.post("/api/v1/namespaces/default/configmaps", body)).status == 201
    answer = await api.get("/api/v1/configmaps")
    assert len(answer.json["items"]) == 30
    assert int(answer.headers["Content-Length"]) == len(answer.body) > 3_000_000
