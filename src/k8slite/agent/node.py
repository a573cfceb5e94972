"""Role i alone: a machine that joined masters elsewhere.

It writes through the API always. It reads through the API too, each kind once and its own pods
alone, or straight from etcd where it is told of one: then the masters have less to send, and etcd
must be as well guarded as they are.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from k8slite.agent.surroundings import Around
from k8slite.api.kinds import SCHEME
from k8slite.client.base import Informers
from k8slite.client.http import HttpClient
from k8slite.client.informer import CacheInformers
from k8slite.client.reflector import RemoteInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.preflight import BadSettings
from k8slite.roles.kubelet.docker.pause import architecture
from k8slite.roles.kubelet.identity import NodeIdentity
from k8slite.store.cache import WatchCache
from k8slite.store.opening import opened

#: Below it lies what nodes may read; the authority does not.
_OBJECTS = "/registry/"


@asynccontextmanager
async def joined(settings: Settings, clock: Clock) -> AsyncIterator[Around]:
    """Joined to the masters, with a client to all of them.

    Raises JoinRefused, BadSettings, StoreUnavailable.
    """
    identity = NodeIdentity(
        settings.data_dir, settings.server, _token(settings), clock,
        name=settings.node_name,
        addresses=(settings.node_ip,),
        architecture=architecture(platform.machine()),
    )  # fmt: skip
    await identity.obtain()
    client = HttpClient(identity.access(), unauthorized=identity.unauthorized)
    async with client, _informers(settings, clock, client) as informers:
        async with asyncio.TaskGroup() as tasks:
            around = Around(settings, clock, client, informers, identity, tasks)
            around.start("identity", lambda: identity.run(client))
            yield around


@asynccontextmanager
async def _informers(
    settings: Settings, clock: Clock, client: HttpClient
) -> AsyncIterator[Informers]:
    """Through the API, or from etcd."""
    async with AsyncExitStack() as stack:
        if settings.store == "etcd":
            store = await stack.enter_async_context(opened(settings, clock, compacts=False))
            cache = WatchCache(store, SCHEME, clock, prefix=_OBJECTS)
            found: Informers = CacheInformers(cache)
            running = cache.run()
        else:
            own_pods = {"Pod": f"spec.nodeName={settings.node_name}"}
            found = remote = RemoteInformers(client, clock, own_pods)
            running = remote.run()
        stack.push_async_callback(stop, asyncio.create_task(running, name="informers"))
        yield found


def _token(settings: Settings) -> str:
    """Raises BadSettings."""
    if settings.token_file is None:
        return settings.token
    try:
        return settings.token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"--token-file {settings.token_file} cannot be read: {error}") from None
