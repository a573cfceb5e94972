"""The ports without authentication: the cluster's nodes are welcome there, their pods are not;
evictions; and the node API, where masters alone are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from masters import LOOPBACK, Master

from k8slite.api.errors import BadRequest, MethodNotAllowed, NotFound
from k8slite.api.kinds import NODE, POD
from k8slite.api.kinds.node.types import Node, NodeAddress, NodeSpec, NodeStatus
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec
from k8slite.api.meta import ObjectMeta
from k8slite.client.http import HttpClient
from k8slite.roles.apiserver.doors import PlainDoor, ReadOnlyDoor
from k8slite.roles.apiserver.vouching import Vouching

PLACES = ("203.0.113.7", "2001:db8::7")


def node(name: str, *addresses: str) -> Node:
    places = tuple(NodeAddress(type="InternalIP", address=address) for address in addresses)
    return Node(
        metadata=ObjectMeta(name=name),
        spec=NodeSpec(pod_cidr="172.16.7.0/24"),
        status=NodeStatus(addresses=(*places, NodeAddress(type="Hostname", address=name))),
    )


@pytest.fixture
def vouching(master: Master) -> Vouching:
    found = Vouching(master.registry, "172.16.0.0/16")
    found.open()
    return found


async def test_nodes_are_welcome_as_long_as_they_are_nodes(
    master: Master, vouching: Vouching
) -> None:
    doors = (PlainDoor(is_node=vouching.is_node), ReadOnlyDoor(vouching.is_node))
    async with HttpClient(master.admin()) as admin:
        for door in doors:
            assert not door.welcomes(PLACES[0])
        await admin.create(node("n1", *PLACES))
        for door in doors:
            assert all(door.welcomes(place) for place in PLACES)
            assert not door.welcomes("203.0.113.8")
            assert not door.welcomes("172.16.7.2")  # one of its pods
        moved = await admin.get(NODE, "n1")
        await admin.update(
            Node(metadata=moved.metadata, spec=moved.spec, status=node("n1", "203.0.113.9").status),
            subresource="status",
        )
        assert [doors[0].welcomes(ip) for ip in (PLACES[0], "203.0.113.9")] == [False, True]
        await admin.delete(NODE, "n1")
        for door in doors:
            assert not door.welcomes("203.0.113.9")


async def test_a_pods_address_is_not_welcome_whatever_a_node_says(
    master: Master, vouching: Vouching
) -> None:
    async with HttpClient(master.admin()) as admin:
        await admin.create(node("n1", PLACES[0], "172.16.7.2"))
    assert vouching.is_node(PLACES[0])
    assert not vouching.is_node("172.16.7.2")


async def test_nodes_that_were_there_before_the_server_are_known(
    master: Master, vouching: Vouching
) -> None:
    async with HttpClient(master.admin()) as admin:
        await admin.create(node("n1", *PLACES))
    later = Vouching(master.registry)
    later.open()
    assert later.is_node(PLACES[0])
    assert not later.is_node("n1")


class Line(asyncio.Transport):
    """A connection that can only be cut."""

    cut = False

    def abort(self) -> None:
        self.cut = True


async def test_what_a_node_has_open_by_its_address_ends_with_the_address(
    master: Master, vouching: Vouching
) -> None:
    async with HttpClient(master.admin()) as admin:
        await admin.create(node("n1", *PLACES))
        second = Node(
            metadata=ObjectMeta(name="n2"), status=node("n2", "203.0.113.8", LOOPBACK).status
        )
        await admin.create(second)
        lines = {place: Line() for place in (*PLACES, "203.0.113.8", "203.0.113.99", LOOPBACK)}
        for place, line in lines.items():
            vouching.entered(place, line)
        left = await admin.get(NODE, "n1")
        moved = Node(metadata=left.metadata, spec=left.spec, status=node("n1", PLACES[1]).status)
        await admin.update(moved, subresource="status")
        assert [place for place, line in lines.items() if line.cut] == [PLACES[0]]
        await admin.delete(NODE, "n1")
        assert [place for place, line in lines.items() if line.cut] == list(PLACES)
        await admin.delete(NODE, "n2")
        # This host is at home here, whatever becomes of its Node.
        assert not lines[LOOPBACK].cut
        assert not lines["203.0.113.99"].cut
        assert lines["203.0.113.8"].cut


# --- evictions -----------------------------------------------------------------------------

EVICT = "/api/v1/namespaces/default/pods/p/eviction"


async def test_an_evicted_pod_is_deleted(master: Master, tmp_path: Path) -> None:
    async with HttpClient(f"http://{LOOPBACK}:{master.server.ports['insecure']}") as client:
        spec = PodSpec(containers=(Container(name="c", image="i"),))
        await client.create(Pod(metadata=ObjectMeta(name="p", namespace="default"), spec=spec))
        for body, error in (
            (b'{"metadata":{"name":"q"}}', "does not match the name on the URL"),
            (b'{"deleteOptions":{"gracePeriodSeconds":-1}}', "must not be negative"),
            (b'{"deleteOptions":{"dryRun":["Some"]}}', "is not All"),
        ):
            with pytest.raises(BadRequest, match=error):
                await client.request("POST", EVICT, body=body)
        await client.request("POST", EVICT, body=b'{"deleteOptions":{"dryRun":["All"]}}')
        assert (await client.get(POD, "p", "default")).metadata.deletion_timestamp is None
        with pytest.raises(MethodNotAllowed):
            await client.request("GET", EVICT)
        for version in ("policy/v1", "policy/v1beta1"):
            body = b'{"kind":"Eviction","apiVersion":"%b","metadata":{"name":"p"}}'
            try:
                answer = await client.request("POST", EVICT, body=body % version.encode())
                assert (answer.status, answer.json()["status"]) == (201, "Success")
            except NotFound:
                assert version == "policy/v1beta1"
        with pytest.raises(NotFound):
            await client.get(POD, "p", "default")
