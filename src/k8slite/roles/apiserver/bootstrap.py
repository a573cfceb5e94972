"""Keeps in place what a cluster has from its first moment; writes nothing when it is right."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network

import msgspec
import structlog

from k8slite.api.errors import AlreadyExists, ApiError, NotFound
from k8slite.api.kinds import ENDPOINTS, NAMESPACE, SERVICE
from k8slite.api.kinds.endpoints.types import Endpoints
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import DeleteOptions
from k8slite.api.user import SYSTEM
from k8slite.config import Settings
from k8slite.decide import bootstrap
from k8slite.decide.bootstrap import Door
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.registry import Registry

log = structlog.get_logger()

#: Seconds between two looks.
PERIOD = 10.0
#: A master that gave no sign for so long is no endpoint of the API any more, seconds.
MASTER_GRACE = 3 * PERIOD
#: Seconds that a parting word may take.
_PARTING = 1.0


class Bootstrap:
    """Namespace ``default``; services ``kubernetes`` and ``kubernetes-ro``, whose endpoints are
    the masters that are alive (``masters``: the holders of group ``masters``)."""

    def __init__(
        self, registry: Registry, masters: Holders, settings: Settings, clock: Clock
    ) -> None:
        self._registry = registry
        self._masters = masters
        self._clock = clock
        self._net = IPv4Network(settings.portal_net)
        self._address = settings.node_ip or settings.node_name
        self._doors = (
            Door("kubernetes-ro", 80, settings.read_only_port),
            Door("kubernetes", 443, settings.secure_port),
        )

    async def run(self) -> None:
        """Look every ten seconds, and when a master comes or goes, until cancelled."""
        news = asyncio.Event()
        unsubscribe = self._masters.subscribe(lambda _: news.set())
        try:
            while True:
                news.clear()
                try:
                    await self.ensure()
                except ApiError as error:
                    log.warning("bootstrap", role="apiserver", error=error.message)
                await self._clock.wait(news, PERIOD)
        finally:
            unsubscribe()
            await self._leave()

    async def _leave(self) -> None:
        """This master is no endpoint of the API any more, if the store can be told in time."""
        try:
            async with asyncio.timeout(_PARTING):
                await self._masters.leave(self._address)
        except (ApiError, TimeoutError) as error:
            log.info("left without a word", role="apiserver", reason=str(error))

    async def ensure(self) -> None:
        """Make everything right, once. Raises ApiError."""
        await self._masters.heartbeat(self._address)
        await self._registry.read_barrier()
        try:
            self._registry.get(NAMESPACE, "", bootstrap.NAMESPACE_NAME)
        except NotFound:
            await self._create_namespace()
        for door in self._doors:
            await self._ensure_service(bootstrap.service(door, self._net))
            await self._ensure_endpoints(bootstrap.endpoints(door, self._masters.names()))

    async def _create_namespace(self) -> None:
        try:
            await self._registry.create(NAMESPACE, bootstrap.namespace(), user=SYSTEM)
        except AlreadyExists:
            return  # another master was quicker

    async def _ensure_service(self, wanted: Service) -> None:
        meta = wanted.metadata
        try:
            current = self._registry.get(SERVICE, meta.namespace, meta.name).object
        except NotFound:
            await self._create(wanted)
            return
        if bootstrap.leads_there(current, wanted):
            return
        if current.spec.cluster_ip != wanted.spec.cluster_ip:
            # A portal address never changes; the portal net of the cluster did.
            await self._registry.delete(
                SERVICE, meta.namespace, meta.name, DeleteOptions(), user=SYSTEM
            )
            await self._create(wanted)
            return

        def mended(old: Service) -> Service:
            labels = {**(old.metadata.labels or {}), **bootstrap.LABELS}
            return msgspec.structs.replace(
                old,
                metadata=msgspec.structs.replace(old.metadata, labels=labels),
                spec=msgspec.structs.replace(old.spec, ports=wanted.spec.ports, selector=None),
            )

        await self._registry.modify(SERVICE, meta.namespace, meta.name, mended, user=SYSTEM)

    async def _create(self, service: Service) -> None:
        try:
            await self._registry.create(SERVICE, service, user=SYSTEM)
        except AlreadyExists:
            return  # another master was quicker

    async def _ensure_endpoints(self, wanted: Endpoints) -> None:
        meta = wanted.metadata
        try:
            await self._registry.modify(
                ENDPOINTS, meta.namespace, meta.name,
                lambda old: msgspec.structs.replace(old, subsets=wanted.subsets), user=SYSTEM,
            )  # fmt: skip
        except NotFound:
            try:
                await self._registry.create(ENDPOINTS, wanted, user=SYSTEM)
            except AlreadyExists:
                return  # another master was quicker
