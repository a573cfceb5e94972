"""The API server: its doors on their ports, and the tasks that keep them company."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from aiohttp.web_request import BaseRequest
from aiohttp.web_server import Server

from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.pki.files import Pki
from k8slite.roles.apiserver.auth import SecureDoor
from k8slite.roles.apiserver.authority import SharedAuthority
from k8slite.roles.apiserver.dispatch import Components, Dispatcher, no_components
from k8slite.roles.apiserver.doors import (
    Connection,
    Door,
    PlainDoor,
    ReadOnlyDoor,
    own_addresses,
)
from k8slite.roles.apiserver.joining import Joining
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.vouching import Vouching
from k8slite.roles.apiserver.writing import MAX_BODY
from k8slite.store.base import StoreError
from k8slite.store.cache import WatchCache

log = structlog.get_logger()

#: Seconds that an idle connection is kept, and that answers may take once the server ends.
KEEP_ALIVE = 120.0
GRACE = 3.0

#: Seconds between looks at the certificates.
RENEW_EVERY = 86400.0

#: aiohttp's own log: what it has to say about malformed requests interests nobody.
_quiet = logging.getLogger("k8slite.http")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class PortInUse(RuntimeError):
    """A port that the server should listen on is taken."""


class _DoorServer(Server):
    """aiohttp's server with connections that know their door."""

    def __init__(self, dispatcher: Dispatcher, door: Door, vouching: Vouching) -> None:
        super().__init__(dispatcher.handle, request_factory=self._request)
        self._door = door
        self._vouching = vouching

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
        return BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=MAX_BODY
        )

    def __call__(self) -> Connection:
        return Connection(
            self,
            door=self._door,
            entered=self._vouching.entered,
            loop=self._loop,
            keepalive_timeout=KEEP_ALIVE,
            access_log=None,
            logger=_quiet,
            auto_decompress=False,
            lingering_time=2.0,
        )


class ApiServer:
    """Serves the registry. ``health`` maps names to functions that say what is wrong ("" when
    nothing is); ``components`` gives the component statuses; ``nodes`` keeps the heartbeats;
    ``authority`` is settled already."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        cache: WatchCache,
        clock: Clock,
        *,
        pki: Pki | None = None,
        health: Mapping[str, Callable[[], str]] | None = None,
        components: Components = no_components,
        nodes: Holders | None = None,
        authority: SharedAuthority | None = None,
    ) -> None:
        self.settings = settings
        self.pki = pki or Pki(settings.data_dir, clock)
        self._authority = authority
        self._vouching = Vouching(registry, settings.flannel_net)
        rotate = None if authority is None else authority.rotate
        #: Ports by door name, once started (a setting of 0 takes any free port).
        self.ports: dict[str, int] = {}
        self._joining = Joining(
            settings, registry, nodes, self.pki, clock, rotate,
            lambda: self.ports.get(SecureDoor.name, settings.secure_port),
        )  # fmt: skip
        self.dispatcher = Dispatcher(
            settings, registry, cache, clock, self.pki, health=health or {}, components=components,
            joining=self._joining, vouching=self._vouching, nodes=nodes,
        )  # fmt: skip
        self._cache = cache
        self._clock = clock
        self._adopted = asyncio.Event()
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; then end watches in good order and close every connection.

        Raises PortInUse.
        """
        await self._cache.wait_ready()
        self._vouching.open()
        await asyncio.to_thread(self._prepare)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.dispatcher.opened())
            for door, port, context in self._doors():
                server = _DoorServer(self.dispatcher, door, self._vouching)
                await stack.enter_async_context(self._listening(server, door, port, context))
            await asyncio.to_thread(self.pki.write_kubeconfig, *self._joining.servers())
            self.started.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(forever("pki", self._renew()), name="pki")
                if self._authority is not None:
                    leave = self._authority.follow(self._cache)
                    stack.callback(leave)
                    following = self._authority.run(self._adopted.set)
                    group.create_task(forever("authority", following), name="authority")
                for name, coro in self.dispatcher.tasks():
                    group.create_task(forever(name, coro), name=name)

    def _doors(self) -> list[tuple[Door, int, ssl.SSLContext | None]]:
        settings = self.settings
        is_node = self._vouching.is_node
        plain = PlainDoor(settings.insecure_allow, (settings.node_name,), is_node)
        return [
            (plain, settings.port, None),
            (SecureDoor(self.pki, self._clock), settings.secure_port, self.pki.server_context()),
            (ReadOnlyDoor(is_node), settings.read_only_port, None),
        ]

    def _prepare(self) -> None:
        """Certificates for every address that the secure port may be reached at."""
        settings = self.settings
        portal = ipaddress.ip_network(settings.portal_net, strict=False)
        addresses = (settings.node_ip, str(portal[2]), *own_addresses())
        self.pki.ensure([name for name in addresses if name], settings.node_name)

    async def _renew(self) -> None:
        """Look at the certificates every day, and when another master changed what all share; new
        connections get the new ones."""
        while True:
            await self._clock.wait(self._adopted, RENEW_EVERY)
            self._adopted.clear()
            if self._authority is not None:
                try:
                    await self._authority.settle()
                except StoreError as error:
                    log.warning("authority not looked at", role="apiserver", error=str(error))
                    continue
            await asyncio.to_thread(self._prepare)
            self.pki.reload_all()

    @asynccontextmanager
    async def _listening(
        self, server: Server, door: Door, port: int, context: ssl.SSLContext | None
    ) -> AsyncIterator[None]:
        listener = await self._listen(server, door, port, context)
        self.ports[door.name] = listener.sockets[0].getsockname()[1]
        log.info("listening", role="apiserver", door=door.name, port=self.ports[door.name])
        try:
            yield
        finally:
            listener.close()
            self.dispatcher.ongoing.end()
            server.pre_shutdown()
            await server.shutdown(GRACE)

    async def _listen(
        self, server: Server, door: Door, port: int, context: ssl.SSLContext | None
    ) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl_handshake_timeout": 10.0} if context else {}
        try:
            return await loop.create_server(
                server, "0.0.0.0", port, ssl=context, backlog=1024, reuse_address=True, **options
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            flag = {"insecure": "--port", "secure": "--secure-port"}.get(
                door.name, "--read-only-port"
            )
            raise PortInUse(
                f"port {port} (the {door.name} port of the API server) is in use: end the process "
                f"that listens there (ss -ltnp sport = :{port}) or choose another with {flag}"
            ) from error
