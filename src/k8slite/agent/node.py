"""Role i alone: a machine that joined masters elsewhere.

It writes through the API always. It reads through the API too, each kind once and its own pods
alone, or straight from etcd where it is told of one: then the masters have less to send, and etcd
must be as well guarded as they are.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from k8slite.agent.surroundings import Around
from k8slite.api.kinds import SCHEME
from k8slite.client.base import Informers
from k8slite.client.http import HttpClient
from k8slite.client.informer import CacheInformers
from k8slite.client.reflector import RemoteInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
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
    async with client, _informers(settings, clock, client) as (informers, follow):
        async with asyncio.TaskGroup() as tasks:
            around = Around(settings, clock, client, informers, identity, tasks)
            around.start("informers", follow)
            around.start("identity", lambda: identity.run(client))
            yield around


@asynccontextmanager
async def _informers(
    settings: Settings, clock: Clock, client: HttpClient
) -> AsyncIterator[tuple[Informers, Callable[[], Coroutine[Any, Any, None]]]]:
    """Through the API, or from etcd; and what keeps them current."""
    if settings.store == "etcd":
        async with opened(settings, clock, compacts=False) as store:
            cache = WatchCache(store, SCHEME, clock, prefix=_OBJECTS)
            yield CacheInformers(cache), cache.run
    else:
        own_pods = {"Pod": f"spec.nodeName={settings.node_name}"}
        remote = RemoteInformers(client, clock, own_pods)
        yield remote, remote.run


def _token(settings: Settings) -> str:
    """The join token; "" when its file went away after it had done its service. Raises
    BadSettings."""
    if settings.token_file is None:
        return settings.token
    try:
        return settings.token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if (settings.data_dir / "pki" / "node.crt").exists():
            return ""
        raise BadSettings(f"--token-file {settings.token_file} cannot be read: {error}") from None
