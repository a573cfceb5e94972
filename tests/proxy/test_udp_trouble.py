"""UDP under floods of invented senders."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from tests.netfilter.sites import Site
from tests.proxy.test_portals import asked, udp_greeter
from tests.proxy.world import NODE, OUTSIDE, Datagrams, Net, running, udp_socket, until

from k8slite.netfilter.edge import Edge
from k8slite.roles.proxy.udp.listener import MAX_SESSIONS

PORTAL = "192.168.3.214"
FLOOD = 20_000
NewEdge = Callable[[], Edge]


@asynccontextmanager
async def flooding(site: Site, address: str, port: int) -> AsyncIterator[asyncio.Event]:
    """A process in ``site`` that sends a flood; the event tells its end."""
    over = asyncio.Event()
    process = await asyncio.create_subprocess_exec(
        *site.inside(sys.executable, "-m", "tests.proxy.flood"),
        *("udp", address, str(port), str(FLOOD)),
        stdout=asyncio.subprocess.PIPE,
    )

    async def wait() -> None:
        await process.communicate()
        over.set()

    waiting = asyncio.create_task(wait())
    try:
        yield over
        await over.wait()
    finally:
        await waiting


async def is_answered(client: Datagrams, question: bytes) -> bool:
    """Ask; the question is repeated when its answer is not there within a moment."""
    for _ in range(20):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                client.transport.sendto(question)  # type: ignore[attr-defined]
                while (await client.heard.get())[0] != b"a:" + question:
                    pass  # the answer to an elder question
                return True
    return False


async def goes_on(client: Datagrams, over: asyncio.Event) -> int:
    """Ask again and again until ``over``. Returns how many were answered."""
    answered = 0
    while not over.is_set():
        assert await is_answered(client, b"%d" % answered), f"starved after {answered} answers"
        answered += 1
    return answered


@pytest.mark.parametrize("past_the_portal", [False, True])
def test_a_live_client_goes_on_in_a_flood_and_nothing_is_left_of_it(
    net: Net, new_edge: NewEdge, past_the_portal: bool
) -> None:
    async def story() -> None:
        async with running(new_edge, udp_idle=0.5) as world, udp_greeter(b"a") as endpoint:
            await world.serve("dns", PORTAL, [endpoint], protocol="UDP", port=53)
            counters = world.proxy.counters.ports["default/dns:"]
            async with udp_socket(remote=(PORTAL, 53)) as client:
                assert await asked(client) == b"a:hello"
                assert await asked(client) == b"a:hello"
                before = len(os.listdir("/proc/self/fd"))
                target = (PORTAL, 53)
                if past_the_portal:
                    target = (NODE, world.proxy.listeners.ports["default/dns:"])
                async with flooding(net.outside, *target) as over:
                    assert await goes_on(client, over)
                    assert counters.active <= MAX_SESSIONS
                    turns = world.proxy.listeners._reactor._turns
                    assert len(turns) == len(set(turns))
                    assert len(os.listdir("/proc/self/fd")) <= before + MAX_SESSIONS + 10
                assert await is_answered(client, b"after the flood")
                if past_the_portal:
                    assert counters.connections <= 40  # ours, anew after a silence
                    assert counters.strangers > 1_000
                else:
                    assert counters.connections > 1_000
                await until(lambda: counters.active == 0)
                await until(lambda: len(os.listdir("/proc/self/fd")) <= before)

    net.node.ip("route", "add", "10.0.0.0/8", "via", OUTSIDE)
    net.outside.ip("route", "add", "blackhole", "10.0.0.0/8")
    try:
        net.node.do(story())
    finally:
        net.node.ip("route", "del", "10.0.0.0/8")
        net.outside.ip("route", "del", "blackhole", "10.0.0.0/8")


def test_the_last_descriptors_are_not_for_clients(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, udp_greeter(b"a") as endpoint:
            await world.serve("dns", PORTAL, [endpoint], protocol="UDP", port=53)
            counters = world.proxy.counters.ports["default/dns:"]
            listener = world.proxy.listeners["default/dns:"]
            async with (
                udp_socket(remote=(PORTAL, 53)) as early,
                udp_socket(remote=(PORTAL, 53)) as late,
            ):
                assert await asked(early) == b"a:hello"
                usual, listener._ceiling = listener._ceiling, 0  # type: ignore[union-attr]
                late.transport.sendto(b"too many")  # type: ignore[attr-defined]
                assert await asked(early) == b"a:hello"  # it came later and was served
                assert (counters.connections, counters.active) == (1, 1)
                listener._ceiling = usual  # type: ignore[union-attr]
                assert await asked(late) == b"a:hello"

    net.node.do(story())
