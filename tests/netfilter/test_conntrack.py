"""What connection tracking tells of UDP flows that a rule has rewritten, over IPv4 and IPv6."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest
from tests.netfilter.sites import Site

from k8slite.netfilter.conntrack import Conntrack, Flow, forget_flows
from k8slite.netfilter.edge import NetfilterError


class Portal(NamedTuple):
    """An address that nobody has, and one of the host."""

    address: str
    local: str


PORTALS = [Portal("192.168.3.53", "127.0.0.1"), Portal("fd00:3::53", "::1")]
RULES = """
table inet rewriting {
  chain output {
    type nat hook output priority -100
    ip daddr 192.168.3.53 udp dport 53 redirect to :5353
    ip6 daddr fd00:3::53 udp dport 53 redirect to :5353
  }
}
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Site]:
    with Site("host") as site:
        site.ip("route", "add", "default", "dev", "lo")
        site.ip("-6", "route", "add", "default", "dev", "lo")
        site.run("nft", "-f", "-", input=RULES)
        yield site


def send(stack: ExitStack, target: tuple[str, int]) -> tuple[str, int]:
    """A datagram from a socket that stays open; its address."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    sock.connect(target)
    sock.send(b"?")
    return sock.getsockname()[:2]  # type: ignore[no-any-return]


@pytest.mark.parametrize("portal", PORTALS)
def test_it_tells_where_a_client_addressed_its_flow(host: Site, portal: Portal) -> None:
    async def story() -> None:
        with ExitStack() as stack, closing(Conntrack()) as conntrack:
            server = (portal.local, 5353)
            client = send(stack, (portal.address, 53))
            assert conntrack.original_target(server, client) == (portal.address, 53)
            stranger = send(stack, server)
            assert conntrack.original_target(server, stranger) == server
            assert conntrack.original_target(server, (portal.local, 9)) is None

    host.do(story())


@pytest.mark.parametrize("portal", PORTALS)
@pytest.mark.parametrize("picks", [True, False])
def test_flows_are_found_by_where_they_were_sent(
    host: Site, portal: Portal, picks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not picks:  # a kernel that does not know of filters
        monkeypatch.setattr("k8slite.netfilter.conntrack._picked", lambda *_: b"")

    async def story() -> None:
        with ExitStack() as stack, closing(Conntrack()) as conntrack:
            wanted = {send(stack, (portal.address, 53)) for _ in range(3)}
            for other in ((portal.local, 53), (portal.address, 54)):
                send(stack, other)
            for target in ((portal.address, 53), ("", 53)):
                found = conntrack.flows(socket.IPPROTO_UDP, target)
                assert wanted <= {flow.source for flow in found}
                assert {flow.target[1] for flow in found} == {53}
                if target[0]:
                    assert {flow.target[0] for flow in found} == {portal.address}
            assert conntrack.flows(socket.IPPROTO_TCP, (portal.address, 53)) == []

    host.do(story())


@pytest.mark.parametrize("portal", PORTALS)
def test_a_flow_that_is_forgotten_is_gone(host: Site, portal: Portal) -> None:
    async def story() -> None:
        with ExitStack() as stack, closing(Conntrack()) as conntrack:
            client = send(stack, (portal.address, 53))
            flow = Flow(client, (portal.address, 53), (portal.local, 5353), client)
            assert flow in conntrack.flows(socket.IPPROTO_UDP)
            conntrack.forget(flow)
            assert flow not in conntrack.flows(socket.IPPROTO_UDP)
            conntrack.forget(flow)  # no error

    host.do(story())


@pytest.mark.parametrize("portal", PORTALS)
def test_flows_to_a_listener_of_yesterday_are_forgotten(host: Site, portal: Portal) -> None:
    async def story() -> None:
        with ExitStack() as stack, closing(Conntrack()) as conntrack:
            client = send(stack, (portal.address, 53))
            written = portal.address.replace("fd00:3::53", "FD00:3:0::0053")  # by hand, in a file
            forget_flows({(written, 53): 5353})
            assert conntrack.original_target((portal.local, 5353), client)
            forget_flows({(written, 53): 6000})
            assert not conntrack.original_target((portal.local, 5353), client)

    host.do(story())


def test_a_kernel_that_does_not_answer_is_trouble_of_netfilter() -> None:
    """Which the proxy says and outlives."""
    conntrack = Conntrack()
    conntrack.close()
    with pytest.raises(NetfilterError, match="connection tracking: Bad file descriptor"):
        conntrack.flows(socket.IPPROTO_UDP)
