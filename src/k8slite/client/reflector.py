"""Informers far from the store: list, watch from there, list again when the history is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar, cast

import structlog

from k8slite.api.errors import ApiError, Expired
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.client.base import Client, Handler, Informer
from k8slite.client.informer import Audience, Index, KeysOf
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock

T = TypeVar("T", bound=Object)

log = structlog.get_logger()

#: However long the masters were away, their news is here so soon after.
_RETRY = Backoff(initial=0.2, maximum=8.0)


class Reflector(Generic[T]):
    """An ``Informer`` that keeps its own copy through ``client``; ``run`` keeps it current.

    ``fields`` is a field selector: the copy then holds the matching objects only.
    """

    def __init__(self, client: Client, clock: Clock, kind: Kind[T], *, fields: str = "") -> None:
        self._client = client
        self._clock = clock
        self._kind = kind
        self._fields = fields
        self._objects: dict[str, T] = {}
        self._audience: Audience[T] = Audience()
        self._listed = asyncio.Event()
        self._version = ""

    @property
    def kind(self) -> Kind[T]:
        return self._kind

    @property
    def synced(self) -> bool:
        return self._listed.is_set()

    async def wait_synced(self) -> None:
        await self._listed.wait()

    def get(self, key: str) -> T | None:
        return self._objects.get(key)

    def items(self) -> Iterable[T]:
        return list(self._objects.values())

    def in_namespace(self, namespace: str) -> Iterable[T]:
        return [obj for obj in self._objects.values() if obj.metadata.namespace == namespace]

    def index(self, name: str, keys_of: KeysOf[T]) -> None:
        if name not in self._audience.indexes:
            index = self._audience.indexes[name] = Index(keys_of)
            for key, obj in self._objects.items():
                index.put(key, None, obj)

    def by_index(self, name: str, value: str) -> list[T]:
        return [self._objects[key] for key in self._audience.indexes[name].keys(value)]

    def subscribe(self, handler: Handler[T]) -> Callable[[], None]:
        for obj in list(self._objects.values()):
            handler(None, obj)
        return self._audience.join(handler)

    async def run(self) -> None:
        """List and watch until cancelled; trouble costs a pause, never the copy."""
        failures = 0
        while True:
            before = self._version
            try:
                if not self._version:
                    await self._list()
                if await self._watch():
                    failures = 0
                else:  # a server that ends watches at once must not be asked at once
                    await self._clock.sleep(_RETRY.initial)
            except (ApiError, OSError, TimeoutError) as error:
                # However it ended, what it brought says that we were in touch.
                failures = 1 if before and self._version != before else failures + 1
                if isinstance(error, Expired):
                    self._version = ""
                    if before:
                        continue
                delay = _RETRY.delay(failures)
                log.warning("reflector", kind=self._kind.plural, error=str(error), retry_in=delay)
                await self._clock.sleep(delay)

    async def _list(self) -> None:
        """Take over the server's state; handlers hear the difference to what was known."""
        listing = await self._client.list(self._kind, fields=self._fields)
        current = {obj.key: obj for obj in listing.items}
        for key in [key for key in self._objects if key not in current]:
            self._put(key, None)
        for key, obj in current.items():
            self._put(key, obj)
        self._version = listing.resource_version
        self._listed.set()

    async def _watch(self) -> bool:
        """Follow until the server ends the watch; the next one begins where this one ended.
        Did it bring anything?"""
        before = self._version
        stream = self._client.watch(self._kind, fields=self._fields, resource_version=self._version)
        async with aclosing(cast(Any, stream)) as events:
            async for event in events:
                if event.type != "BOOKMARK":
                    self._put(event.object.key, None if event.type == "DELETED" else event.object)
                self._version = event.object.metadata.resource_version
        return self._version != before

    def _put(self, key: str, new: T | None) -> None:
        old = self._objects.get(key)
        if old is new or (old is not None and new is not None and _version(old) == _version(new)):
            return
        if old is not None and new is not None and old.metadata.uid != new.metadata.uid:
            self._put(key, None)  # another object of that name: the end of one, the start of one
            old = None
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
        self._audience.tell(key, old, new)


def _version(obj: Object) -> str:
    return obj.metadata.resource_version


class RemoteInformers:
    """``client.base.Informers`` through a client; one reflector a kind, started by ``run``.

    ``fields`` narrows kinds: ``{"Pod": "spec.nodeName=10.0.0.7"}``.
    """

    def __init__(
        self, client: Client, clock: Clock, fields: Mapping[str, str] | None = None
    ) -> None:
        self._client = client
        self._clock = clock
        self._fields = dict(fields or {})
        self._reflectors: dict[str, Reflector[Any]] = {}
        self._wanted: asyncio.Queue[Reflector[Any]] = asyncio.Queue()

    def of(self, kind: Kind[T]) -> Informer[T]:
        found = self._reflectors.get(kind.kind)
        if found is None:
            found = Reflector(
                self._client, self._clock, kind, fields=self._fields.get(kind.kind, "")
            )
            self._reflectors[kind.kind] = found
            self._wanted.put_nowait(found)
        return cast("Informer[T]", found)

    async def run(self) -> None:
        """Run the reflector of every kind that is or will be asked for, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                reflector = await self._wanted.get()
                group.create_task(reflector.run(), name=f"reflector-{reflector.kind.plural}")
