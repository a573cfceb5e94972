"""Whatever comes in, what comes out is an object or one clear line; never anything else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from document_shapes import GARBAGE, KINDS, documents, spoilt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8slite.api import codec
from k8slite.api.errors import ApiError
from k8slite.api.scheme import Kind

LENIENT = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
VERSIONS = st.sampled_from(["v1", "v1beta3"])


def swallow(body: bytes, media: str) -> None:
    """Take a body all the way to validation; only an ApiError of one line may come of it."""
    refused: ApiError | None = None
    try:
        decoded = codec.decode_document(body, media)
    except ApiError as error:
        refused = error
    if refused is not None:
        assert refused.message
        assert "\n" not in refused.message
        assert len(refused.message) < 2000
        return
    strategy = decoded.kind.strategy
    obj = strategy.prepare_create(strategy.default(decoded.object))
    errors = strategy.validate(obj, None) + strategy.validate(obj, obj)
    errors += strategy.validate_status(obj, obj)
    for error in errors:
        assert error.path
        assert error.message
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    assert all(len(warning) < 1000 for warning in decoded.warnings)
    decoded.kind.fields(obj)
    stored = codec.encode_stored(obj)
    assert codec.decode(decoded.kind, stored) == codec.with_version(obj, "")


@LENIENT
@given(st.binary(max_size=200), st.sampled_from(["application/json", "application/yaml"]))
def test_any_bytes(body: bytes, media: str) -> None:
    swallow(body, media)


@LENIENT
@given(st.text(alphabet="{}[]:,-?&*!|>'\"%@`#\n \tab01.~<=", max_size=60))
def test_any_text_that_looks_like_yaml(text: str) -> None:
    swallow(text.encode(), "application/yaml")


@LENIENT
@given(GARBAGE)
def test_any_json(value: Any) -> None:
    swallow(json.dumps(value).encode(), "application/json")


@LENIENT
@given(st.sampled_from(KINDS).flatmap(documents), VERSIONS)
def test_well_formed_documents_of_every_kind(raw: dict[str, Any], version: str) -> None:
    swallow(json.dumps({**raw, "apiVersion": version}).encode(), "application/json")


@LENIENT
@given(st.sampled_from(KINDS).flatmap(spoilt), VERSIONS, st.booleans())
def test_documents_with_garbage_in_one_place(
    raw: dict[str, Any], version: str, as_yaml: bool
) -> None:
    raw = {**raw, "apiVersion": version}
    if as_yaml:
        swallow(yaml.safe_dump(raw).encode("utf-8", "surrogatepass"), "application/yaml")
    else:
        swallow(json.dumps(raw).encode(), "application/json")


@LENIENT
@given(st.sampled_from(KINDS).flatmap(lambda k: st.tuples(st.just(k), documents(k))))
def test_what_is_complete_stays_as_it_is(pair: tuple[Kind[Any], dict[str, Any]]) -> None:
    kind, raw = pair
    once = kind.strategy.default(codec.from_raw(raw).object)
    assert kind.strategy.default(once) == once


MEGABYTE = 1_000_000


def pod(rest: bytes) -> bytes:
    return b'{"kind":"Pod","apiVersion":"v1",' + rest


WORST = {
    "yaml lists": (b"[" * MEGABYTE, "application/yaml"),
    "yaml mappings": (b"{" * MEGABYTE, "application/yaml"),
    "yaml blocks": (b"- " * MEGABYTE, "application/yaml"),
    "yaml values": (b"a: [" + b"1," * MEGABYTE + b"]", "application/yaml"),
    "yaml digits": (b"a: " + b"9" * MEGABYTE, "application/yaml"),
    "yaml digits with lines": (b"a: " + b"1_" * MEGABYTE, "application/yaml"),
    "yaml points": (b"a: -" + b"1." * MEGABYTE, "application/yaml"),
    "yaml keys twice": (b"kind: Pod\n" * 100_000, "application/yaml"),
    "lists": (b"[" * MEGABYTE, ""),
    "objects": (b'{"a":' * MEGABYTE, ""),
    "digits": (pod(b'"metadata":{"name":' + b"9" * MEGABYTE + b"}}"), ""),
    "name": (pod(b'"metadata":{"name":"' + b"a-" * MEGABYTE + b'"}}'), ""),
    "label": (pod(b'"metadata":{"labels":{"' + b"a" * MEGABYTE + b'":""}}}'), ""),
    "containers": (pod(b'"spec":{"containers":[' + b"{}," * 9_000 + b"{}]}}"), ""),
    "more containers": (pod(b'"spec":{"containers":[' + b"{}," * 200_000 + b"{}]}}"), ""),
    "fields": (pod(b",".join(b'"a%d":1' % n for n in range(200_000)) + b"}"), ""),
    "fields twice": (pod(b",".join(b'"a%d":1,"a%d":1' % (n, n) for n in range(90_000)) + b"}"), ""),
    "data": (b'{"kind":"Secret","apiVersion":"v1","data":{"a":"' + b"A" * MEGABYTE + b'"}}', ""),
    "kind": (b'{"kind":"' + b"P" * MEGABYTE + b'","apiVersion":"v1"}', ""),
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_that_fits_in_a_body_costs_little(name: str) -> None:
    started = time.process_time()
    swallow(*WORST[name])
    assert time.process_time() - started < 20  # a bound on growth, not a figure of speed
