"""Makes each pod of the node what it should be: look, decide, act, tell.

One work queue keyed by pod uid: no pod is ever worked on twice at once. What takes long (pulls,
graceful stops, hooks) runs beside it and brings the pod back to the queue when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from k8slite.api.errors import ApiError, NotFound
from k8slite.api.kinds import CONFIG_MAP, POD, SECRET
from k8slite.api.kinds.pod.types import Pod
from k8slite.client.base import Client, Informers
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.decide.pods import sync
from k8slite.decide.pods.admission import admit
from k8slite.decide.pods.state import CreateSandbox, Plan, Waiting
from k8slite.decide.pods.status import StatusFacts, failed, status_of
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.kit.workqueue import WorkQueue
from k8slite.roles.kubelet.acting import Actor
from k8slite.roles.kubelet.facts import FactFinder
from k8slite.roles.kubelet.handlers import Doer
from k8slite.roles.kubelet.operations import Operations
from k8slite.roles.kubelet.prober import Prober
from k8slite.roles.kubelet.pulling import Puller
from k8slite.roles.kubelet.runtime import Runtime, RuntimeFailure, RuntimeGone
from k8slite.roles.kubelet.sources import PodSources, active
from k8slite.roles.kubelet.statuses import StatusWriter
from k8slite.roles.kubelet.telling import PodEvents
from k8slite.roles.kubelet.volumes import PodFiles

#: Pods that are worked on at once; the runtime bounds what the engine does at once.
WORKERS = 16
#: Plans that follow at once from one another (sandbox, image, container, …) before others' turn.
_ROUNDS = 16
_RETRY = Backoff(initial=0.5, maximum=30.0)


class PodWorkers:
    """The kubelet's heart. ``run`` until cancelled."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        informers: Informers,
        recorder: EventRecorder,
        clock: Clock,
        runtime: Runtime,
        volumes: PodFiles,
    ) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._runtime = runtime
        self._queue: WorkQueue[str] = WorkQueue("kubelet", _RETRY)
        pods = informers.of(POD)
        self._config_maps = informers.of(CONFIG_MAP)
        self._secrets = informers.of(SECRET)
        doer = Doer(runtime)
        puller = Puller(runtime, informers, recorder, clock)
        self._events = events = PodEvents(recorder)
        self._operations = operations = Operations(self._queue.add)
        self._prober = prober = Prober(doer, clock, self._queue.add, events.unhealthy)
        self._statuses = StatusWriter(client, pods)
        self.volumes = volumes
        self._facts = FactFinder(
            settings, clock, runtime, informers, events, volumes, operations, prober, puller,
            self._queue.add_after,
        )  # fmt: skip
        self._actor = Actor(
            settings, clock, runtime, events, volumes, operations, doer, puller, self._facts
        )
        self.sources = PodSources(pods, client, settings.node_name, self._queue.add)

    async def run(self) -> None:
        """Needs the runtime to be followed and the informers to be synced."""
        leave: list[Callable[[], None]] = [
            self._runtime.subscribe(self._on_runtime),
            self.sources.start(),
            self._config_maps.subscribe(lambda old, new: self._on_reference(old or new)),
            self._secrets.subscribe(lambda old, new: self._on_reference(old or new)),
        ]
        self._on_runtime("")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._operations.run(), name="pod-operations")
                group.create_task(self._prober.run(), name="prober")
                group.create_task(
                    self._queue.work(self._converge, workers=WORKERS), name="pod-workers"
                )
        finally:
            for unsubscribe in leave:
                unsubscribe()

    def look(self, uid: str) -> None:
        """Ask for a look at a pod."""
        self._queue.add(uid)

    def _on_runtime(self, uid: str) -> None:
        if uid:
            self._queue.add(uid)
            return
        for pod in self.sources.all():
            self._queue.add(pod.metadata.uid)
        for ref in self._runtime.pods():
            self._queue.add(ref.uid)
        for known in self.volumes.known():
            self._queue.add(known)

    def _on_reference(self, obj: object) -> None:
        """A config map or secret changed: pods of its namespace may be waiting for it."""
        namespace = obj.metadata.namespace  # type: ignore[attr-defined]
        for pod in self.sources.all():
            if pod.metadata.namespace == namespace:
                memory = self._facts.remembered(pod.metadata.uid)
                if memory is not None:
                    memory.renew()
                self._queue.add(pod.metadata.uid)

    # -- one look ------------------------------------------------------------------------------

    async def _converge(self, uid: str) -> None:
        if self._runtime.trouble:
            return  # everything is looked at when the engine is back
        pod = self.sources.get(uid)
        try:
            if pod is None:
                await self._dismiss(uid)
            elif pod.metadata.deletion_timestamp is not None:
                await self._end(pod)
            elif not sync.finished(pod) and not await self._admitted(pod):
                return
            else:
                await self._keep(pod)
        except RuntimeGone:
            return

    async def _dismiss(self, uid: str) -> None:
        """Nobody wants the pod any more: it was deleted, perhaps while we were away."""
        if not self.sources.static_read:
            return  # it may be a static pod
        self._prober.forget(uid)
        memory = self._facts.memory(uid)
        if memory.forced is None:
            memory.forced = bool(self._operations.deadlines(uid))
        # A delete by force cuts short what an earlier delete has begun.
        grace = 0 if memory.forced else None
        plan = sync.dismantle(self._facts.brief(uid), grace, "the pod is gone")
        if not plan.gone:
            await self._actor.apply(None, uid, plan)
            plan = sync.dismantle(self._facts.brief(uid), grace, "the pod is gone")
        if plan.gone:
            await self._forget(uid)

    async def _end(self, pod: Pod) -> None:
        """Stop and remove what runs, show it, then let the object go."""
        uid = pod.metadata.uid
        self._prober.forget(uid)
        for _ in range(_ROUNDS):
            plan = sync.decide(pod, self._facts.brief(uid))
            if plan.gone:
                await self._forget(uid)
                meta = pod.metadata
                try:
                    await self._client.delete(
                        POD, meta.name, meta.namespace, grace_seconds=0, uid=uid
                    )
                except NotFound:
                    pass
                return
            if not await self._actor.apply(pod, uid, plan):
                return

    async def _forget(self, uid: str) -> None:
        await self.volumes.clean(uid)
        self._facts.forget(uid)

    async def _admitted(self, pod: Pod) -> bool:
        memory = self._facts.memory(pod.metadata.uid)
        if memory.admitted or not self._runtime.pod(pod.metadata.uid).empty:
            memory.admitted = True
            return True
        node = self._facts.node()
        if node is None:
            self._queue.add_after(pod.metadata.uid, 0.5)
            return False
        others = [
            other
            for other in active(self.sources.all())
            if other.metadata.uid != pod.metadata.uid
            and self._facts.memory(other.metadata.uid).admitted
        ]
        refusal = admit(pod, node, others)
        memory.admitted = refusal is None
        if refusal is not None:
            self._events.pod(pod, refusal.reason, refusal.message, "Warning")
            status = failed(
                pod, refusal.reason, refusal.message, self._clock.now(), self._settings.node_ip
            )
            await self._statuses.write(pod, status)
        return memory.admitted

    async def _keep(self, pod: Pod) -> None:
        """Take one plan after the other until nothing is left to do now, then tell.

        What runs here does not depend on whether the API answers: its errors are raised last.
        """
        uid = pod.metadata.uid
        shown, unsaid = None, None
        try:
            shown = await self._shown(pod)
        except ApiError as error:
            unsaid = error
        if await self._past_deadline(pod, shown):
            return
        plan = Plan()
        try:
            for _ in range(_ROUNDS):
                plan = sync.decide(pod, await self._facts.all(pod))
                if shown is not None and _replaces_sandbox(plan):
                    # While it gets another it is not ready: nobody should be sent to it.
                    with suppress(ApiError):  # then the last word says it all
                        await self._tell(pod, shown, plan)
                if not await self._actor.apply(pod, uid, plan):
                    break
        except RuntimeGone:
            raise
        except RuntimeFailure as error:
            # Say why nothing moves, then let the queue try again later.
            stuck = Waiting("ContainerCreating", str(error))
            if shown is not None:
                await self._tell(pod, shown, Plan(waiting=_for_all(pod, stuck)))
            raise
        if shown is not None:
            await self._tell(pod, shown, plan)
        if plan.again is not None:
            self._queue.add_after(uid, plan.again - self._clock.now())
        if unsaid is not None:
            raise unsaid

    async def _shown(self, pod: Pod) -> Pod | None:
        """The object whose status tells of ``pod``: itself, or its mirror."""
        if self.sources.is_static(pod.metadata.uid):
            return await self.sources.mirror(pod.metadata.uid)
        return pod

    async def _past_deadline(self, pod: Pod, shown: Pod | None) -> bool:
        due = sync.deadline(pod)
        if due is None or sync.finished(pod) or shown is None:
            return False
        now = self._clock.now()
        if now < due:
            self._queue.add_after(pod.metadata.uid, due - now)
            return False
        text = "Pod was active on the node longer than the specified deadline"
        self._events.pod(pod, "DeadlineExceeded", text, "Warning")
        status = failed(pod, "DeadlineExceeded", text, now, self._settings.node_ip)
        await self._statuses.write(shown, status)
        return True

    async def _tell(self, pod: Pod, shown: Pod, plan: Plan) -> None:
        observed = self._runtime.pod(pod.metadata.uid)
        facts = StatusFacts(
            observed=observed,
            now=self._clock.now(),
            host_ip=self._settings.node_ip,
            waiting=plan.waiting,
            health=self._facts.health(pod, observed),
            runtime=self._runtime.info.name,
        )
        status = status_of(pod, facts)
        self._events.backoffs(pod, plan)
        await self._statuses.write(shown, status)


def _replaces_sandbox(plan: Plan) -> bool:
    return any(isinstance(a, CreateSandbox) and a.attempt > 0 for a in plan.actions)


def _for_all(pod: Pod, why: Waiting) -> dict[str, Waiting]:
    return {container.name: why for container in pod.spec.containers}
