"""When a node starts, the elder of two services that claim one address has it, as the control plane
says, whatever their names."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace
from world import Recorded, service_object, until

from k8slite.api import codec
from k8slite.api.kinds import SCHEME, SERVICE
from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.client.informer import CacheInformers
from k8slite.config import Settings
from k8slite.decide.addresspool import Pool
from k8slite.decide.loadbalancer import plan
from k8slite.kit.clock import Clock
from k8slite.kit.loop import run_shared
from k8slite.kit.tasks import stop
from k8slite.netfilter.portals import Change
from k8slite.roles.proxy import Proxy
from k8slite.store.base import Put
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore

PUBLIC = "12.0.0.5"


class Paper:
    """An edge that takes everything and does nothing."""

    name = "paper"
    chain_room = None

    async def probe(self) -> None:
        return

    async def sync(self, desired: object) -> Change:
        return Change()

    async def change(self, change: Change) -> None:
        return

    async def intact(self) -> bool:
        return True

    async def remove(self) -> None:
        return

    async def close(self) -> None:
        return


def claims(name: str, clusterip: str, created: str) -> Service:
    made = service_object(
        name, clusterip, (ServicePort(port=80, protocol="TCP"),), external_ips=(PUBLIC,)
    )
    return replace(made, metadata=replace(made.metadata, creation_timestamp=created, uid=name))


def test_the_elder_has_it() -> None:
    younger = claims("aaa", "192.168.3.8", "2026-02-01T00:00:00Z")
    elder = claims("zzz", "192.168.3.9", "2026-01-01T00:00:00Z")
    (said,) = plan(Pool(), [younger, elder], (), "2026-03-01T00:00:00Z")
    assert said.service is younger
    assert run_shared(losers(younger, elder)) == {"default/aaa:"}


async def losers(*services: Service) -> set[str]:
    """The portals of a node, that starts among these services, which others keep from a claim."""
    clock = Clock()
    async with MemoryStore(clock) as store:
        for service in services:
            key = SERVICE.store_key("default", service.metadata.name)
            await store.commit([Put(key, codec.encode_stored(service))])
        cache = WatchCache(store, SCHEME, clock)
        settings = Settings(node_name="127.0.0.1", node_ip="127.0.0.1")
        proxy = Proxy(
            settings, CacheInformers(cache), Recorded(), clock, Paper(), health_port=None
        )  # fmt: skip
        jobs = [asyncio.create_task(cache.run()), asyncio.create_task(proxy.run())]
        try:
            await until(lambda: len(proxy.listeners.ports) == 2)
            return set(proxy._losing)
        finally:
            for job in jobs:
                await stop(job)
