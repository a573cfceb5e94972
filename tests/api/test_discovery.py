"""Discovery: everything that the table of kinds says, in the form that clients read."""

from __future__ import annotations

import msgspec
import pytest

from k8slite.api import discovery
from k8slite.api.kinds import POD, SCHEME
from k8slite.api.scheme import Kind, Scheme


def resources(version: str = "v1") -> dict[str, dict[str, object]]:
    document = discovery.api_resource_list(SCHEME, "", version)
    assert document["groupVersion"] == version
    return {resource["name"]: resource for resource in document["resources"]}


@pytest.mark.parametrize("version", ["v1", "v1beta3"])
def test_every_kind_and_subresource_is_listed(version: str) -> None:
    listed = resources(version)
    for kind in SCHEME:
        assert listed[kind.plural]["kind"] == kind.kind
        for name in kind.subresources:
            assert f"{kind.plural}/{name}" in listed
    assert listed["pods"]["shortNames"] == ["po"]
    assert listed["pods"]["categories"] == ["all"]
    assert listed["nodes"]["namespaced"] is False
    assert listed["pods/binding"]["kind"] == "Binding"
    assert listed["pods/exec"]["verbs"] == ["create", "get"]
    assert listed["pods/status"]["kind"] == "Pod"


def test_scale_belongs_to_another_group() -> None:
    scale = resources()["replicationcontrollers/scale"]
    assert (scale["group"], scale["version"], scale["kind"]) == ("autoscaling", "v1", "Scale")


def test_the_core_versions_begin_with_the_stored_one() -> None:
    document = discovery.api_versions("192.168.0.10:8080")
    assert document["versions"] == ["v1", "v1beta3"]
    assert document["serverAddressByClientCIDRs"][0]["serverAddress"] == "192.168.0.10:8080"


WIDGET = Kind(
    type=POD.type,
    kind="Widget",
    plural="widgets",
    singular="widget",
    group="example.com",
    version="v1",
)


def test_a_named_group_follows_from_its_kinds() -> None:
    scheme = Scheme((POD, WIDGET))
    group, policy = discovery.api_group_list(scheme)["groups"]
    assert group["name"] == "example.com"
    assert group["preferredVersion"] == {"groupVersion": "example.com/v1", "version": "v1"}
    listed = discovery.api_resource_list(scheme, "example.com", "v1")
    assert [resource["name"] for resource in listed["resources"]] == ["widgets"]
    assert discovery.api_group_list(SCHEME)["kind"] == "APIGroupList"
    # Where it is not named, kubectl asks for no evictions.
    assert policy["name"] == "policy"


def test_the_aggregated_form_says_the_same() -> None:
    document = discovery.aggregated(SCHEME, core=True)
    [group] = document["items"]
    first = group["versions"][0]
    assert (first["version"], first["freshness"]) == ("v1", "Current")
    pods = next(found for found in first["resources"] if found["resource"] == "pods")
    assert pods["responseKind"] == {"group": "", "version": "v1", "kind": "Pod"}
    assert pods["scope"] == "Namespaced"
    assert {sub["subresource"] for sub in pods["subresources"]} == set(POD.subresources)
    [policy] = discovery.aggregated(SCHEME, core=False)["items"]
    assert (policy["metadata"]["name"], policy["versions"][0]["resources"]) == ("policy", [])
    named = discovery.aggregated(Scheme((POD, WIDGET)), core=False, version="v2beta1")
    assert named["apiVersion"] == "apidiscovery.k8s.io/v2beta1"
    assert named["items"][0]["metadata"]["name"] == "example.com"
    assert msgspec.json.encode(document)
