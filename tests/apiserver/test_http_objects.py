"""What the plain port promises about objects."""

from __future__ import annotations

from http_serving import Served, pod

PODS = "/api/v1/namespaces/default/pods"


async def test_what_is_created_can_be_read(api: Served) -> None:
    created = await api.create_pod("web", labels={"app": "web"})
    assert created["metadata"]["resourceVersion"].isdigit()
    answer = await api.get(f"{PODS}/web")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == created


async def test_a_name_is_given_once(api: Served) -> None:
    await api.create_pod("web")
    answer = await api.post(PODS, pod("web"))
    assert answer.status == 409
    assert answer.json["reason"] == "AlreadyExists"
    assert answer.json["message"] == 'pods "web" already exists'


async def test_what_is_not_there_is_a_status(api: Served) -> None:
    answer = await api.get(f"{PODS}/nobody")
    assert answer.status == 404
    assert answer.json == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'pods "nobody" not found',
        "reason": "NotFound",
        "details": {"name": "nobody", "kind": "pods"},
        "code": 404,
    }


async def test_deleting_a_pod_on_no_node_removes_it(api: Served) -> None:
    await api.create_pod("web")
    answer = await api.ask("DELETE", f"{PODS}/web")
    assert answer.status == 200
    assert (await api.get(f"{PODS}/web")).status == 404


async def test_list_is_in_key_order_at_one_version(api: Served) -> None:
    for name in ("c", "a", "b"):
        await api.create_pod(name)
    answer = (await api.get("/api/v1/pods")).json
    assert (answer["kind"], answer["apiVersion"]) == ("PodList", "v1")
    assert [item["metadata"]["name"] for item in answer["items"]] == ["a", "b", "c"]
    assert int(answer["metadata"]["resourceVersion"]) >= max(
        int(item["metadata"]["resourceVersion"]) for item in answer["items"]
    )


async def test_an_empty_list_has_items(api: Served) -> None:
    assert (await api.get("/api/v1/services")).json["items"] == []
