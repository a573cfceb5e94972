"""OpenAPI: documents that clients can follow, that name every kind and describe every object."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.apiserver.http_serving import Served

from k8slite.api import codec, openapi, protowire, swagger, v1beta3
from k8slite.api.kinds import SCHEME
from k8slite.api.schemas import GROUP_VERSION_KIND
from k8slite.api.scheme import Kind

Document = dict[str, Any]

ARTICLE = Path(__file__).parents[2] / "examples" / "article"
VERSIONS = sorted(openapi.group_versions(SCHEME).values())
PREFIX = "#/components/schemas/"


@pytest.fixture(scope="module")
def v1() -> Document:
    return openapi.document(SCHEME, "", "v1")


@pytest.fixture(scope="module")
def older() -> Document:
    return swagger.document(SCHEME)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def served_kinds(schemas: Document) -> dict[tuple[str, str, str], str]:
    """(group, version, kind) → name of its schema."""
    return {
        (one["group"], one["version"], one["kind"]): name
        for name, schema in schemas.items()
        for one in schema.get(GROUP_VERSION_KIND, ())
    }


# --- version 3 -------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "version"), VERSIONS)
def test_every_reference_leads_somewhere(group: str, version: str) -> None:
    document = openapi.document(SCHEME, group, version)
    schemas = document["components"]["schemas"]
    found = {reference.removeprefix(PREFIX) for reference in references(document)}
    assert found
    assert found <= set(schemas)


@pytest.mark.parametrize(("group", "version"), VERSIONS)
def test_every_kind_and_its_list_say_what_they_are(group: str, version: str) -> None:
    document = openapi.document(SCHEME, group, version)
    found = served_kinds(document["components"]["schemas"])
    for kind in SCHEME:
        if kind.group == group:
            assert (group, version, kind.kind) in found
            assert (group, version, f"{kind.kind}List") in found


@pytest.mark.parametrize(("group", "version"), VERSIONS)
def test_every_kind_that_can_be_patched_says_that_the_server_checks_fields(
    group: str, version: str
) -> None:
    """kubectl looks at the PATCH of a kind, and checks by itself where it does not find this."""
    document = openapi.document(SCHEME, group, version)
    checked = {
        operation[GROUP_VERSION_KIND]["kind"]
        for _, method, operation in openapi.operations(document["paths"])
        if method == "patch"
        and {"fieldValidation", "dryRun", "fieldManager"}
        <= {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    }
    assert checked >= {kind.kind for kind in SCHEME if "patch" in kind.verbs}


def test_operations_have_names_of_their_own_and_paths_say_their_parameters(v1: Document) -> None:
    names = [operation["operationId"] for _, _, operation in openapi.operations(v1["paths"])]
    assert len(set(names)) == len(names)
    assert "createCoreV1NamespacedPod" in names
    for path, item in v1["paths"].items():
        said = {one["name"] for one in item.get("parameters", ()) if one["in"] == "path"}
        assert said == set(re.findall(r"{(\w+)}", path)), path


def test_every_subresource_has_a_path(v1: Document) -> None:
    for kind in SCHEME:
        for name in kind.subresources:
            assert any(path.endswith(f"/{kind.plural}/{{name}}/{name}") for path in v1["paths"])


@pytest.mark.parametrize("kind", tuple(SCHEME), ids=lambda kind: kind.kind)
def test_lists_that_merge_say_by_which_key(kind: Kind[Any], v1: Document) -> None:
    schemas = v1["components"]["schemas"]
    name = served_kinds(schemas)["", "v1", kind.kind]
    for path, key in kind.merge_keys.items():
        schema: Document = schemas[name]
        for step in path.split("."):
            schema = resolved(schemas, schema.get("items", schema))
            if step not in schema.get("properties", {}):
                break  # inside an object of any shape, or no field of ours
            schema = schema["properties"][step]
        else:
            assert schema["x-kubernetes-patch-strategy"].startswith("merge"), path
            assert schema.get("x-kubernetes-patch-merge-key", "*") == key, path


def test_values_that_are_more_than_their_type(v1: Document) -> None:
    schemas = v1["components"]["schemas"]
    port = resolved(schemas, properties(schemas, "ServicePort")["targetPort"])
    assert port["x-kubernetes-int-or-string"] is True
    limits = properties(schemas, "ResourceRequirements")["limits"]
    assert limits["additionalProperties"]["$ref"].endswith(".Quantity")
    created = properties(schemas, "ObjectMeta")["creationTimestamp"]
    assert resolved(schemas, created)["format"] == "date-time"


def test_a_kind_is_described_by_what_its_author_wrote(v1: Document) -> None:
    schemas = v1["components"]["schemas"]
    for kind in SCHEME:
        name = served_kinds(schemas)["", "v1", kind.kind]
        assert schemas[name]["description"], f"explain {kind.singular} would say nothing"


def test_the_address_of_a_document_changes_with_the_document() -> None:
    first, second = (openapi.index({"api/v1": text})["paths"] for text in (b"{}", b"[]"))
    assert first["api/v1"]["serverRelativeURL"].startswith("/openapi/v3/api/v1?hash=")
    assert first != second


# --- schemas describe objects ----------------------------------------------------------------


def properties(schemas: Document, name: str) -> Document:
    [found] = [schema for full, schema in schemas.items() if full.endswith(f".{name}")]
    return dict(found["properties"])


def resolved(schemas: Document, schema: Document) -> Document:
    [inner] = schema.get("allOf", [schema])
    return schemas[inner["$ref"].removeprefix(PREFIX)] if "$ref" in inner else inner


_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "array": list, "object": dict,
}  # fmt: skip


def misfits(schemas: Document, schema: Document, value: Any, path: str = "") -> Iterator[str]:
    """Where ``value`` is not as ``schema`` says (the keywords that our documents use)."""
    schema = resolved(schemas, schema)
    if "oneOf" in schema:
        if not any(isinstance(value, _TYPES[one["type"]]) for one in schema["oneOf"]):
            yield f"{path}: none of {schema['oneOf']}"
        return
    kind = _TYPES[schema["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        yield f"{path}: {value!r} is no {schema['type']}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from misfits(schemas, schema["items"], item, f"{path}[{index}]")
    elif isinstance(value, dict):
        known = schema.get("properties", {})
        for name, inner in value.items():
            if name in known:
                yield from misfits(schemas, known[name], inner, f"{path}.{name}")
            elif "additionalProperties" in schema:
                yield from misfits(schemas, schema["additionalProperties"], inner, f"{path}.{name}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}: there is no field {name}"


def fits(document: Document, kind: str, value: Any) -> list[str]:
    schemas = document["components"]["schemas"]
    name = served_kinds(schemas)["", "v1", kind]
    return list(misfits(schemas, schemas[name], value))


@pytest.mark.parametrize("name", ["nginx_rc.yaml", "nginx_service.yaml"])
def test_the_articles_documents_fit(name: str, v1: Document) -> None:
    raw = yaml.safe_load((ARTICLE / name).read_text())
    kind = SCHEME.named(raw["kind"])
    assert kind is not None
    converted = v1beta3.from_v1beta3(raw, kind)
    found = [line.rpartition(" ")[2] for line in fits(v1, kind.kind, converted)]
    assert set(found) <= {"enabled", "type", "portals"}, "fields that v1beta3 did not know either"
    decoded = codec.from_raw(raw)
    stored = msgspec.json.decode(codec.encode(kind.strategy.default(decoded.object)))
    assert fits(v1, kind.kind, stored) == []


def test_a_document_that_the_decoder_refuses_does_not_fit(v1: Document) -> None:
    container = {"name": "web", "image": "nginx", "ports": [{"containerPort": "eighty"}]}
    pod = {"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [container], "nonsense": 1}}
    assert len(fits(v1, "Pod", pod)) == 2


# --- version 2 -------------------------------------------------------------------------------


def test_the_older_form_says_the_same(older: Document) -> None:
    definitions = older["definitions"]
    found = {reference.removeprefix("#/definitions/") for reference in references(older)}
    assert found <= set(definitions)
    kinds = served_kinds(definitions)
    for _, version in VERSIONS:
        for kind in SCHEME:
            assert ("", version, kind.kind) in kinds
    container = definitions["io.k8s.api.core.v1.Container"]["properties"]
    assert container["ports"]["x-kubernetes-patch-merge-key"] == "containerPort"
    assert container["resources"] == {
        "$ref": "#/definitions/io.k8s.api.core.v1.ResourceRequirements"
    }
    assert not any(word in str(definitions) for word in ("'allOf'", "'oneOf'"))


def message(data: memoryview) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for number, value in protowire.read(data):
        found.setdefault(number, []).append(value)
    return found


def text(value: Any) -> str:
    return str(value, "utf-8")


def test_as_protobuf_it_holds_every_definition_and_every_path(older: Document) -> None:
    """Read back by hand: Document.definitions = 9, .paths = 8; names and values are 1 and 2."""
    document = message(memoryview(swagger.protobuf(older)))
    assert text(document[1][0]) == "2.0"
    [definitions] = [message(one)[1] for one in document[9]]
    schemas = {text(pair[1][0]): message(pair[2][0]) for pair in map(message, definitions)}
    assert set(schemas) == set(older["definitions"])
    pod = schemas["io.k8s.api.core.v1.Pod"]
    names = [text(message(one)[1][0]) for one in message(pod[25][0])[1]]
    assert names == list(older["definitions"]["io.k8s.api.core.v1.Pod"]["properties"])
    [extension] = [message(one) for one in pod[31]]
    assert text(extension[1][0]) == GROUP_VERSION_KIND
    said = yaml.safe_load(text(message(extension[2][0])[2][0]))
    assert said == [{"group": "", "version": "v1", "kind": "Pod"}]
    paths = [text(message(one)[1][0]) for one in message(document[8][0])[2]]
    assert paths == list(older["paths"])


# --- served ----------------------------------------------------------------------------------


async def test_a_client_that_has_the_document_is_not_sent_it_again(api: Served) -> None:
    first = await api.get("/openapi/v3/api/v1")
    again = await api.get("/openapi/v3/api/v1", headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status, again.status) == (200, 304)
    assert again.body == b""


async def test_clients_of_old_get_protobuf(api: Served) -> None:
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    answer = await api.get("/openapi/v2", headers={"Accept": accept})
    assert answer.headers["Content-Type"] == swagger.PROTOBUF
    assert answer.body[:5] == b"\x0a\x032.0"
    plain = await api.get("/openapi/v2")
    assert plain.json["swagger"] == "2.0"


async def test_there_is_no_other_document(api: Served) -> None:
    for path in ("/openapi", "/openapi/v1", "/openapi/v3/apis/nowhere/v1", "/openapi/v3x"):
        assert (await api.get(path)).status == 404


async def test_an_object_can_be_created_from_protobuf(api: Served) -> None:
    body = base64.b64decode(
        "azhzAAoPCgJ2MRIJTmFtZXNwYWNlEhoKEgoCenoSABoAIgAqADIAOABCABIAGgIKABoAIgA="
    )
    headers = {"Content-Type": "application/vnd.kubernetes.protobuf"}
    answer = await api.post("/api/v1/namespaces", body, headers=headers)
    assert answer.status == 201
    assert answer.json["metadata"]["name"] == "zz"


async def test_old_clients_find_every_core_version_where_they_look(api: Served) -> None:
    """client-go before 1.26 asks for /apis/v1beta3."""
    assert (await api.get("/apis/v1beta3")).json == (await api.get("/api/v1beta3")).json
