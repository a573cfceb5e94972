"""The scheduler: takes pods that have no node, asks ``decide.scheduling``, binds.

Decisions are taken one after the other, each on a snapshot that counts the ones before it as done
(*assumed*) although their bindings are still on the way; bindings run many at a time. A binding
that fails takes its assumption back. Pods that fit nowhere wait out a back-off, or until a change
of the cluster could help.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from k8slite.api.errors import NotFound
from k8slite.api.kinds import NODE, POD, REPLICATION_CONTROLLER, SERVICE
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.scheme import Kind
from k8slite.client.base import Client, Handler, Informers
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.decide.scheduling import Algorithm, Decision, PluginFailed, Snapshot
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.kit.workqueue import WorkQueue
from k8slite.roles.scheduler import rules
from k8slite.roles.scheduler.parking import Parking

__all__ = ["Scheduler"]

log = structlog.get_logger()

#: Seconds until a pod that fitted nowhere is looked at again, whatever happens.
BACKOFF = Backoff(initial=1.0, maximum=60.0)
#: Bindings in flight: enough to fill a group commit of the store.
IN_FLIGHT = 128
#: Decisions (some 20 µs each) before the event loop gets its turn.
TURN = 32
#: Seconds of pause for each sort of waiting pod that was tried after a change.
PAUSE_PER_SORT = 0.002
#: The same bad news about a pod is told again after so many seconds (events live an hour).
TELL_AGAIN = 1800.0

_OVER = ("Succeeded", "Failed")
DEFAULT_NAME = "default-scheduler"


class Scheduler:
    """Schedules the pods whose ``spec.schedulerName`` is ``settings.scheduler_name``.

    Raises PolicyError when the policy file or a plug-in is wrong.
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        recorder: EventRecorder,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._client = client
        self._informers = informers
        self._recorder = recorder
        self._clock = clock
        self._name = settings.scheduler_name
        self._pods = informers.of(POD)
        self._snapshot = Snapshot()
        self._algorithm = Algorithm(rules.load(settings.scheduler_policy), self._snapshot)
        self._queue: WorkQueue[str] = WorkQueue("scheduler", BACKOFF)
        self._parking = Parking()
        self._assumed: dict[str, str] = {}  # pod key → uid
        self._told: dict[str, tuple[str, float]] = {}  # pod key → message, when (monotonic)
        self._bindings: asyncio.Queue[tuple[Pod, str]] = asyncio.Queue(maxsize=IN_FLIGHT)
        self._binding = 0
        self._helped = asyncio.Event()
        self._running = False

    def healthy(self) -> bool:
        """Does it decide, on complete informers?"""
        return self._running

    @property
    def idle(self) -> bool:
        """Nothing to decide and nothing to bind right now (pods may wait for a change)."""
        return self._queue.idle and self._bindings.empty() and not self._binding

    async def run(self) -> None:
        """Until cancelled."""
        kinds: tuple[Kind[Any], ...] = (NODE, SERVICE, REPLICATION_CONTROLLER, POD)
        for kind in kinds:
            await self._informers.of(kind).wait_synced()
        of = self._informers.of
        unsubscribes = [
            of(NODE).subscribe(self._on_node),
            of(SERVICE).subscribe(self._on_selector("service")),
            of(REPLICATION_CONTROLLER).subscribe(self._on_selector("controller")),
            self._pods.subscribe(self._on_pod),
        ]
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                loops = {"decide": self._decide(), "wake": self._wake()}
                loops |= {f"bind-{number}": self._bind() for number in range(IN_FLIGHT)}
                for name, loop in loops.items():
                    group.create_task(forever(name, loop), name=f"scheduler-{name}")
        finally:
            self._running = False
            self._queue.close()
            for unsubscribe in unsubscribes:
                unsubscribe()

    # -- what happens in the cluster

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is not None:
            if self._snapshot.set_node(new):
                self._helped.set()
        elif old is not None:
            self._snapshot.remove_node(old.metadata.name)

    def _on_selector(self, sort: str) -> Handler[Any]:
        def on_object(old: Any, new: Any) -> None:
            meta = (new or old).metadata
            selector = new.spec.selector if new is not None else None
            self._snapshot.set_selector(sort, meta.namespace, meta.name, selector)

        return on_object

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        if new is None or new.status.phase in _OVER:
            self._forget(pod.key)
            if self._snapshot.remove(pod.key):
                self._helped.set()
        elif new.spec.node_name:
            self._forget(new.key)
            self._snapshot.place(new)
        elif self._is_ours(new) and (old is None or old.spec.node_name or _asks_anew(old, new)):
            self._queue.add(new.key)

    def _forget(self, key: str) -> None:
        """The pod needs no decision any more."""
        self._assumed.pop(key, None)
        self._parking.leave(key)
        self._told.pop(key, None)
        self._queue.forget(key)

    def _is_ours(self, pod: Pod) -> bool:
        return (
            not pod.spec.node_name
            and pod.metadata.deletion_timestamp is None
            and (pod.spec.scheduler_name or DEFAULT_NAME) == self._name
        )

    # -- deciding

    async def _decide(self) -> None:
        decided = 0
        while True:
            key = await self._queue.get()
            try:
                await self._place(key)
            finally:
                self._queue.done(key)
            decided += 1
            if decided % TURN == 0:
                await self._clock.sleep(0)

    async def _place(self, key: str) -> None:
        pod = self._pods.get(key)
        if key in self._assumed:
            return
        if pod is None or not self._is_ours(pod):
            self._forget(key)
            return
        try:
            decision = self._algorithm.decide(pod, self._clock.rng)
        except PluginFailed as error:
            self._reject(pod, str(error))
            return
        if not decision.node:
            self._parking.park(key, decision.sort)
            self._reject(pod, decision.message)
            return
        self._assume(pod, decision)
        await self._bindings.put((pod, decision.node))

    def _reject(self, pod: Pod, message: str) -> None:
        self._queue.retry(pod.key)
        now = self._clock.monotonic()
        told, when = self._told.get(pod.key, ("", 0.0))
        if told != message or now - when >= TELL_AGAIN:
            self._told[pod.key] = message, now
            self._recorder.event(pod, "FailedScheduling", message, "Warning")

    def _assume(self, pod: Pod, decision: Decision) -> None:
        """From here on the pod stands on the node, for this scheduler.

        The assumption ends when the informer shows the pod bound or gone, which it will, for it
        has shown the pod before; or when the binding fails.
        """
        self._assumed[pod.key] = pod.metadata.uid
        self._snapshot.place(pod, decision.node, decision.demand)
        self._parking.leave(pod.key)
        if self._parking.holds(decision.sort):
            self._helped.set()  # where one fitted the next may

    async def _wake(self) -> None:
        """After a change: try one waiting pod of each sort for which there is room now."""
        while True:
            await self._helped.wait()
            self._helped.clear()
            tried = 0
            for key in self._parking.firsts():
                tried += 1
                if tried % TURN == 0:
                    await self._clock.sleep(0)
                pod = self._pods.get(key)
                if pod is not None and self._fits(pod):
                    self._queue.add(key)
            await self._clock.sleep(tried * PAUSE_PER_SORT)

    def _fits(self, pod: Pod) -> bool:
        try:
            return self._algorithm.fits_somewhere(pod, self._clock.rng)
        except PluginFailed:
            return True  # the decision will say it aloud

    # -- binding

    async def _bind(self) -> None:
        while True:
            pod, node = await self._bindings.get()
            self._binding += 1
            try:
                await self._client.bind(pod.metadata.namespace, pod.metadata.name, node)
            except NotFound:
                self._take_back(pod)
            except Exception as error:
                # Conflict, or an unknown outcome: the informer will show who bound it, if anybody.
                log.info("binding failed", pod=pod.key, node=node, error=str(error))
                self._take_back(pod)
                self._reject(pod, f"Binding rejected: {error}")
            else:
                self._queue.forget(pod.key)
                self._told.pop(pod.key, None)
                message = f"Successfully assigned {pod.key} to {node}"
                self._recorder.event(pod, "Scheduled", message)
            finally:
                self._binding -= 1

    def _take_back(self, pod: Pod) -> None:
        """The binding failed: unless the informer has shown otherwise, the pod stands nowhere."""
        if self._assumed.get(pod.key) == pod.metadata.uid:
            del self._assumed[pod.key]
            if self._snapshot.remove(pod.key):
                self._helped.set()


def _asks_anew(old: Pod, new: Pod) -> bool:
    return old.spec != new.spec or old.metadata.labels != new.metadata.labels
