"""Selectors: the text of a question, and its answer for an object."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.errors import BadRequest
from k8slite.api.kinds.node import NODE
from k8slite.api.kinds.pod import POD
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.meta import ObjectMeta
from k8slite.api.selectors import (
    from_document,
    match_labels,
    parse_fields,
    parse_labels,
)

LABELS = {"app": "web", "tier": "front", "rank": "7", "empty": "", "k8s.io/zone": "a"}


@pytest.mark.parametrize(
    "text",
    [
        "", "app=web", "app==web", "app = web", "app=web,tier=front", "app!=db", "absent!=x",
        "app in (web,db)", "app in ( web , db )", "app notin (db)", "absent notin (x)", "app",
        "!absent", "rank>6", "rank<8", "empty=", "empty in (,x)", "k8s.io/zone=a", "app,!absent",
        "app in (web),tier notin (back),rank",
    ],
)  # fmt: skip
def test_what_matches(text: str) -> None:
    assert parse_labels(text).matches(LABELS)


@pytest.mark.parametrize(
    "text",
    ["app=db", "app!=web", "absent", "absent=x", "!app", "app notin (web,db)", "app in (db)",
     "rank>7", "rank<7", "app>1", "app=web,tier=back", "absent="],
)  # fmt: skip
def test_what_does_not_match(text: str) -> None:
    assert not parse_labels(text).matches(LABELS)


def test_no_labels_at_all() -> None:
    assert parse_labels("!a").matches(None)
    assert not parse_labels("a").matches(None)


@pytest.mark.parametrize(
    "text",
    ["=", "a=b=c", "a in", "a in b", "a in (b", "a,", ",a", "a b", "!", "a>x", "-a=b", "a=-b",
     "a in (b c)", "/a", "A/a=b", "a/b/c", "a" * 64, "a=" + "b" * 64, "a!b", "(a)"],
)  # fmt: skip
def test_a_malformed_selector_is_named_and_explained(text: str) -> None:
    with pytest.raises(BadRequest, match="unable to parse label selector"):
        parse_labels(text)


def test_a_selector_is_written_back_in_canonical_order() -> None:
    text = "tier notin (b,a),app=web,!x,y"
    assert str(parse_labels(text)) == "app=web,tier notin (a,b),!x,y"
    assert parse_labels(str(parse_labels(text))) == parse_labels(text)


def test_a_label_selector_document() -> None:
    selector = from_document(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "edge"]},
                {"key": "gone", "operator": "DoesNotExist"},
            ],
        }
    )
    assert selector.matches(LABELS)
    assert not selector.matches({"app": "web"})
    with pytest.raises(BadRequest, match="Near"):
        from_document({"matchExpressions": [{"key": "a", "operator": "Near"}]})


def test_matching_a_plain_set() -> None:
    assert match_labels({"app": "web"}, LABELS)
    assert not match_labels({"app": "web", "x": "y"}, LABELS)
    assert match_labels({}, None)


keys = st.sampled_from(["a", "b", "c"])
values = st.sampled_from(["1", "2", "3"])


@given(st.dictionaries(keys, values), keys, st.lists(values, min_size=1))
def test_in_and_notin_are_opposites(labels: dict[str, str], key: str, wanted: list[str]) -> None:
    inside = parse_labels(f"{key} in ({','.join(wanted)})").matches(labels)
    assert inside is not parse_labels(f"{key} notin ({','.join(wanted)})").matches(labels)
    assert inside is (labels.get(key) in wanted)


def pod(name: str, phase: str = "Running") -> Pod:
    made = Pod(metadata=ObjectMeta(name=name, namespace="default"))
    status = made.status.__class__(phase=phase)
    return Pod(metadata=made.metadata, status=status)


PHASED = dataclasses.replace(POD, fields=lambda p: {"status.phase": p.status.phase})


def test_field_selectors_ask_the_fields_that_the_kind_declares() -> None:
    assert parse_fields("metadata.name=a", PHASED).matches(pod("a"))
    assert not parse_fields("metadata.name=a", PHASED).matches(pod("b"))
    assert parse_fields("metadata.name!=a,status.phase==Running", PHASED).matches(pod("b"))
    assert not parse_fields("status.phase!=Running", PHASED).matches(pod("b"))
    assert parse_fields("", PHASED).matches(pod("b"))
    assert parse_fields("metadata.namespace=default", PHASED).matches(pod("b"))
    assert parse_fields(r"metadata.name=a\,b\=c", PHASED).exact("metadata.name") == "a,b=c"
    assert parse_fields("metadata.name!=a", PHASED).exact("metadata.name") is None


def test_an_unknown_field_names_those_that_there_are() -> None:
    with pytest.raises(BadRequest, match=r"spec\.colour .*pods have: metadata\.name"):
        parse_fields("spec.colour=red", PHASED)
    with pytest.raises(BadRequest, match=r"metadata\.namespace"):
        parse_fields("metadata.namespace=x", NODE)
    with pytest.raises(BadRequest, match="expected field=value"):
        parse_fields("metadata.name", PHASED)
