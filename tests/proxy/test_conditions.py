"""Trouble of a node is said on the service, as an event and as a condition, while it lasts."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.proxy.test_portals import PORTAL, PUBLIC, greeters
from tests.proxy.test_seen_from_outside import agent, ctl
from tests.proxy.world import (
    NODE,
    Net,
    World,
    ask,
    endpoints_object,
    running,
    service_object,
    until,
)

from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.api.meta import Condition
from k8slite.decide import serving
from k8slite.decide.serving import condition_of
from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import ChosenEdge
from k8slite.netfilter.edge import Drifted, Edge, Unsupported
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.joined import JoinedEdge
from k8slite.netfilter.nft.edge import TableEdge
from k8slite.netfilter.portals import Change, Desired
from k8slite.netfilter.restore import NftEdge
from k8slite.roles.proxy.telling import troubles

NewEdge = Callable[[], Edge]
PORTS = (ServicePort(port=80, protocol="TCP"),)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "SETTLE", 0.05)
    monkeypatch.setattr(troubles, "AGAIN", 0.2)


def reason(world: World, name: str) -> str:
    """Of this node's condition on a service; "" without one."""
    condition = condition_of(world.service(name), NODE)
    return condition.reason if condition else ""


def test_a_table_that_another_tool_holds_is_said_and_written_once_it_is_free(
    net: Net, tmp_path: Path
) -> None:
    lock = tmp_path / "xtables.lock"

    def new_edge() -> Edge:
        return LegacyEdge(Clock(), lock_wait=0.1, lock_path=lock)

    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints:
            await world.serve("early", PORTAL, endpoints)
            with lock.open("w") as other:
                fcntl.flock(other, fcntl.LOCK_EX)
                for name, address in (("one", "192.168.3.7"), ("two", "192.168.3.8")):
                    await world.put(
                        endpoints_object(name, endpoints), service_object(name, address, PORTS)
                    )
                    await until(lambda name=name: reason(world, name) == serving.NOT_WRITTEN)
                said = condition_of(world.service("one"), NODE)
                assert said is not None
                assert str(lock) in said.message
                assert {event[:2] for event in world.recorded.events} == {
                    ("default/one", serving.NOT_WRITTEN), ("default/two", serving.NOT_WRITTEN),
                }  # fmt: skip
                assert not reason(world, "early")
                assert await ask(PORTAL, 80) == b"0"  # what is written goes on
            await until(lambda: world.proxy.settled, seconds=5)
            assert await ask("192.168.3.7", 80) == b"0"
            await until(lambda: not reason(world, "one") and not reason(world, "two"))
            assert len(world.recorded.events) == 2

    net.node.do(story())


def test_what_stands_in_the_table_does_not_wait_for_who_holds_the_chains(
    net: Net, tmp_path: Path
) -> None:
    lock = tmp_path / "xtables.lock"

    def new_edge() -> Edge:
        chains = LegacyEdge(Clock(), lock_wait=0.1, lock_path=lock)
        return JoinedEdge(chains, TableEdge("172.16.0.0/16", "pod0"), 1)

    async def story() -> None:
        # The kubernetes service takes the only place in the chains.
        async with running(new_edge) as world, greeters(1) as endpoints:
            with lock.open("w") as other:
                fcntl.flock(other, fcntl.LOCK_EX)
                chained = service_object("kubernetes", "192.168.3.2", PORTS)
                await world.put(chained)
                await until(lambda: reason(world, "kubernetes") == serving.NOT_WRITTEN)
                await world.put(
                    endpoints_object("web", endpoints), service_object("web", PORTAL, PORTS)
                )
                await until(lambda: PORTAL in net.node.run("nft", "list", "ruleset"))
                assert await ask(PORTAL, 80) == b"0"
            await until(lambda: world.proxy.settled)
            await until(lambda: not reason(world, "kubernetes") and not reason(world, "web"))

    net.node.do(story())


class Failing(TableEdge):
    """A table that cannot be written for ``error``, as long as there is one."""

    error: Exception | None = None

    async def sync(self, desired: Desired) -> Change:
        if self.error is not None:
            raise self.error
        return await super().sync(desired)

    async def change(self, change: Change) -> None:
        if self.error is not None:
            raise self.error
        await super().change(change)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Drifted("somebody changed it"), "somebody changed it; again and again"),
        (KeyError("what nobody thought of"), "what nobody thought of"),
    ],
)
def test_rules_that_never_come_to_rest_and_faults_of_ours_are_told_and_outlived(
    net: Net, error: Exception, told: str
) -> None:
    edge = Failing("172.16.0.0/16", "pod0")

    async def story() -> None:
        async with running(lambda: edge) as world, greeters(1) as endpoints:
            await world.serve("early", PORTAL, endpoints)
            edge.error = error
            await world.put(
                endpoints_object("web", endpoints), service_object("web", "192.168.3.7", PORTS)
            )
            await until(lambda: reason(world, "web") == serving.NOT_WRITTEN)
            said = condition_of(world.service("web"), NODE)
            assert said is not None
            assert told in said.message
            assert not reason(world, "early")
            assert await ask(PORTAL, 80) == b"0"
            edge.error = None
            await until(lambda: world.proxy.settled)
            assert await ask("192.168.3.7", 80) == b"0"
            await until(lambda: not reason(world, "web"))

    net.node.do(story())


def test_each_change_is_written_once(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints:
            with socket.socket() as other:
                other.bind(("0.0.0.0", 30080))
                await world.serve("web", PORTAL, endpoints, node_port=30080, type="NodePort")
                await until(lambda: reason(world, "web") == serving.PORT_TAKEN)
                written = world.service("web").metadata.resource_version
                # Endpoints come and go, and the port is tried again: nothing new to say.
                for _ in range(3):
                    await world.put(endpoints_object("web", []))
                    await world.put(endpoints_object("web", endpoints))
                    await until(lambda: world.proxy.settled)
                await asyncio.sleep(2 * troubles.AGAIN)
                assert world.service("web").metadata.resource_version == written
            await until(lambda: not reason(world, "web"))
            assert world.service("web").status.conditions == ()

    net.node.do(story())


def test_a_conflict_names_the_owner_and_ends_when_the_address_passes_on(
    net: Net, new_edge: NewEdge
) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(2) as endpoints:
            await world.serve("first", PORTAL, endpoints[:1], external_ips=(PUBLIC,))
            await world.serve("second", "192.168.3.9", endpoints[1:], external_ips=(PUBLIC,))
            await until(lambda: reason(world, "second") == serving.PORTAL_CONFLICT)
            said = condition_of(world.service("second"), NODE)
            assert said is not None
            assert f"{PUBLIC} port 80/tcp belongs to default/first:" in said.message
            assert not reason(world, "first")
            await world.gone("first")
            assert await ask(PUBLIC, 80) == b"1"
            await until(lambda: not reason(world, "second"))

    net.node.do(story())


def test_a_proxy_that_starts_takes_back_what_is_no_longer_true(net: Net, new_edge: NewEdge) -> None:
    stale = Condition(
        type=serving.kind_of(NODE), status="False", reason=serving.PORT_TAKEN,
        message="long ago", last_transition_time="2026-01-01T00:00:00Z",
    )  # fmt: skip
    others = replace(stale, type=serving.kind_of("192.168.7.11"))

    async def story() -> None:
        async with running(new_edge) as world:
            before = service_object("web", PORTAL, PORTS)
            status = type(before.status)(conditions=(stale, others))
            await world.put(Service(metadata=before.metadata, spec=before.spec, status=status))
            await until(lambda: not reason(world, "web"))
            assert world.service("web").status.conditions == (others,)

    net.node.do(story())


class _Refusing(NftEdge):
    """A kernel without the tables that this edge writes."""

    name = "refusing"
    refuses = True
    asked = 0

    async def probe(self) -> None:
        _Refusing.asked += 1
        if self.refuses:
            raise Unsupported("this kernel has neither legacy tables nor nftables")
        await super().probe()


def test_a_kernel_without_any_tables_is_said_and_tried_again(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        chosen = ChosenEdge((_Refusing(), _Refusing()))
        proxying = running(lambda: chosen)
        entering = asyncio.create_task(proxying.__aenter__())
        # ``running`` waits for its first service's rules; both edges are asked twice meanwhile.
        await until(lambda: _Refusing.asked >= 4)
        assert not entering.done()
        monkeypatch.setattr(_Refusing, "refuses", False)
        world = await entering
        assert world.recorded.events[0][:2] == ("default/kubernetes", serving.NOT_WRITTEN)
        assert "neither legacy tables nor nftables" in world.recorded.events[0][2]
        assert chosen.name == "refusing"
        await proxying.__aexit__(None, None, None)

    net.node.do(story())


def test_ipv6_without_nftables_is_said(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints, external_ips=("2001:db8::5",))
            await until(lambda: reason(world, "web") == serving.NO_FAMILY)
            assert await ask(PORTAL, 80) == b"0"

    net.node.do(story())


def test_so_many_services_have_a_condition_and_no_more(
    net: Net, new_edge: NewEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(troubles, "MOST", 2)

    async def story() -> None:
        async with running(new_edge) as world:
            await world.serve("first", PORTAL, [], external_ips=(PUBLIC,))
            for number in range(4):
                await world.serve(
                    f"s{number}", f"192.168.3.{number + 20}", [], external_ips=(PUBLIC,)
                )
            await until(lambda: sum(bool(reason(world, f"s{n}")) for n in range(4)) == 2)
            assert len(world.recorded.events) == 4

    net.node.do(story())


def test_an_operator_sees_it_in_describe(net: Net, tmp_path: Path) -> None:
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]},
    }  # fmt: skip

    async def described(word: str) -> str:
        while word not in (text := (await ctl("describe", "service", "web"))[0]):
            continue
        return text

    async def story() -> None:
        file = tmp_path / "web.json"
        file.write_text(json.dumps(service))
        async with agent(tmp_path), asyncio.timeout(60):
            with socket.create_server(("0.0.0.0", 30080)):
                while (await ctl("create", "-f", str(file)))[1]:
                    pass  # the agent is about to come up
                text = await described("Served-on")
                [line] = [ln for ln in text.splitlines() if "Served-on" in ln]
                assert line.split()[:3] == [serving.kind_of(NODE), "False", serving.PORT_TAKEN]
                assert "node port 30080/tcp: something else on this host uses it" in line

    try:
        net.node.do(story(), timeout=90)
    finally:
        net.node.run("iptables-legacy", "-w", "-t", "nat", "-F")
