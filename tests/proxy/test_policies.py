"""Where clients are brought: endpoints of this node, those on their way out, those that stay."""

from __future__ import annotations

import asyncio
import errno
import time
from collections import Counter
from socket import SocketType

from msgspec.structs import replace
from tests.netfilter.sites import Site
from tests.proxy.test_portals import (
    PORTAL,
    PUBLIC,
    NewEdge,
    asked,
    from_site,
    greeters,
    refused,
    udp_greeter,
)
from tests.proxy.world import (
    NODE,
    Net,
    ask,
    endpoints_object,
    running,
    service_object,
    udp_socket,
    until,
)

from k8slite.api.kinds.endpoints.types import Endpoints
from k8slite.api.kinds.service.proxying import WARM_UP
from k8slite.api.kinds.service.types import ServicePort
from k8slite.decide.balancing import Endpoint
from k8slite.decide.endpoints import TERMINATING
from k8slite.roles.proxy.inside import Inside


def on_nodes(endpoints: Endpoints, *nodes: str) -> Endpoints:
    """``endpoints`` with the node of each."""
    return replace(
        endpoints,
        subsets=tuple(
            replace(subset, addresses=tuple(replace(a, node_name=n) for a in subset.addresses))
            for subset, n in zip(endpoints.subsets, nodes, strict=True)
        ),
    )


def test_inside_are_pods_and_whatever_address_this_host_has(net: Net) -> None:
    inside = Inside("172.16.0.0/16")
    site: Site = net.node

    async def answers() -> list[bool]:
        return [inside(a) for a in ("172.16.5.2", "172.16.9.9", "127.0.0.1", "::1", NODE,
                                    f"::ffff:{NODE}")]  # fmt: skip

    async def others() -> list[bool]:
        return [inside(a) for a in ("192.168.7.99", "8.8.8.8", "fd00::7", "fe80::7%up0")]

    assert all(site.do(answers()))
    assert not any(site.do(others()))


def test_clients_from_outside_are_kept_to_this_node(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(2) as endpoints:
            here = on_nodes(endpoints_object("web", endpoints), NODE, "elsewhere")
            await world.serve(
                "web", PORTAL, endpoints, external_ips=(PUBLIC,), external_traffic_policy="Local"
            )
            await world.put(here)
            await until(lambda: world.proxy.settled)
            assert {await from_site(net.outside, ask(PUBLIC, 80)) for _ in range(4)} == {b"0"}
            for site in (net.node, net.pod):
                assert {await from_site(site, ask(PORTAL, 80)) for _ in range(2)} == {b"0", b"1"}

            await world.put(on_nodes(endpoints_object("web", endpoints[1:]), "elsewhere"))
            await until(lambda: world.proxy.settled)
            assert await from_site(net.outside, refused(PUBLIC, 80))
            assert await from_site(net.pod, ask(PORTAL, 80)) == b"1"

    net.node.do(story())


def test_clients_inside_are_kept_to_this_node(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(2) as endpoints:
            await world.serve("web", PORTAL, endpoints, internal_traffic_policy="Local")
            assert await refused(PORTAL, 80)  # whose node these are nobody knows
            assert await from_site(net.outside, ask(PORTAL, 80)) in (b"0", b"1")
            await world.put(on_nodes(endpoints_object("web", endpoints), "elsewhere", NODE))
            await until(lambda: world.proxy.settled)
            assert {await ask(PORTAL, 80) for _ in range(4)} == {b"1"}

    net.node.do(story())


def test_udp_clients_are_kept_to_this_node_too(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, udp_greeter(b"a") as a, udp_greeter(b"b") as b:
            await world.serve(
                "dns", PORTAL, [a, b], protocol="UDP", port=53, internal_traffic_policy="Local"
            )
            await world.put(on_nodes(endpoints_object("dns", [a, b], "UDP"), "elsewhere", NODE))
            await until(lambda: world.proxy.settled)
            for _ in range(3):
                async with udp_socket(remote=(PORTAL, 53)) as client:
                    assert await asked(client) == b"b:hello"

    net.node.do(story())


def test_those_on_their_way_out_serve_when_nobody_else_does(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(2) as endpoints:
            (_, leaving), (_, ready) = endpoints
            await world.serve("web", PORTAL, [("127.0.0.1", ready)])
            target = f'"ports":[{{"port":{leaving},"protocol":"TCP"}}]'
            told = f'[{{"addresses":[{{"ip":"127.0.0.1"}}],{target}}}]'
            for serving, expected in (((ready,), b"1"), ((), b"0")):
                there = endpoints_object("web", [("127.0.0.1", port) for port in serving])
                metadata = replace(there.metadata, annotations={TERMINATING: told})
                await world.put(replace(there, metadata=metadata))
                await until(lambda: world.proxy.settled)
                assert {await ask(PORTAL, 80) for _ in range(2)} == {expected}

    net.node.do(story())


def test_a_udp_session_moves_on_as_soon_as_its_endpoint_is_gone(
    net: Net, new_edge: NewEdge
) -> None:
    async def story() -> None:
        async with running(new_edge) as world, udp_greeter(b"a") as a, udp_greeter(b"b") as b:
            await world.serve("dns", PORTAL, [a], protocol="UDP", port=53)
            counters = world.proxy.counters.ports["default/dns:"]
            async with udp_socket(remote=(PORTAL, 53)) as client:
                assert await asked(client) == b"a:hello"
                await world.put(endpoints_object("dns", [a, b], "UDP"))
                await until(lambda: world.proxy.settled)
                assert await asked(client) == b"a:hello"  # what others do is no matter
                await world.put(endpoints_object("dns", [b], "UDP"))
                await until(lambda: world.proxy.settled)
                assert await asked(client) == b"b:hello"
                await until(lambda: counters.active == 1)

    net.node.do(story())


def test_a_udp_endpoint_that_is_gone_may_still_answer_what_it_was_asked(
    net: Net, new_edge: NewEdge
) -> None:
    async def story() -> None:
        async with running(new_edge) as world, udp_socket(local=("127.0.0.1", 0)) as slow:
            here = "127.0.0.1", slow.transport.get_extra_info("sockname")[1]
            await world.serve("dns", PORTAL, [here], protocol="UDP", port=53)
            counters = world.proxy.counters.ports["default/dns:"]
            async with udp_socket(remote=(PORTAL, 53)) as client:
                client.transport.sendto(b"hello")  # type: ignore[attr-defined]
                _, asker = await slow.heard.get()
                await world.put(endpoints_object("dns", [], "UDP"))
                await until(lambda: world.proxy.settled)
                slow.transport.sendto(b"at last", asker)  # type: ignore[attr-defined]
                assert (await client.heard.get())[0] == b"at last"
                await until(lambda: counters.active == 0)

    net.node.do(story())


def test_a_tcp_connection_lives_as_long_as_its_endpoint_does(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge, drain=0.05) as world, greeters(2) as endpoints:
            await world.serve("web", PORTAL, endpoints[:1])
            reader, writer = await asyncio.open_connection(PORTAL, 80)
            counters = world.proxy.counters.ports["default/web:"]
            await until(lambda: counters.active == 1)
            await world.put(endpoints_object("web", endpoints[1:]))
            await until(lambda: world.proxy.settled)
            assert await ask(PORTAL, 80) == b"1"
            writer.write_eof()
            assert await reader.read() == b"0"
            writer.close()
            await until(lambda: counters.active == 0)

    net.node.do(story())


def test_a_new_endpoint_gets_a_tenth_of_its_share_at_first(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(3) as endpoints:
            await world.serve("web", PORTAL, endpoints[:2])
            service = service_object("web", PORTAL, (ServicePort(port=80, protocol="TCP"),))
            meta = replace(service.metadata, annotations={WARM_UP: "3600s"})
            await world.put(replace(service, metadata=meta))
            await until(lambda: world.proxy.settled)
            await world.put(endpoints_object("web", endpoints))
            await until(lambda: world.proxy.settled)
            answers = Counter([await ask(PORTAL, 80) for _ in range(2 * 21)])
            assert answers == {b"0": 20, b"1": 20, b"2": 2}

    net.node.do(story())


def test_those_that_stay_get_equal_parts_while_others_come_and_go(
    net: Net, new_edge: NewEdge
) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(6) as endpoints:
            stay, others = endpoints[:4], endpoints[4:]
            await world.serve("web", PORTAL, endpoints)
            answers: list[bytes] = []

            async def client() -> None:
                for _ in range(15):
                    answers.append(await ask(PORTAL, 80))

            clients = asyncio.gather(*(client() for _ in range(16)))
            changes = 0
            while not clients.done():
                await world.put(endpoints_object("web", [*stay, *others[: changes % 3]]))
                await until(lambda: world.proxy.settled)
                changes += 1
            await clients
            counts = Counter(answers)
            parts = [counts[b"%d" % number] for number in range(4)]
            assert sum(counts.values()) == 240
            assert changes > 1
            assert max(parts) - min(parts) <= 1

    net.node.do(story())


def test_being_out_of_descriptors_is_held_against_no_endpoint(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as [alive]:
            dead = ("127.0.0.1", 1)
            await world.serve("web", PORTAL, [dead, alive])
            balancer = world.proxy.balancer("default/web:")
            assert balancer is not None
            upstreams = world.proxy.listeners._upstreams
            take = upstreams.take

            def take_first() -> SocketType:
                """None is left for another attempt."""
                if balancer.ejected(Endpoint(*dead), time.monotonic()):
                    raise OSError(errno.EMFILE, "too many open files")
                return take()

            upstreams.take = take_first  # type: ignore[method-assign]
            answers = [await refused(PORTAL, 80)]
            if answers == [False]:  # it was the other's turn
                answers.append(await refused(PORTAL, 80))
            upstreams.take = take  # type: ignore[method-assign]
            assert answers[-1]
            assert not balancer.ejected(Endpoint(*alive), time.monotonic())

    net.node.do(story())
