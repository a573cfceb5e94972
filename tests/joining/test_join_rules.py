"""Who may join, what a node's certificate says, and what a node may write."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from msgspec.structs import replace

from k8slite.api.kinds.event.types import Event
from k8slite.api.kinds.node.types import Node, NodeAddress, NodeSpec, NodeStatus
from k8slite.api.kinds.pod.types import Pod, PodSpec
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import Object, ObjectMeta, OwnerReference
from k8slite.decide.admission.nodes import CREATE, DELETE, MIRROR, UPDATE, borrowed, refuse
from k8slite.decide.joining import (
    LONGEST_NAME,
    Wish,
    addresses,
    identity,
    malformed,
    newborn,
    node_name,
    refused,
)

PORTALS = ip_network("192.168.3.0/24")
WISH = Wish("n1", ("10.0.0.1",), "amd64")


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Wish("", ("10.0.0.1",)), "node name ''"),
        (Wish("A b", ("10.0.0.1",)), "node name 'A b'"),
        (Wish("n\n1", ("10.0.0.1",)), "node name"),
        (Wish("n" * (LONGEST_NAME + 1), ("10.0.0.1",)), "is longer than 52 characters"),
        (Wish("kubernetes", ("10.0.0.1",)), "is the API server's own"),
        (Wish("kubernetes.default.svc", ("10.0.0.1",)), "is the API server's own"),
        (Wish("localhost", ("10.0.0.1",)), "is the API server's own"),
        (Wish("n1", ()), "says 0 addresses"),
        (Wish("n1", tuple(f"10.0.0.{i}" for i in range(17))), "says 17 addresses"),
        (Wish("n1", ("ten",)), "'ten': it is none"),
        (Wish("n1", ("127.0.0.1",)), "nobody else can reach it"),
        (Wish("n1", ("0.0.0.0",)), "nobody else can reach it"),
        (Wish("n1", ("255.255.255.255",)), "nobody else can reach it"),
        (Wish("n1", ("192.168.3.2",)), "among the portal IPs, 192.168.3.0/24"),
        (Wish("10.0.0.9", ("10.0.0.1",)), "is named by an address that is not among its own"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused_in_one_line(wish: Wish, why: str) -> None:
    said = malformed(wish, PORTALS)
    assert why in said
    assert "\n" not in said


def test_a_plain_wish_is_granted() -> None:
    assert malformed(WISH, PORTALS) == ""
    assert malformed(Wish("10.0.0.1", ("10.0.0.1",)), PORTALS) == ""
    assert refused(WISH, None, [], ["10.0.0.9"], alive=False, peer="10.0.0.1") == ""


def test_a_living_node_keeps_its_name() -> None:
    there = newborn(Wish("n1", ("10.0.0.7",)))
    said = refused(WISH, there, [there], [], alive=True, peer="10.0.0.1")
    assert said.startswith("node n1 is alive at 10.0.0.7: ")


def test_a_dead_node_may_come_back_elsewhere_and_a_living_one_where_it_is() -> None:
    there = newborn(Wish("n1", ("10.0.0.7",)))
    assert refused(WISH, there, [there], [], alive=False, peer="10.0.0.1") == ""
    same = newborn(WISH)
    assert refused(WISH, same, [same], [], alive=True, peer="10.0.0.1") == ""


def test_nobody_joins_as_a_node_that_speaks_just_now_from_elsewhere() -> None:
    there = newborn(WISH)

    def answer(peer: str) -> str:
        return refused(WISH, there, [there], [], alive=True, beats=True, peer=peer)

    assert answer("10.0.0.66").startswith("node n1 is alive at 10.0.0.1, and this wish comes from ")
    # The machine itself, installed anew.
    assert answer("10.0.0.1") == ""
    assert answer("127.0.0.1") == ""


def test_nobody_joins_as_a_node_that_is_on_its_way_out() -> None:
    meta = ObjectMeta(name="n1", deletion_timestamp="2026-01-01T00:00:00Z")
    said = refused(WISH, Node(metadata=meta), [], [], alive=False, peer="10.0.0.1")
    assert said == "node n1 is being deleted: wait until it is gone"


def test_an_address_of_another_node_is_not_given_away() -> None:
    other = newborn(Wish("n2", ("10.0.0.1",)))
    said = refused(WISH, None, [other], [], alive=False, peer="10.0.0.1")
    assert said == "node n1 cannot have the address 10.0.0.1: it is node n2's"


def test_a_masters_address_is_for_who_speaks_from_it() -> None:
    said = refused(WISH, None, [], ["10.0.0.1"], alive=False, peer="10.0.0.66")
    assert said == "node n1 cannot have the address 10.0.0.1: it is a master's"
    for peer in ("10.0.0.1", "127.0.0.1"):
        assert refused(WISH, None, [], ["10.0.0.1"], alive=False, peer=peer) == ""


def test_the_certificate_speaks_for_the_node_and_its_object() -> None:
    found = identity(WISH, "u1")
    assert (found.common_name, found.organizations) == ("system:node:n1", ("system:nodes",))
    assert (found.names, found.serial) == (("10.0.0.1", "n1"), "u1")
    assert node_name(found.common_name, found.organizations) == "n1"
    assert node_name("admin", ("system:nodes",)) == ""
    assert node_name("system:node:n1", ("system:masters",)) == ""


def test_a_newborn_node_says_where_it_is() -> None:
    node = newborn(WISH)
    assert addresses(node) == {"10.0.0.1"}
    assert node.metadata.label("kubernetes.io/arch") == "amd64"


# --- what a node may write -----------------------------------------------------------------


def pod(node: str = "n1", *, mirror: bool = False) -> Pod:
    notes = {MIRROR: "x"} if mirror else None
    meta = ObjectMeta(name="p", namespace="d", annotations=notes)
    return Pod(metadata=meta, spec=PodSpec(node_name=node))


def changed(**meta: Any) -> Pod:
    return replace(pod(), metadata=replace(pod().metadata, **meta))


def node(name: str = "n1", *places: str) -> Node:
    said = tuple(NodeAddress(type="InternalIP", address=place) for place in places)
    return Node(metadata=ObjectMeta(name=name), status=NodeStatus(addresses=said))


def holding(*cidrs: str) -> Node:
    return replace(node(), spec=NodeSpec(pod_cidr=cidrs[0], pod_cidrs=cidrs))


EVENT = Event(metadata=ObjectMeta(name="e", namespace="d"))


@pytest.mark.parametrize(
    ("operation", "kind", "subresource", "obj", "old"),
    [
        (CREATE, "Node", "", node(), None),
        (UPDATE, "Node", "", node(), node()),
        (UPDATE, "Node", "status", node(), node()),
        (UPDATE, "Node", "", holding("172.16.1.0/24"), holding("172.16.0.0/24")),
        (UPDATE, "Node", "", holding("172.16.0.0/20"), holding("172.16.0.0/20")),  # an admin's
        (UPDATE, "Pod", "status", pod(), pod()),
        (DELETE, "Pod", "", pod(), pod()),
        (CREATE, "Pod", "", pod(mirror=True), None),
        (CREATE, "Event", "", EVENT, None),
        (UPDATE, "Event", "", EVENT, EVENT),
    ],
)
def test_a_node_writes_what_is_its_own(
    operation: str, kind: str, subresource: str, obj: Object, old: Object | None
) -> None:
    assert refuse("n1", operation, kind, subresource, obj, old) == ""


@pytest.mark.parametrize(
    ("operation", "kind", "subresource", "obj", "old"),
    [
        (CREATE, "Node", "", node("n2"), None),
        (UPDATE, "Node", "status", node("n2"), node("n2")),
        (DELETE, "Node", "", node(), node()),
        (UPDATE, "Pod", "status", pod("n2"), pod("n2")),
        (UPDATE, "Pod", "status", pod("n1"), pod("n2")),  # it says that it is ours: it is not
        (UPDATE, "Node", "", holding("0.0.0.0/0"), node()),
        (UPDATE, "Node", "", holding("172.16.0.0/23"), holding("172.16.0.0/24")),
        (UPDATE, "Node", "", holding("172.16.0.0/24", "172.16.1.0/24"), node()),
        (UPDATE, "Node", "", holding("fd00::/64"), node()),
        (UPDATE, "Pod", "", pod(), pod()),
        (UPDATE, "Pod", "status", changed(labels={"app": "web"}), pod()),
        (UPDATE, "Pod", "status", changed(finalizers=("a/b",)), pod()),
        (UPDATE, "Pod", "status", changed(owner_references=(OwnerReference(uid="1"),)), pod()),
        (UPDATE, "Pod", "binding", pod(), pod("")),
        (DELETE, "Pod", "", pod("n2"), pod("n2")),
        (CREATE, "Pod", "", pod(), None),
        (CREATE, "Pod", "", pod("n2", mirror=True), None),
        (DELETE, "Event", "", EVENT, EVENT),
        (CREATE, "Service", "", Service(metadata=ObjectMeta(name="s")), None),
        (UPDATE, "ReplicationController", "scale", node(), node()),
    ],
)
def test_a_node_writes_nothing_else(
    operation: str, kind: str, subresource: str, obj: Object, old: Object | None
) -> None:
    assert refuse("n1", operation, kind, subresource, obj, old).startswith("node n1 may")


def test_a_node_does_not_take_another_ones_address() -> None:
    old, others = node("n1", "10.0.0.1"), [node("n1", "10.0.0.1"), node("n2", "10.0.0.2")]
    assert borrowed(old, old, others) == ""
    assert borrowed(node("n1", "10.0.0.9"), old, others) == ""  # it moved
    said = borrowed(node("n1", "10.0.0.1", "10.0.0.2"), old, others)
    assert said == "node n1 may not have the address 10.0.0.2: it is node n2's"
    # What it has by an admin's hand does not keep it from reporting.
    assert borrowed(node("n1", "10.0.0.2"), node("n1", "10.0.0.2"), others) == ""
