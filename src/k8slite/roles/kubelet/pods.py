"""Makes each pod of the node what it should be: look, decide, act, tell.

One work queue keyed by pod uid: no pod is ever worked on twice at once. What takes long (pulls,
graceful stops, hooks) runs beside it and brings the pod back to the queue when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from k8slite.api.errors import NotFound
from k8slite.api.kinds import CONFIG_MAP, NODE, POD, SECRET, SERVICE
from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.kinds.pod.types import Container, Handler, Pod
from k8slite.client.base import Client, Informers
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.decide.pods import sync
from k8slite.decide.pods.admission import admit
from k8slite.decide.pods.env import ConfigError, PodContext, environment
from k8slite.decide.pods.spec import Mount, container_spec, mounts_of, pod_ref, sandbox_spec
from k8slite.decide.pods.state import (
    Action,
    CreateSandbox,
    KillContainer,
    ObservedPod,
    Plan,
    PodFacts,
    PullImage,
    RemoveContainer,
    Run,
    StartContainer,
    Waiting,
)
from k8slite.decide.pods.status import StatusFacts, failed, status_of
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.kit.workqueue import WorkQueue
from k8slite.roles.kubelet.actions import Doer, Target
from k8slite.roles.kubelet.endings import Endings
from k8slite.roles.kubelet.operations import Operations
from k8slite.roles.kubelet.prober import Prober
from k8slite.roles.kubelet.pulling import Puller
from k8slite.roles.kubelet.runtime import Runtime, RuntimeFailure, RuntimeGone
from k8slite.roles.kubelet.sources import PodSources, active
from k8slite.roles.kubelet.statuses import StatusWriter
from k8slite.roles.kubelet.volumes import PodFiles, VolumeTrouble

log = structlog.get_logger()

#: Pods that are worked on at once; the runtime bounds what the engine does at once.
WORKERS = 16
#: Plans that follow at once from one another (sandbox, image, container, …) before others' turn.
_ROUNDS = 16
_RETRY = Backoff(initial=0.5, maximum=30.0)
_CONFIG_RETRY = Backoff(initial=5.0, maximum=60.0)
#: Volumes made of other objects are compared with them this often, besides on every change.
_REFRESH = 60.0


@dataclass(slots=True)
class _Memory:
    """What is kept of a pod between two looks; losing it costs a repetition, never a mistake."""

    admitted: bool = False
    obstacles: dict[str, tuple[Waiting, float, int]] = field(default_factory=dict)
    hooked: set[str] = field(default_factory=set)
    volumes_at: float = float("-inf")


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
        self._recorder = recorder
        self._clock = clock
        self._runtime = runtime
        self._queue: WorkQueue[str] = WorkQueue("kubelet", _RETRY)
        self._pods = informers.of(POD)
        self._nodes = informers.of(NODE)
        self._services = informers.of(SERVICE)
        self._config_maps = informers.of(CONFIG_MAP)
        self._secrets = informers.of(SECRET)
        self._memories: dict[str, _Memory] = {}
        self._doer = Doer(runtime)
        self._operations = Operations(self._queue.add)
        self._prober = Prober(self._doer, clock, self._queue.add, self._unhealthy)
        self._puller = Puller(runtime, informers, recorder, clock)
        self._statuses = StatusWriter(client, self._pods)
        self.volumes = volumes
        self._endings = Endings(runtime, self.volumes)
        self.sources = PodSources(self._pods, client, settings.node_name, self._queue.add)

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
                memory = self._memories.get(pod.metadata.uid)
                if memory is not None:
                    memory.obstacles.clear()
                    memory.volumes_at = float("-inf")
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
        observed = self._runtime.pod(uid)
        plan = sync.dismantle(self._facts(uid, observed), None, "the pod is gone")
        if not plan.gone:
            await self._apply(None, uid, plan)
            plan = sync.dismantle(self._facts(uid, self._runtime.pod(uid)), None, "gone")
        if plan.gone:
            await self._forget(uid)

    async def _end(self, pod: Pod) -> None:
        """Stop and remove what runs, show it, then let the object go."""
        uid = pod.metadata.uid
        self._prober.forget(uid)
        for _ in range(_ROUNDS):
            plan = sync.decide(pod, self._facts(uid, self._runtime.pod(uid)))
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
            if not await self._apply(pod, uid, plan):
                return

    async def _forget(self, uid: str) -> None:
        await self.volumes.clean(uid)
        self._memories.pop(uid, None)
        self._puller.forget(uid)
        self._endings.forget(uid)

    async def _admitted(self, pod: Pod) -> bool:
        memory = self._memory(pod.metadata.uid)
        if memory.admitted or not self._runtime.pod(pod.metadata.uid).empty:
            memory.admitted = True
            return True
        node = self._nodes.get(self._settings.node_name)
        if node is None:
            self._queue.add_after(pod.metadata.uid, 0.5)
            return False
        others = [
            other
            for other in active(self.sources.all())
            if other.metadata.uid != pod.metadata.uid and self._memory(other.metadata.uid).admitted
        ]
        refusal = admit(pod, node, others)
        memory.admitted = refusal is None
        if refusal is not None:
            self._recorder.event(pod, refusal.reason, refusal.message, "Warning")
            status = failed(
                pod, refusal.reason, refusal.message, self._clock.now(), self._settings.node_ip
            )
            await self._statuses.write(pod, status)
        return memory.admitted

    async def _keep(self, pod: Pod) -> None:
        """Take one plan after the other until nothing is left to do now, then tell."""
        uid = pod.metadata.uid
        shown = await self._shown(pod)
        if await self._past_deadline(pod, shown):
            return
        plan = Plan()
        try:
            for _ in range(_ROUNDS):
                plan = sync.decide(pod, await self._all_facts(pod))
                if not await self._apply(pod, uid, plan):
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
        self._recorder.event(pod, "DeadlineExceeded", text, "Warning")
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
            health=self._prober.sync(pod, observed, self._settings.node_ip),
            runtime=self._runtime.info.name,
        )
        status = status_of(pod, facts)
        self._tell_backoffs(pod, plan)
        await self._statuses.write(shown, status)

    def _tell_backoffs(self, pod: Pod, plan: Plan) -> None:
        """An event for each container that begins to wait after failures."""
        for before in (*pod.status.init_container_statuses, *pod.status.container_statuses):
            waits = plan.waiting.get(before.name)
            if waits is None or waits.reason not in ("CrashLoopBackOff", "ImagePullBackOff"):
                continue
            shown = before.state.waiting
            if shown is None or shown.reason != waits.reason:
                container = _container(pod, before.name)
                self._tell_event(pod, container, "BackOff", waits.message, "Warning")

    # -- facts ---------------------------------------------------------------------------------

    def _memory(self, uid: str) -> _Memory:
        return self._memories.setdefault(uid, _Memory())

    def _facts(self, uid: str, observed: ObservedPod) -> PodFacts:
        return PodFacts(observed, self._clock.now(), busy=self._operations.busy(uid))

    async def _all_facts(self, pod: Pod) -> PodFacts:
        uid, now = pod.metadata.uid, self._clock.now()
        await self._endings.read(pod, self._runtime.pod(uid))
        observed = self._runtime.pod(uid)
        memory = self._memory(uid)
        volumes = await self._volumes(pod, memory)
        images: dict[str, bool] = {}
        waiting: dict[str, Waiting] = {}
        alive = () if sync.finished(pod) else (*pod.spec.init_containers, *pod.spec.containers)
        for container in alive:
            seen = observed.latest(container.name)
            if seen is not None and seen.run is Run.RUNNING:
                continue
            obstacle = memory.obstacles.get(container.name)
            if obstacle is not None and now < obstacle[1]:
                waiting[container.name] = obstacle[0]
                self._queue.add_after(uid, obstacle[1] - now)
                continue
            images[container.name] = await self._puller.there(pod, container)
            stuck = None if images[container.name] else self._puller.obstacle(pod, container)
            if stuck is not None:
                waiting[container.name], until = stuck
                self._queue.add_after(uid, max(until - now, 0.1))
        health = self._prober.sync(pod, observed, self._settings.node_ip)
        busy = self._operations.busy(uid)
        return PodFacts(observed, now, health, images, waiting, busy, volumes)

    async def _volumes(self, pod: Pod, memory: _Memory) -> str:
        if not pod.spec.volumes or sync.finished(pod):
            return ""
        now = self._clock.monotonic()
        if now < memory.volumes_at + _REFRESH:
            return ""
        try:
            await self.volumes.set_up(pod, self._context(pod))
        except VolumeTrouble as error:
            self._recorder.event(pod, "FailedMount", str(error), "Warning")
            self._queue.add_after(pod.metadata.uid, 5.0)
            return str(error)
        memory.volumes_at = now
        if any(v.secret or v.config_map or v.downward_api for v in pod.spec.volumes):
            self._queue.add_after(pod.metadata.uid, _REFRESH)
        return ""

    def _context(self, pod: Pod) -> PodContext:
        namespace = pod.metadata.namespace
        node = self._nodes.get(self._settings.node_name)
        sandbox = self._runtime.pod(pod.metadata.uid).sandbox
        own_ip = self._settings.node_ip if pod.spec.host_network else ""
        return PodContext(
            pod=pod,
            node_name=self._settings.node_name,
            host_ip=self._settings.node_ip,
            pod_ip=sandbox.ip if sandbox is not None and sandbox.ip else own_ip,
            services=(
                *self._services.in_namespace(namespace),
                *(self._services.in_namespace("default") if namespace != "default" else ()),
            ),
            config_maps={o.metadata.name: o for o in self._config_maps.in_namespace(namespace)},
            secrets={o.metadata.name: o for o in self._secrets.in_namespace(namespace)},
            capacity=(node.status.capacity or {}) if node is not None else {},
        )

    # -- acts ----------------------------------------------------------------------------------

    async def _apply(self, pod: Pod | None, uid: str, plan: Plan) -> bool:
        """Take the plan's actions; says whether a new plan is due at once."""
        acted = False
        for action in plan.actions:
            acted = await self._act(pod, uid, action) or acted
        return acted

    async def _act(self, pod: Pod | None, uid: str, action: Action) -> bool:
        match action:
            case RemoveContainer(id=id):
                await self._runtime.remove(id)
                return True
            case KillContainer():
                self._operations.begin(uid, action.id, self._kill(pod, uid, action))
                return False
            case _ if pod is None:
                return False
            case CreateSandbox(attempt=attempt):
                return await self._create_sandbox(pod, attempt)
            case PullImage(name=name):
                container = _container(pod, name)
                self._operations.begin(uid, name, self._puller.pull(pod, container))
                return False
            case StartContainer():
                return await self._start(pod, action)
        return False

    async def _create_sandbox(self, pod: Pod, attempt: int) -> bool:
        try:
            await self._runtime.start_sandbox(sandbox_spec(pod, attempt))
        except RuntimeGone:
            raise
        except RuntimeFailure as error:
            text = f"Failed to create pod sandbox: {error}"
            self._recorder.event(pod, "FailedCreatePodSandBox", text, "Warning")
            raise
        return True

    async def _start(self, pod: Pod, action: StartContainer) -> bool:
        container = _container(pod, action.name)
        uid, sandbox = pod.metadata.uid, self._runtime.pod(pod.metadata.uid).sandbox
        if sandbox is None:
            return True
        try:
            env = environment(container, self._context(pod))
            mounts = self._mounts(pod, container, env, action.attempt)
        except (ConfigError, VolumeTrouble) as error:
            self._hinder(pod, container, "CreateContainerConfigError", str(error))
            return True
        spec = container_spec(pod, container, action, sandbox.id, env, mounts)
        if action.attempt == 0 and not self._puller.just_pulled(pod, container):
            self._tell_event(
                pod, container, "Pulled",
                f'Container image "{container.image}" already present on machine',
            )  # fmt: skip
        try:
            started = await self._runtime.start_container(spec)
        except RuntimeGone:
            raise
        except RuntimeFailure as error:
            self._tell_event(pod, container, "Failed", f"Error: {error}", "Warning")
            made = self._runtime.pod(uid).latest(container.name)
            if made is None or made.attempt != action.attempt or made.run is not Run.EXITED:
                self._hinder(pod, container, "CreateContainerError", str(error))
            return True
        self._puller.used(pod, container)
        self._memory(uid).obstacles.pop(container.name, None)
        self._tell_event(pod, container, "Created", f"Created container {container.name}")
        self._tell_event(pod, container, "Started", f"Started container {container.name}")
        hook = container.lifecycle.post_start if container.lifecycle is not None else None
        if hook is not None:
            target = Target(container, started.id, sandbox.ip or self._settings.node_ip)
            self._operations.begin(
                uid, f"hook-{started.id}", self._post_start(pod, hook, target, spec.grace)
            )
        return True

    def _hinder(self, pod: Pod, container: Container, reason: str, message: str) -> None:
        """Something must change before the container can be made; try again, less and less."""
        uid = pod.metadata.uid
        obstacles = self._memory(uid).obstacles
        before = obstacles.get(container.name)
        failures = before[2] + 1 if before is not None else 1
        until = self._clock.now() + _CONFIG_RETRY.delay(failures)
        obstacles[container.name] = (Waiting(reason, message), until, failures)
        self._tell_event(pod, container, "Failed", f"Error: {message}", "Warning")

    def _mounts(
        self, pod: Pod, container: Container, env: dict[str, str], attempt: int
    ) -> tuple[Mount, ...]:
        paths = self.volumes.paths(pod)
        mounts = []
        for wish, mount in mounts_of(container, paths, env):
            if wish.sub_path:
                make_sub_path(Path(paths[wish.name]), Path(mount.source))
            mounts.append(mount)
        if container.termination_message_path:
            file = self.volumes.new_end_file(pod.metadata.uid, container.name, attempt)
            mounts.append(Mount(str(file), container.termination_message_path))
        return tuple(mounts)

    async def _post_start(self, pod: Pod, hook: Handler, target: Target, grace: int) -> None:
        outcome = await self._doer.do(hook, target, 24 * 3600.0)
        if outcome.ok:
            return
        self._tell_event(pod, target.container, "FailedPostStartHook", outcome.message, "Warning")
        await self._runtime.stop(target.id, grace)

    async def _kill(self, pod: Pod | None, uid: str, action: KillContainer) -> None:
        """preStop, SIGTERM, the grace that is left, SIGKILL."""
        grace = float(action.grace)
        container = _find(pod, action.name)
        if pod is not None and container is not None:
            text = f"Stopping container {action.name}"
            if action.reason and pod.metadata.deletion_timestamp is None:
                text = action.reason
            self._tell_event(pod, container, "Killing", text)
            hook = container.lifecycle.pre_stop if container.lifecycle is not None else None
            if hook is not None and grace > 0:
                sandbox = self._runtime.pod(uid).sandbox
                ip = sandbox.ip if sandbox is not None else ""
                began = self._clock.monotonic()
                target = Target(container, action.id, ip or self._settings.node_ip)
                outcome = await self._doer.do(hook, target, grace)
                if not outcome.ok:
                    self._tell_event(
                        pod, container, "FailedPreStopHook", outcome.message, "Warning"
                    )
                grace = max(2.0, grace - (self._clock.monotonic() - began))
        await self._runtime.stop(action.id, round(grace))

    # -- telling -------------------------------------------------------------------------------

    def _unhealthy(self, pod: Pod, container: Container, kind: str, message: str) -> None:
        text = f"{kind.capitalize()} probe failed: {message}"
        self._tell_event(pod, container, "Unhealthy", text, "Warning")

    def _tell_event(
        self, pod: Pod, container: Container, reason: str, text: str, type: str = "Normal"
    ) -> None:
        meta = pod.metadata
        init = any(c.name == container.name for c in pod.spec.init_containers)
        part = "initContainers" if init else "containers"
        about = ObjectReference(
            kind="Pod",
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            api_version="v1",
            resource_version=meta.resource_version,
            field_path=f"spec.{part}{{{container.name}}}",
        )
        self._recorder.event(about, reason, text, type)


def _for_all(pod: Pod, why: Waiting) -> dict[str, Waiting]:
    return {container.name: why for container in pod.spec.containers}


def _find(pod: Pod | None, name: str) -> Container | None:
    if pod is None:
        return None
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        if container.name == name:
            return container
    return None


def _container(pod: Pod, name: str) -> Container:
    found = _find(pod, name)
    assert found is not None, f"the plan names container {name}, which {pod_ref(pod)} has not"
    return found


def make_sub_path(volume: Path, path: Path) -> None:
    """Make a directory for a subPath that does not exist; it may not lead out of its volume.

    Raises VolumeTrouble.
    """
    resolved = path.resolve()
    if not resolved.is_relative_to(volume.resolve()):
        raise VolumeTrouble(f"subPath {path.relative_to(volume)} leads out of its volume")
    if not resolved.exists():
        resolved.mkdir(parents=True, exist_ok=True)
