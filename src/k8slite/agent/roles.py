"""Which roles a process has, and what it leaves on the host when it is taken away."""

from __future__ import annotations

import gc
from contextlib import nullcontext

import structlog

from k8slite.agent.master import master, start_control_plane
from k8slite.agent.node import joined
from k8slite.agent.surroundings import Around
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import choose_edge
from k8slite.network.routes import BRIDGE
from k8slite.preflight import host_claim
from k8slite.roles.proxy import Proxy

log = structlog.get_logger()


async def run(settings: Settings, clock: Clock) -> None:
    """Run this host's roles until cancelled."""
    claim = host_claim() if "i" in settings.roles else nullcontext()
    with claim:
        if "a" not in settings.roles:
            async with joined(settings, clock) as around:
                start_node(around)
                _told(settings)
            return
        async with master(settings, clock) as control:
            server = start_control_plane(control)
            await server.started.wait()
            if "i" in settings.roles:
                start_node(control.around)
            _told(settings)


def _told(settings: Settings) -> None:
    # What is there now stays. The garbage collector looking at all of it again and again would hold
    # the loop for 40 ms each time.
    gc.freeze()
    log.info("started", role=settings.roles, node=settings.node_name)


def start_node(around: Around) -> None:
    """Role i: kubelet, service proxy and overlay; with a pool of addresses, their announcer."""
    from k8slite.roles.kubelet import Kubelet
    from k8slite.roles.kubelet.docker import DockerRuntime
    from k8slite.roles.overlay import Overlay

    settings, clock = around.settings, around.clock
    runtime = DockerRuntime(settings, clock)
    overlay = Overlay(settings, around.informers, around.recorder("overlay"), clock)
    edge = choose_edge(
        clock, kernel=settings.proxy_mode == "nft", pod_network=settings.flannel_net, bridge=BRIDGE
    )
    proxy = Proxy(
        settings, around.informers, around.recorder("kube-proxy"), clock, edge,
        client=around.client,
    )  # fmt: skip
    kubelet = Kubelet(
        settings, around.client, around.informers, around.recorder("kubelet"), clock, runtime,
        around.certificates, network_trouble=lambda: overlay.trouble, services=proxy.report,
    )  # fmt: skip

    async def run_proxy() -> None:
        try:
            await proxy.run()
        finally:
            await edge.close()

    around.start("kubelet", kubelet.run)
    around.start("proxy", run_proxy)
    around.start("overlay", overlay.run)
    if settings.address_pool and settings.announce != "none":
        from k8slite.roles.announcer import announcer

        recorder = around.recorder("announcer")
        run_announcer = announcer(settings, around.informers, recorder, clock, proxy)
        around.start("announcer", run_announcer)


async def uninstall(settings: Settings) -> list[str]:
    """Remove what an agent with these settings declared on the host; says what was removed."""
    from k8slite.roles import announcer, overlay
    from k8slite.roles.kubelet.docker import DockerRuntime
    from k8slite.roles.proxy.tcp import transparent

    clock = Clock()
    removed: list[str] = await DockerRuntime(settings, clock).uninstall()
    edge = choose_edge(clock)
    left = await edge.remove()
    await edge.close()
    removed += await transparent.remove(settings)
    removed += await overlay.remove(settings)
    removed += announcer.remove()
    why = "the chain stays, empty, because somebody else's rule leads to it"
    rules = [f"rules of {chain}; {why}" for chain in left]
    return [*removed, *(rules or ["chains KUBE-PORTALS-CONTAINER and KUBE-PORTALS-HOST"])]
