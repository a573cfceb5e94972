"""Patches: the RFCs' own examples, Kubernetes' directives, and nothing changed in place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api import mergekeys
from k8slite.api.errors import ApiError, BadRequest, TooLarge
from k8slite.api.patch import json_patch, merge_patch, strategic_merge

# --- RFC 7386, appendix A -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(document: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(document)
    assert merge_patch(document, patch) == result
    assert document == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from("abc"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values, json_values)
def test_a_merge_patch_applied_twice_is_applied_once(document: Any, patch: Any) -> None:
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once


# --- RFC 6902, appendix A -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}],
         {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}],
         {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}],
         {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
        ({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
         [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
         {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
        ({"foo": ["all", "grass", "cows", "eat"]},
         [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
         {"foo": ["all", "cows", "eat", "grass"]}),
        ({"baz": "qux", "foo": ["a", 2, "c"]},
         [{"op": "test", "path": "/baz", "value": "qux"},
          {"op": "test", "path": "/foo/1", "value": 2}],
         {"baz": "qux", "foo": ["a", 2, "c"]}),
        ({"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"grandchild": {}}}],
         {"foo": "bar", "child": {"grandchild": {}}}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}],
         {"foo": ["bar", ["abc", "def"]]}),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"},
                           {"op": "replace", "path": "/c/b", "value": 2}],
         {"a": {"b": 1}, "c": {"b": 2}}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"a": 1}, [], {"a": 1}),
    ],
)  # fmt: skip
def test_json_patch(document: Any, operations: Any, result: Any) -> None:
    before = copy.deepcopy(document)
    assert json_patch(document, operations) == result
    assert document == before


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "test", "path": "/baz", "value": "bar"}],
        [{"op": "test", "path": "/one", "value": True}],
        [{"op": "add", "path": "/absent/bat", "value": "qux"}],
        [{"op": "remove", "path": "/absent"}],
        [{"op": "replace", "path": "/absent", "value": 1}],
        [{"op": "add", "path": "/list/5", "value": 1}],
        [{"op": "add", "path": "/list/01", "value": 1}],
        [{"op": "remove", "path": "/list/-"}],
        [{"op": "remove", "path": "/list/²"}],
        [{"op": "move", "from": "/absent", "path": "/x"}],
        [{"op": "move", "from": "/list", "path": "/list/0"}],
        [{"op": "add", "path": "/baz/x", "value": 1}],
    ],
)  # fmt: skip
def test_a_json_patch_that_does_not_fit_is_422_and_names_the_operation(operations: Any) -> None:
    with pytest.raises(ApiError, match="operation 0 ") as caught:
        json_patch({"baz": "qux", "one": 1, "list": [1]}, operations)
    assert caught.value.code == 422


@pytest.mark.parametrize(
    "operations",
    [{}, "x", ["x"], [{"op": "frob", "path": "/a"}], [{"op": "add", "path": "a", "value": 1}],
     [{"op": "add", "path": "/a"}], [{"op": "add", "value": 1}], [{"op": "copy", "path": "/a"}]],
)  # fmt: skip
def test_a_malformed_json_patch_is_400(operations: Any) -> None:
    with pytest.raises(BadRequest):
        json_patch({}, operations)


def test_a_json_patch_cannot_grow_without_bound() -> None:
    doubling = [{"op": "copy", "from": "", "path": f"/c{number}"} for number in range(64)]
    with pytest.raises(TooLarge):
        json_patch({"a": "x" * 100}, doubling)
    with pytest.raises(TooLarge):
        json_patch({}, [{"op": "test", "path": "", "value": {}}] * 10_001)


@pytest.mark.parametrize("apply", [merge_patch, lambda d, p: strategic_merge(d, p, {})])
def test_absurd_nesting_is_refused(apply: Any) -> None:
    patch: dict[str, Any] = {}
    for _ in range(5000):
        patch = {"a": patch}
    with pytest.raises(BadRequest, match="deep"):
        apply({}, patch)


# --- strategic merge ----------------------------------------------------------------------

POD = {
    "spec": {
        "containers": [
            {"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
            {"name": "b", "image": "b:1"},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/"}}],
        "tolerations": [{"key": "x"}],
    },
    "metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["f1", "f2"]},
}


def pod_patch(patch: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy(POD)
    merged: dict[str, Any] = strategic_merge(POD, patch, mergekeys.POD)
    assert before == POD
    return merged


def names(merged: dict[str, Any], field: str = "containers") -> list[str]:
    return [item["name"] for item in merged["spec"][field]]


def test_elements_merge_by_their_key() -> None:
    merged = pod_patch({"spec": {"containers": [{"name": "b", "image": "b:2"}]}})
    assert merged["spec"]["containers"] == [
        POD["spec"]["containers"][0],  # type: ignore[index]
        {"name": "b", "image": "b:2"},
    ]


def test_lists_inside_elements_merge_too() -> None:
    ports = [{"containerPort": 443}, {"containerPort": 80, "name": "http"}]
    merged = pod_patch({"spec": {"containers": [{"name": "a", "ports": ports}]}})
    assert merged["spec"]["containers"][0]["ports"] == [
        {"containerPort": 443},
        {"containerPort": 80, "protocol": "TCP", "name": "http"},
    ]


def test_null_deletes_a_field_and_leaves_no_trace_where_there_was_none() -> None:
    merged = pod_patch({"metadata": {"labels": {"a": None}, "annotations": {"x": None, "y": "1"}}})
    assert merged["metadata"]["labels"] == {"b": "2"}
    assert merged["metadata"]["annotations"] == {"y": "1"}


def test_lists_without_a_key_are_replaced() -> None:
    assert pod_patch({"spec": {"tolerations": [{"key": "y"}]}})["spec"]["tolerations"] == [
        {"key": "y"}
    ]


def test_patch_delete_removes_an_element() -> None:
    assert names(pod_patch({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}})) == ["b"]


def test_patch_replace_replaces_a_list_or_an_object() -> None:
    merged = pod_patch({"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}})
    assert merged["spec"]["containers"] == [{"name": "c"}]
    merged = pod_patch({"metadata": {"labels": {"$patch": "replace", "c": "3"}}})
    assert merged["metadata"]["labels"] == {"c": "3"}
    assert pod_patch({"metadata": {"labels": {"$patch": "delete"}}})["metadata"]["labels"] == {}


def test_set_element_order_sorts_what_it_names() -> None:
    patch = {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}
    assert names(pod_patch({"spec": patch})) == ["b", "a"]
    patch = {
        "$setElementOrder/containers": [{"name": "a"}, {"name": "c"}],
        "containers": [{"name": "c"}],
    }
    assert names(pod_patch({"spec": patch})) == ["a", "c", "b"]


def test_retain_keys_clears_the_other_source_of_a_volume() -> None:
    volume = {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/tmp"}}
    merged = pod_patch({"spec": {"volumes": [volume]}})
    assert merged["spec"]["volumes"][0] == {"name": "v", "hostPath": {"path": "/tmp"}}


def test_lists_of_plain_values_merge_as_sets() -> None:
    merged = pod_patch({"metadata": {"finalizers": ["f3", "f1"]}})
    assert sorted(merged["metadata"]["finalizers"]) == ["f1", "f2", "f3"]
    merged = pod_patch({"metadata": {"$deleteFromPrimitiveList/finalizers": ["f1"]}})
    assert merged["metadata"]["finalizers"] == ["f2"]


def test_a_list_that_was_not_there_loses_its_directives() -> None:
    bare: dict[str, Any] = {"spec": {}}
    patch = {
        "spec": {"containers": [{"name": "x", "$patch": "delete"}, {"name": "y", "image": None}]}
    }
    assert strategic_merge(bare, patch, mergekeys.POD) == {"spec": {"containers": [{"name": "y"}]}}


def test_an_element_without_its_key_is_refused_with_its_path() -> None:
    with pytest.raises(BadRequest, match=r"spec\.containers: an element lacks name"):
        pod_patch({"spec": {"containers": [{"image": "x"}]}})
    with pytest.raises(BadRequest, match=r"metadata\.finalizers: every element is a plain value"):
        pod_patch({"metadata": {"finalizers": [{}]}})
    with pytest.raises(BadRequest, match=r"spec: unknown \$patch 'frob'"):
        pod_patch({"spec": {"$patch": "frob"}})


def test_templates_know_the_keys_of_their_pods() -> None:
    keys = mergekeys.REPLICATION_CONTROLLER
    template = {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}}
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "a", "command": ["x"]}]}}}}
    merged = strategic_merge(template, patch, keys)
    assert merged["spec"]["template"]["spec"]["containers"] == [
        {"name": "a", "image": "1", "command": ["x"]}
    ]
