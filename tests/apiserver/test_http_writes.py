"""What a write promises: what is refused, what is changed, what is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from http_serving import Served, eventually, pod

from k8slite.api.kinds import CONFIG_MAP

PODS = "/api/v1/namespaces/default/pods"
CONFIGS = "/api/v1/namespaces/default/configmaps"
RCS = "/api/v1/namespaces/default/replicationcontrollers"


def patching(kind: str) -> dict[str, str]:
    return {"Content-Type": f"application/{kind}+json"}


def controller(name: str, replicas: int) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod(name)["spec"]}
    return {"metadata": {"name": name}, "spec": {"replicas": replicas, "template": template}}


async def test_an_update_on_an_old_version_is_a_conflict(api: Served) -> None:
    first = (await api.post(CONFIGS, {"metadata": {"name": "c"}, "data": {"a": "1"}})).json
    second = await api.ask("PUT", f"{CONFIGS}/c", {**first, "data": {"a": "2"}})
    assert (second.status, second.json["data"]) == (200, {"a": "2"})
    third = await api.ask("PUT", f"{CONFIGS}/c", {**first, "data": {"a": "3"}})
    assert (third.status, third.json["reason"]) == (409, "Conflict")
    assert (await api.get(f"{CONFIGS}/c")).json == second.json


async def test_yaml_is_read_too(api: Served) -> None:
    body = b"metadata: {name: y}\ndata:\n  key: |\n    two\n    lines\n"
    answer = await api.post(CONFIGS, body, headers={"Content-Type": "application/yaml"})
    assert (answer.status, answer.json["data"]) == (201, {"key": "two\nlines\n"})


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b"{}", {"Content-Type": "text/html"}, 415),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
        (b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"c"}}', {}, 400),
        (b'{"metadata":{"name":"c","namespace":"elsewhere"}}', {}, 400),
        (b'{"metadata":{"name":"NOT A NAME"}}', {}, 422),
        (b'{"metadata":{"name":"c"},"data":{"a":1}}', {}, 400),
        (b'{"metadata":{"name":"c"},"data":{"a":"' + b"x" * 3_200_000 + b'"}}', {}, 413),
    ],
)
async def test_what_is_wrong_is_refused_in_one_line(
    api: Served, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await api.post(CONFIGS, body, headers=headers)
    assert (answer.status, answer.json["kind"], answer.json["code"]) == (status, "Status", status)
    assert answer.json["message"]
    assert "\n" not in answer.json["message"]
    assert (await api.get(CONFIGS)).json["items"] == []


async def test_unknown_fields_are_warned_of_refused_or_ignored(api: Served) -> None:
    def body(name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "dta": {}}

    warned = await api.post(CONFIGS, body("a"))
    assert warned.headers["Warning"] == '299 - "unknown field \\"dta\\""'
    assert "Warning" not in (await api.post(f"{CONFIGS}?fieldValidation=Ignore", body("b"))).headers
    refused = await api.post(f"{CONFIGS}?fieldValidation=Strict", body("c"))
    assert refused.status == 400
    assert 'unknown field "dta"' in refused.json["message"]
    assert (await api.post(f"{CONFIGS}?fieldValidation=Maybe", body("d"))).status == 400


async def test_a_dry_run_decides_and_writes_nothing(api: Served) -> None:
    answer = await api.post(f"{CONFIGS}?dryRun=All", {"metadata": {"name": "c"}})
    assert (answer.status, answer.json["metadata"]["name"]) == (201, "c")
    assert (await api.get(f"{CONFIGS}/c")).status == 404
    await api.post(CONFIGS, {"metadata": {"name": "c"}})
    assert (await api.ask("DELETE", f"{CONFIGS}/c?dryRun=All")).status == 200
    assert (await api.get(f"{CONFIGS}/c")).status == 200
    assert (await api.post(f"{CONFIGS}?dryRun=Some", {"metadata": {"name": "d"}})).status == 400


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("json-patch", [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]),
        ("merge-patch", {"metadata": {"labels": {"a": "b"}}}),
        ("strategic-merge-patch", {"metadata": {"labels": {"a": "b"}}}),
    ],
)
async def test_three_ways_to_patch(api: Served, kind: str, body: Any) -> None:
    await api.create_pod("web")
    answer = await api.ask("PATCH", f"{PODS}/web", body, headers=patching(kind))
    assert (answer.status, answer.json["metadata"]["labels"]) == (200, {"a": "b"})
    assert answer.json == (await api.get(f"{PODS}/web")).json


async def test_a_strategic_patch_finds_list_items_by_their_key(api: Served) -> None:
    await api.create_pod("web")
    body = {"spec": {"containers": [{"name": "main", "image": "nginx"}]}}
    answer = await api.ask("PATCH", f"{PODS}/web", body, headers=patching("strategic-merge-patch"))
    (container,) = answer.json["spec"]["containers"]
    assert (container["image"], container["terminationMessagePath"]) == (
        "nginx",
        "/dev/termination-log",
    )


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", {}, 415),
        ("application/merge-patch+json", b"{", 400),
        ("application/merge-patch+json", [], 400),
        ("application/merge-patch+json", {"metadata": {"name": "other"}}, 400),
        ("application/merge-patch+json", {"metadata": {"resourceVersion": "1"}}, 409),
        ("application/json-patch+json", [{"op": "test", "path": "/kind", "value": "x"}], 422),
    ],
)
async def test_patches_that_are_refused(
    api: Served, content_type: str, body: Any, status: int
) -> None:
    before = await api.create_pod("web")
    headers = {"Content-Type": content_type}
    assert (await api.ask("PATCH", f"{PODS}/web", body, headers=headers)).status == status
    assert (await api.get(f"{PODS}/web")).json == before


async def test_status_is_written_apart(api: Served) -> None:
    made = await api.create_pod("web")
    made["status"] = {"phase": "Running"}
    made["spec"]["containers"][0]["image"] = "other"
    answer = await api.ask("PUT", f"{PODS}/web/status", made)
    assert answer.json["status"]["phase"] == "Running"
    assert answer.json["spec"]["containers"][0]["image"] == "busybox"


@pytest.mark.parametrize("path", [f"{PODS}/web/binding", "/api/v1/namespaces/default/bindings"])
async def test_a_pod_is_bound_once(api: Served, path: str) -> None:
    await api.create_pod("web")
    body = {"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}}
    answer = await api.post(path, body)
    assert (answer.status, answer.json["status"]) == (201, "Success")
    assert (await api.get(f"{PODS}/web")).json["spec"]["nodeName"] == "n1"
    assert (await api.post(path, body)).status == 409


async def test_scale_is_a_view_of_the_controller(api: Served) -> None:
    answer = await api.post(RCS, controller("web", 2))
    assert answer.status == 201, answer.body
    scale = (await api.get(f"{RCS}/web/scale")).json
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] == {"replicas": 2}
    scale["spec"]["replicas"] = 5
    assert (await api.ask("PUT", f"{RCS}/web/scale", scale)).json["spec"] == {"replicas": 5}
    body = {"spec": {"replicas": 6}}
    await api.ask("PATCH", f"{RCS}/web/scale", body, headers=patching("merge-patch"))
    assert (await api.get(f"{RCS}/web")).json["spec"]["replicas"] == 6


async def test_a_namespace_goes_when_it_is_finalized(api: Served) -> None:
    await api.post("/api/v1/namespaces", {"metadata": {"name": "old"}})
    answer = await api.ask("DELETE", "/api/v1/namespaces/old")
    assert answer.json["status"]["phase"] == "Terminating"
    body = {**answer.json, "spec": {"finalizers": []}}
    assert (await api.ask("PUT", "/api/v1/namespaces/old/finalize", body)).status == 200
    assert (await api.get("/api/v1/namespaces/old")).status == 404


async def test_a_deletion_answers_with_success_and_the_uid(api: Served) -> None:
    made = (await api.post(CONFIGS, {"metadata": {"name": "c"}})).json
    wrong = {"preconditions": {"uid": "another"}}
    assert (await api.ask("DELETE", f"{CONFIGS}/c", wrong)).status == 409
    answer = await api.ask("DELETE", f"{CONFIGS}/c", {"gracePeriodSeconds": 0})
    assert answer.json["status"] == "Success"
    assert answer.json["details"] == {
        "name": "c",
        "kind": "configmaps",
        "uid": made["metadata"]["uid"],
    }


@pytest.mark.parametrize(
    "body",
    [{"propagationPolicy": "Sideways"}, {"gracePeriodSeconds": -1}, {"dryRun": ["Some"]}],
)
async def test_delete_options_that_make_no_sense(api: Served, body: Any) -> None:
    await api.post(CONFIGS, {"metadata": {"name": "c"}})
    assert (await api.ask("DELETE", f"{CONFIGS}/c", body)).status == 400
    assert (await api.get(f"{CONFIGS}/c")).status == 200


async def test_a_collection_is_deleted_by_selector(api: Served) -> None:
    for name in "abc":
        labels = {"go": "yes" if name < "c" else "no"}
        await api.post(CONFIGS, {"metadata": {"name": name, "labels": labels}})
    answer = await api.ask("DELETE", f"{CONFIGS}?labelSelector=go%3Dyes")
    assert (answer.status, len(answer.json["items"])) == (200, 2)
    assert [item["metadata"]["name"] for item in (await api.get(CONFIGS)).json["items"]] == ["c"]


async def test_the_old_version_writes_what_the_new_one_reads(api: Served) -> None:
    old = "/api/v1beta3/namespaces/default/services"
    body = {
        "kind": "Service", "apiVersion": "v1beta3", "metadata": {"name": "web"},
        "spec": {"portalIP": "192.168.3.77", "ports": [{"port": 80}], "selector": {"a": "b"}},
    }  # fmt: skip
    answer = await api.post(old, body)
    assert (answer.status, answer.json["spec"]["portalIP"]) == (201, "192.168.3.77")
    new = (await api.get("/api/v1/namespaces/default/services/web")).json
    assert (new["apiVersion"], new["spec"]["clusterIP"]) == ("v1", "192.168.3.77")
    patched = await api.ask(
        "PATCH",
        f"{old}/web",
        {"spec": {"publicIPs": ["10.0.0.9"]}},
        headers=patching("merge-patch"),
    )
    assert patched.json["spec"]["publicIPs"] == ["10.0.0.9"], patched.body
    new = (await api.get("/api/v1/namespaces/default/services/web")).json
    assert new["spec"]["externalIPs"] == ["10.0.0.9"]
    assert (await api.post(old, {**body, "apiVersion": "v1"})).status == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", f"{PODS}/web", 405),
        ("PUT", PODS, 405),
        ("PATCH", PODS, 405),
        ("OPTIONS", PODS, 405),
        ("BREW", PODS, 400),
        ("DELETE", "/api/v1/componentstatuses/x", 405),
        ("GET", "/api/v1/namespaces/default/bindings", 405),
        ("GET", f"{PODS}/web/scale", 404),
        ("GET", "/api/v1/horses", 404),
        ("GET", "/nothing/here", 404),
        ("POST", "/healthz", 405),
    ],
)
async def test_what_is_not_served_says_so(api: Served, method: str, path: str, status: int) -> None:
    body = json.dumps({}).encode() if method in ("POST", "PUT", "PATCH") else None
    answer = await api.ask(method, path, body)
    assert (answer.status, answer.json["code"]) == (status, status)


async def test_a_write_is_finished_even_when_its_client_is_gone(api: Served) -> None:
    body = json.dumps({"metadata": {"name": "c"}})
    _, writer = await asyncio.open_connection("127.0.0.1", api.server.ports["insecure"])
    head = f"POST {CONFIGS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(f"{head}{body}".encode())
    await writer.drain()
    writer.close()
    await eventually(lambda: api.cache.table(CONFIG_MAP).get("default/c") is not None)


async def test_requests_may_be_sent_one_behind_the_other(api: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.ports["insecure"])
    request = "GET /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: localhost\r\n"
    writer.write(f"{request}\r\n{request}\r\n{request}Connection: close\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answers = await reader.read()
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b"Connection: close") == 1
    writer.close()
