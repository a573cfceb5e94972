"""Discovery, version, health, metrics, OpenAPI."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_serving import Served, serving

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


async def test_discovery_names_every_kind(api: Served) -> None:
    assert (await api.get("/api")).json["versions"] == ["v1", "v1beta3"]
    assert (await api.get("/apis")).json["kind"] == "APIGroupList"
    resources = {item["name"]: item for item in (await api.get("/api/v1")).json["resources"]}
    assert resources["pods"]["namespaced"] is True
    assert "watch" in resources["pods"]["verbs"]
    assert {"pods/log", "pods/exec", "nodes/status"} <= set(resources)


async def test_aggregated_discovery(api: Served) -> None:
    answer = await api.get("/api", headers={"Accept": AGGREGATED})
    assert "as=APIGroupDiscoveryList" in answer.headers["Content-Type"]
    assert answer.json["apiVersion"] == "apidiscovery.k8s.io/v2"


async def test_the_version_is_of_digits(api: Served) -> None:
    version = (await api.get("/version")).json
    assert version["major"].isdigit()
    assert version["minor"].isdigit()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez", "/healthz/ping"])
async def test_a_healthy_server_says_ok(api: Served, path: str) -> None:
    answer = await api.get(path)
    assert (answer.status, answer.body) == (200, b"ok")


async def test_a_failed_check_is_named(shared_data: Path) -> None:
    async with serving(shared_data, health={"store": lambda: "the disk is full"}) as api:
        answer = await api.get("/readyz")
        assert answer.status == 500
        assert b"[-]store failed: the disk is full" in answer.body
        assert (await api.get("/livez")).status == 200
        assert (await api.get("/healthz/ping")).status == 200


async def test_the_root_lists_paths_that_answer(api: Served) -> None:
    for path in (await api.get("/")).json["paths"]:
        assert (await api.get(path)).status == 200, path


async def test_metrics_count_requests_and_watchers(api: Served) -> None:
    await api.create_pod("web")
    await api.get("/api/v1/namespaces/default/pods/nobody")
    async with api.watching("/api/v1/pods?watch=1"):
        text = (await api.get("/metrics")).body.decode()
    assert 'apiserver_request_total{code="201",resource="pods",verb="create"} 1.0' in text
    assert 'apiserver_request_total{code="404",resource="pods",verb="get"} 1.0' in text
    assert 'apiserver_watchers{resource="pods"} 1.0' in text
    assert 'apiserver_request_duration_seconds_count{resource="pods",verb="create"} 1.0' in text
    assert "k8slite_store_revision" in text


async def test_every_document_of_openapi_says_that_the_server_checks_fields(api: Served) -> None:
    index = (await api.get("/openapi/v3")).json
    assert set(index["paths"]) >= {"api/v1", "api/v1beta3"}
    for entry in index["paths"].values():
        document = (await api.get(entry["serverRelativeURL"])).json
        patch = next(path["patch"] for path in document["paths"].values() if "patch" in path)
        assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}


async def test_every_reference_of_openapi_leads_somewhere(api: Served) -> None:
    document = (await api.get("/openapi/v3/api/v1")).json
    schemas = document["components"]["schemas"]

    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            found = [value["$ref"]] if "$ref" in value else []
            return found + [ref for item in value.values() for ref in references(item)]
        if isinstance(value, list):
            return [ref for item in value for ref in references(item)]
        return []

    assert {ref.rpartition("/")[2] for ref in references(document)} <= set(schemas)
    pod = schemas["io.k8s.api.core.v1.Pod"]
    assert pod["x-kubernetes-group-version-kind"] == [{"group": "", "version": "v1", "kind": "Pod"}]
    containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
