"""What a request line asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.errors import ApiError, BadRequest, NotFound
from k8slite.api.kinds import SCHEME
from k8slite.api.paths import PathParser, ProxyName, parse_proxy_name, parse_query

PARSER = PathParser(SCHEME)


def asked(method: str, url: str) -> tuple[str, str, str, str, str]:
    target = PARSER.parse(method, url)
    kind = target.kind.plural if target.kind else ""
    return target.verb, kind, target.namespace, target.name, target.subresource


@pytest.mark.parametrize(
    ("method", "url", "expected"),
    [
        ("GET", "/api/v1/pods", ("list", "pods", "", "", "")),
        ("GET", "/api/v1/namespaces/x/pods", ("list", "pods", "x", "", "")),
        ("GET", "/api/v1/namespaces/x/pods/", ("list", "pods", "x", "", "")),
        ("GET", "/api/v1/namespaces/x/pods/p", ("get", "pods", "x", "p", "")),
        ("HEAD", "/api/v1/namespaces/x/pods/p", ("get", "pods", "x", "p", "")),
        ("POST", "/api/v1/namespaces/x/pods", ("create", "pods", "x", "", "")),
        ("PUT", "/api/v1/namespaces/x/pods/p/status", ("update", "pods", "x", "p", "status")),
        ("PATCH", "/api/v1/nodes/n", ("patch", "nodes", "", "n", "")),
        ("DELETE", "/api/v1/namespaces/x/pods", ("deletecollection", "pods", "x", "", "")),
        ("DELETE", "/api/v1/namespaces/x", ("delete", "namespaces", "", "x", "")),
        ("PUT", "/api/v1/namespaces/x/finalize", ("update", "namespaces", "", "x", "finalize")),
        ("GET", "/api/v1/namespaces/pods/pods/pods", ("get", "pods", "pods", "pods", "")),
        ("GET", "/api/v1beta3/minions/n", ("get", "nodes", "", "n", "")),
        ("GET", "/api/v1/namespaces/x/pods/p/log", ("connect", "pods", "x", "p", "log")),
        ("GET", "/api/v1/namespaces/a%20b/pods", ("list", "pods", "a b", "", "")),
        ("GET", "http://host:1/api/v1/pods", ("list", "pods", "", "", "")),
        ("GET", "/healthz", ("", "", "", "", "")),
        ("GET", "/api/v1", ("", "", "", "", "")),
    ],
)
def test_paths(method: str, url: str, expected: tuple[str, ...]) -> None:
    assert asked(method, url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "/api/v1/namespaces/x/pods?watch=true",
        "/api/v1/namespaces/x/pods?watch",
        "/api/v1/watch/namespaces/x/pods",
    ],
)
def test_three_ways_to_watch_a_collection(url: str) -> None:
    assert asked("GET", url) == ("watch", "pods", "x", "", "")


def test_watching_one_object_is_watching_its_collection_by_name() -> None:
    target = PARSER.parse("GET", "/api/v1/watch/namespaces/x/pods/p?fieldSelector=a%3Db")
    assert (target.verb, target.name) == ("watch", "")
    assert target.query.text("fieldSelector") == "a=b,metadata.name=p"


def test_what_stands_behind_proxy_is_kept_as_it_was_written() -> None:
    target = PARSER.parse("GET", "/api/v1/namespaces/x/services/http:web:80/proxy/a%2Fb/?c=d%20")
    assert (target.verb, target.name) == ("connect", "http:web:80")
    assert (target.rest, target.raw_query) == ("/a%2Fb/", "c=d%20")


def test_the_proxy_prefix_of_old() -> None:
    target = PARSER.parse("POST", "/api/v1beta3/proxy/namespaces/x/pods/p:80/a/b")
    assert (target.subresource, target.name, target.rest) == ("proxy", "p:80", "/a/b")


@pytest.mark.parametrize(
    "url",
    ["/api/v2/pods", "/api/v1/horses", "/api/v1/namespaces/x/nodes", "/api/v1/minions",
     "/api/v1/namespaces/x/pods/p/status/more", "/apis/apps/v1/deployments"],
)  # fmt: skip
def test_what_is_not_served_is_not_found(url: str) -> None:
    with pytest.raises(NotFound):
        PARSER.parse("GET", url)


@pytest.mark.parametrize(
    "url",
    ["/api/v1/pods/p", "/api/v1/namespaces//pods", "/api/v1/nodes/%ff", "*", "/api/v1/\udc80"],
)
def test_what_makes_no_sense_is_a_bad_request(url: str) -> None:
    with pytest.raises(BadRequest):
        PARSER.parse("GET", url)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", ProxyName("web")),
        ("web:80", ProxyName("web", "80")),
        ("https:web:", ProxyName("web", "", "https")),
        ("http:web:http", ProxyName("web", "http", "http")),
    ],
)
def test_names_of_proxied_objects(text: str, expected: ProxyName) -> None:
    assert parse_proxy_name(text) == expected


@pytest.mark.parametrize("text", ["", ":80", "ftp:web:80", "a:b:c:d"])
def test_names_that_cannot_be_proxied(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_proxy_name(text)


def test_a_truth_value_may_be_written_in_several_ways() -> None:
    query = parse_query("a&b=1&c=true&d=false&e=0")
    assert [query.flag(name) for name in "abcdef"] == [True, True, True, False, False, False]
    with pytest.raises(BadRequest):
        parse_query("watch=maybe").flag("watch")


@given(st.text(max_size=80), st.sampled_from(("GET", "POST", "DELETE", "BREW")))
def test_any_text_is_a_target_or_an_error_of_the_client(text: str, method: str) -> None:
    for url in (text, f"/{text}", f"/api/v1/{text}", f"/api/v1/namespaces/x/pods/{text}"):
        assert 200 <= code_of(method, url) < 500


def code_of(method: str, url: str) -> int:
    try:
        PARSER.parse(method, url)
    except ApiError as error:
        return error.code
    return 200
