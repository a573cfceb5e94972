"""A router sees the routes to our addresses come and go; ExaBGP is on both sides."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lan import ADDRESS, CLIENT, Lan, lan, until
from router import AS, Router
from simulated import endpoints, service

from k8slite.decide.outside import Peer
from k8slite.network.bgp import configuration

pytestmark = [pytest.mark.lab]


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that ExaBGP's own user can read."""
    made = Path(tempfile.mkdtemp(prefix="k8slite-bgp-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def children(one: object) -> list[int]:
    """The ExaBGP processes of a namespace."""
    found = []
    for pid in one.site.pids():  # type: ignore[attr-defined]
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
            if b"exabgp" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_routes_come_and_go(folder: Path) -> None:
    peer = f"{CLIENT}={AS}"
    nodes = ("192.168.0.10", "192.168.0.11")
    with lan(folder, 2, announce="bgp", bgp_peer=(peer,)) as site:
        with Router(site.client, CLIENT, nodes, folder / "router") as router:
            story(site, router)
        for one in site.nodes:
            one.stop()
            assert children(one) == []
            assert not one.folder.exists()


def story(site: Lan, router: Router) -> None:
    one, two = site.nodes

    def leads(*nodes: object) -> bool:
        hops = {node.address for node in nodes}  # type: ignore[attr-defined]
        return router.routes() == ({ADDRESS: hops} if hops else {})

    until(lambda: router.sessions() == {one.address, two.address}, 30)
    assert leads(), "sessions stand before there is an address"
    site.serve(one, two)
    until(lambda: leads(one, two))
    assert "AddressAnnounced" in one.recorded.reasons()
    site.tell(endpoints("web"))
    until(lambda: leads())
    site.serve(two, external_traffic_policy="Local")
    until(lambda: leads(two))
    site.serve(one, two)
    until(lambda: leads(one, two))

    (child,) = children(one)
    status = Path(f"/proc/{child}/status").read_text()
    assert "Uid:\t0" not in status, "it may do nothing here"
    os.kill(child, signal.SIGKILL)
    until(lambda: leads(two))
    until(lambda: leads(one, two), 30)  # a new child tells all

    site.cut(one)
    silence = until(lambda: leads(two), 30)
    print(f"cut: the router forgot after {silence:.1f} s")
    site.heal(one)
    until(lambda: leads(one, two), 60)

    one.stop()
    until(lambda: leads(two))
    assert "Hold timer" not in router.partings()[-1], "it says good-bye"
    site.tell(service("web"), gone=True)
    until(lambda: leads())


_AGENT = """\
import asyncio, sys
from pathlib import Path
from k8slite.decide.outside import Peer
from k8slite.kit.clock import Clock
from k8slite.network.exabgp import ExaBgp

async def main():
    voice = ExaBgp("192.168.0.10", 64512, [Peer("192.168.0.99", 65000)], Path(sys.argv[1]), Clock())
    await voice.say(frozenset({"192.168.0.240"}))
    await voice.run()

asyncio.run(main())
"""


def test_the_routes_of_an_agent_that_is_killed_are_withdrawn_at_once(folder: Path) -> None:
    with lan(folder, 1) as site:
        one = site.nodes[0]
        with Router(site.client, CLIENT, (one.address,), folder / "router") as router:
            words = (sys.executable, "-c", _AGENT, str(folder / "conf"))
            agent = one.site.start(*words, log=folder / "agent.log")
            until(lambda: router.routes() == {ADDRESS: {one.address}}, 30)
            agent.kill()
            agent.wait()
            until(lambda: router.routes() == {})
            assert "Hold timer" not in router.partings()[-1], "its child says good-bye"
            until(lambda: children(one) == [])


def test_without_exabgp_it_is_said_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8slite.network.exabgp.PROGRAM", "exabgp-is-not-here")
    with lan(folder, 1, announce="bgp", bgp_peer=(CLIENT,)) as site:
        one = site.nodes[0]
        site.serve(one)
        until(lambda: "AddressNotAnnounced" in one.recorded.reasons())
        assert any("apt-get install exabgp" in text for _, _, text in one.recorded.told)


def test_each_peer_is_told_of_addresses_of_its_own_family() -> None:
    peers = (Peer("192.168.0.1", 64513), Peer("fd00::1", 64512), Peer("fd00::2", 64512))
    text = configuration(
        "192.168.0.10", 64512, peers, {"192.168.0.1": "192.168.0.10", "fd00::1": "fd00::10"},
        ["192.168.0.240", "fd00::240", "192.168.0.9"],
    )  # fmt: skip
    assert (
        text
        == """\
# Written by k8slite.
neighbor 192.168.0.1 {
    router-id 192.168.0.10;
    local-address 192.168.0.10;
    local-as 64512;
    peer-as 64513;
    hold-time 3;
    family {
        ipv4 unicast;
    }
    static {
        route 192.168.0.9/32 next-hop self;
        route 192.168.0.240/32 next-hop self;
    }
}
neighbor fd00::1 {
    router-id 192.168.0.10;
    local-address fd00::10;
    local-as 64512;
    peer-as 64512;
    hold-time 3;
    family {
        ipv6 unicast;
    }
    static {
        route fd00::240/128 next-hop self;
    }
}
"""
    )
