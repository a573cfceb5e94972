"""A client that writes and watches throughout an outage and notes what it was told.

It runs on a thread of its own, in the network of the machine it stands on, and knows all masters'
addresses, as every client of a cluster does. Writers make ConfigMaps, change them and delete every
other one; a scaler scales a replication controller up and down. A watch of each kind is taken up
again wherever it breaks, from the last revision it saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from msgspec.structs import replace
from tests.outage.history import (
    ACKNOWLEDGED,
    REFUSED,
    UNKNOWN,
    History,
    Listed,
    Seen,
    Write,
)

from k8slite.api.errors import ApiError, Expired, NotFound, UnknownOutcome
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.api.meta import Object, ObjectMeta
from k8slite.api.scheme import Kind
from k8slite.client.http import HttpClient

#: The annotation that holds what a write left there.
VALUE = "witness"
#: Seconds: between two writes of a writer, two scalings, two tries; the patience with an answer.
PACE, SCALE_PACE, RETRY, PATIENCE = 0.15, 4.0, 0.2, 8.0
#: Seconds for the last list and the watch; a watch takes a silence of 30 s for a loss.
CATCH_UP = 45.0
_END = "the-end"
KINDS: tuple[Kind[Any], ...] = (SCHEME.of(ConfigMap), SCHEME.of(ReplicationController))


class Log:
    """One kind's history in the making."""

    def __init__(self, kind: Kind[Any]) -> None:
        self.kind = kind
        self.history = History()
        self.watched = asyncio.Event()  # set by every event


class Witness:
    """``hold`` runs it; ``histories`` are what it noted, by the kind's plural."""

    def __init__(self, servers: Sequence[str], namespace: str) -> None:
        self.namespace = namespace
        self._servers = ",".join(servers)
        self._logs: dict[str, Log] = {}
        self._stopping = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._count = 0

    @property
    def histories(self) -> dict[str, History]:
        return {name: log.history for name, log in self._logs.items()}

    @property
    def history(self) -> History:
        """The writers' own."""
        return self._logs["configmaps"].history

    # -- the thread's side

    async def run(self, scale: ReplicationController | None, began: threading.Event) -> None:
        """Until ``stop``: then it waits for the watches to catch up and takes the last lists."""
        async with self._client() as client, asyncio.TaskGroup() as group:
            watches = []
            for kind in KINDS if scale else KINDS[:1]:
                log = self._logs[kind.plural] = Log(kind)
                log.history.start = await self._listed(client, log)
                watches.append(group.create_task(self._watch(log)))
            async with asyncio.TaskGroup() as writers:
                for number in range(3):
                    writers.create_task(self._writer(client, f"w{number}"))
                if scale:
                    writers.create_task(self._scaler(client, scale))
                await self._acknowledged.wait()
                began.set()
            for log in self._logs.values():
                await self._finish(client, log)
            for watch in watches:
                watch.cancel()

    def stop(self) -> None:
        self._stopping.set()

    def _client(self) -> HttpClient:
        return HttpClient(self._servers, timeout=PATIENCE)

    # -- writing

    async def _write(
        self, log: Log, key: str, act: str, value: str, send: Callable[[], Awaitable[Any]]
    ) -> Any:
        """One write, noted; what came back, or None when it was not acknowledged."""
        began = time.monotonic()
        answer, outcome, why, revision = None, ACKNOWLEDGED, "", 0
        try:
            answer = await send()
        except ApiError as error:
            unsure = isinstance(error, UnknownOutcome) or error.code == 500
            outcome, why = (UNKNOWN if unsure else REFUSED), f"{error.reason}: {error.message}"
        if isinstance(answer, Object):
            revision = int(answer.metadata.resource_version)
        ended = time.monotonic()
        log.history.writes.append(Write(key, act, value, outcome, began, ended, revision, why))
        if outcome != ACKNOWLEDGED:
            return None
        self._acknowledged.set()
        return answer

    def _value(self) -> str:
        self._count += 1
        return f"v{self._count}"

    async def _writer(self, client: HttpClient, prefix: str) -> None:
        log = self._logs["configmaps"]
        number = 0
        while not self._stopping.is_set():
            number += 1
            await self._life(client, log, f"{prefix}-{number}", delete=number % 2 == 0)

    async def _life(self, client: HttpClient, log: Log, name: str, *, delete: bool) -> None:
        """A ConfigMap: made, changed four times, perhaps deleted."""
        value = self._value()
        meta = ObjectMeta(name=name, namespace=self.namespace, annotations={VALUE: value})
        made = ConfigMap(metadata=meta, data={"made-by": name})
        there = await self._write(log, name, "create", value, lambda: client.create(made))
        there = there or await self._read(client, log, name)
        for _ in range(4):
            await self._pause(PACE)
            if there is None or self._stopping.is_set():
                return
            there = await self._change(client, log, there) or await self._read(client, log, name)
        while delete and there is not None and not self._stopping.is_set():
            await self._pause(PACE)
            uid = there.metadata.uid

            async def send(uid: str = uid) -> bool:
                await client.delete(log.kind, name, self.namespace, uid=uid)
                return True

            if await self._write(log, name, "delete", "", send):
                return
            there = await self._read(client, log, name)

    async def _change(self, client: HttpClient, log: Log, there: Any, **spec: Any) -> Any:
        """Compare-and-set a new value."""
        value = self._value()
        notes = {**(there.metadata.annotations or {}), VALUE: value}
        changed = replace(there, metadata=replace(there.metadata, annotations=notes), **spec)
        key = there.metadata.name
        return await self._write(log, key, "update", value, lambda: client.update(changed))

    async def _scaler(self, client: HttpClient, scale: ReplicationController) -> None:
        log = self._logs["replicationcontrollers"]
        there: Any = None
        name, replicas = scale.metadata.name, scale.spec.replicas or 1
        while not self._stopping.is_set():
            if there is None:
                value = self._value()
                notes = {VALUE: value}
                meta = replace(scale.metadata, namespace=self.namespace, annotations=notes)
                made = replace(scale, metadata=meta)
                there = await self._write(
                    log, name, "create", value, lambda made=made: client.create(made)
                )
            else:
                more = (there.spec.replicas or 0) == replicas
                spec = replace(there.spec, replicas=replicas + 1 if more else replicas)
                there = await self._change(client, log, there, spec=spec)
            await self._pause(SCALE_PACE if there is not None else RETRY)
            there = await self._read(client, log, name)

    async def _read(self, client: HttpClient, log: Log, name: str) -> Any:
        """What is there now, by the first master that says so; None when nothing is."""
        while True:
            try:
                return await client.get(log.kind, name, self.namespace)
            except NotFound:
                return None
            except ApiError:
                await asyncio.sleep(RETRY)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- reading

    async def _listed(self, client: HttpClient, log: Log, least: int = 0) -> Listed:
        """The list, at a revision no older than ``least``."""
        while True:
            with contextlib.suppress(ApiError):
                found = await client.list(log.kind, self.namespace)
                if int(found.resource_version) >= least:
                    values = {o.metadata.name: o.metadata.annotation(VALUE) for o in found.items}
                    return Listed(int(found.resource_version), values)
            await asyncio.sleep(RETRY)

    async def _watch(self, log: Log) -> None:
        revision = log.history.start.revision
        async with self._client() as client:
            while True:
                try:
                    async for event in _events(client, log.kind, self.namespace, revision):
                        revision = event.revision
                        log.history.seen.append(event)
                        log.watched.set()
                except Expired:
                    anew = await self._listed(client, log)
                    log.history.seen.append(anew)
                    log.watched.set()
                    revision = anew.revision
                except ApiError:
                    await asyncio.sleep(RETRY)

    async def _finish(self, client: HttpClient, log: Log) -> None:
        """Take the last list, and give the watch time to pass it; it shows a last write."""
        history = log.history
        least = max((write.revision for write in history.acknowledged()), default=0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP):
                history.end = await self._listed(client, log, least)
        if not history.end.revision:  # a cluster that forgot: let the checker say so
            history.end = await self._listed(client, log)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP):
                await self._caught_up(client, log)

    async def _caught_up(self, client: HttpClient, log: Log) -> None:
        history = log.history
        if log.kind is not KINDS[0]:  # its bookmarks tell
            while (history.seen[-1].revision if history.seen else 0) < history.end.revision:
                log.watched.clear()
                await log.watched.wait()
            return
        marker = ConfigMap(metadata=ObjectMeta(name=_END, namespace=self.namespace))
        while await self._read(client, log, _END) is None:
            with contextlib.suppress(ApiError):
                await client.create(marker)
        while not any(_shows_end(event) for event in history.seen):
            log.watched.clear()
            await log.watched.wait()


def _shows_end(event: Seen | Listed) -> bool:
    return _END in event.values if isinstance(event, Listed) else event.key == _END


async def _events(
    client: HttpClient, kind: Kind[Any], namespace: str, revision: int
) -> AsyncIterator[Seen]:
    stream = client.watch(kind, namespace, resource_version=str(revision))
    async for event in stream:
        meta = event.object.metadata
        at = int(meta.resource_version)
        if event.type == "BOOKMARK":
            yield Seen("BOOKMARK", at)
        else:
            yield Seen(event.type, at, meta.name, meta.annotation(VALUE))


@contextmanager
def hold(
    witness: Witness,
    place: Callable[[], AbstractContextManager[None]],
    scale: ReplicationController | None = None,
) -> Iterator[Witness]:
    """The witness at work on a thread of its own, from its first acknowledged write on; when this
    is left its histories are complete. ``place`` is entered by the thread: where it stands."""
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[BaseException] = []
    began = threading.Event()

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await witness.run(scale, began)

    def work() -> None:
        try:
            with place():
                _run(main())
        except BaseException as error:
            failures.append(error)
        finally:
            began.set()

    thread = threading.Thread(target=work, name="witness", daemon=True)
    thread.start()
    assert began.wait(60), "no write was acknowledged in a minute"
    try:
        yield witness
    finally:
        if loops and thread.is_alive():
            loops[0].call_soon_threadsafe(witness.stop)
        thread.join(4 * CATCH_UP + 30)
    assert not thread.is_alive(), "no master answers the witness"
    if failures:
        raise failures[0]


def _run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner() as runner:
        runner.run(main)
