"""Carries plans out: sandboxes and containers are made, stopped and removed."""

from __future__ import annotations

from pathlib import Path

from k8slite.api.kinds.pod.types import Container, Handler, Pod
from k8slite.config import Settings
from k8slite.decide.pods.env import ConfigError, environment
from k8slite.decide.pods.spec import Mount, container_spec, mounts_of, sandbox_spec
from k8slite.decide.pods.state import (
    Action,
    CreateSandbox,
    KillContainer,
    Plan,
    PullImage,
    RemoveContainer,
    Run,
    StartContainer,
    Waiting,
)
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.facts import FactFinder
from k8slite.roles.kubelet.handlers import Doer, Target
from k8slite.roles.kubelet.operations import Operations
from k8slite.roles.kubelet.pulling import Puller
from k8slite.roles.kubelet.runtime import Runtime, RuntimeFailure, RuntimeGone
from k8slite.roles.kubelet.telling import PodEvents, container_of, find_container
from k8slite.roles.kubelet.volumes import PodFiles, VolumeTrouble

_CONFIG_RETRY = Backoff(initial=5.0, maximum=60.0)


class Actor:
    """Takes actions. What takes long goes on beside, as an operation of the pod."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        runtime: Runtime,
        events: PodEvents,
        volumes: PodFiles,
        operations: Operations,
        doer: Doer,
        puller: Puller,
        facts: FactFinder,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._runtime = runtime
        self._events = events
        self._volumes = volumes
        self._operations = operations
        self._doer = doer
        self._puller = puller
        self._facts = facts

    async def apply(self, pod: Pod | None, uid: str, plan: Plan) -> bool:
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
                self._stop(pod, uid, action)
                return False
            case _ if pod is None:
                return False
            case CreateSandbox(attempt=attempt):
                return await self._create_sandbox(pod, attempt)
            case PullImage(name=name):
                container = container_of(pod, name)
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
            self._events.pod(pod, "FailedCreatePodSandBox", text, "Warning")
            raise
        return True

    async def _start(self, pod: Pod, action: StartContainer) -> bool:
        container = container_of(pod, action.name)
        uid, sandbox = pod.metadata.uid, self._runtime.pod(pod.metadata.uid).sandbox
        if sandbox is None:
            return True
        try:
            env = environment(container, self._facts.context(pod))
            mounts = self._mounts(pod, container, env, action.attempt)
        except (ConfigError, VolumeTrouble) as error:
            self._hinder(pod, container, "CreateContainerConfigError", str(error))
            return True
        spec = container_spec(pod, container, action, sandbox.id, env, mounts)
        if action.attempt == 0 and not self._puller.just_pulled(pod, container):
            self._events.container(
                pod, container, "Pulled",
                f'Container image "{container.image}" already present on machine',
            )  # fmt: skip
        try:
            started = await self._runtime.start_container(spec)
        except RuntimeGone:
            raise
        except RuntimeFailure as error:
            self._events.container(pod, container, "Failed", f"Error: {error}", "Warning")
            made = self._runtime.pod(uid).latest(container.name)
            if made is None or made.attempt != action.attempt or made.run is not Run.EXITED:
                self._hinder(pod, container, "CreateContainerError", str(error))
            return True
        self._puller.used(pod, container)
        self._facts.memory(uid).obstacles.pop(container.name, None)
        self._events.container(pod, container, "Created", f"Created container {container.name}")
        self._events.container(pod, container, "Started", f"Started container {container.name}")
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
        obstacles = self._facts.memory(uid).obstacles
        before = obstacles.get(container.name)
        failures = before[2] + 1 if before is not None else 1
        until = self._clock.now() + _CONFIG_RETRY.delay(failures)
        obstacles[container.name] = (Waiting(reason, message), until, failures)
        self._events.container(pod, container, "Failed", f"Error: {message}", "Warning")

    def _mounts(
        self, pod: Pod, container: Container, env: dict[str, str], attempt: int
    ) -> tuple[Mount, ...]:
        paths = self._volumes.paths(pod)
        mounts = []
        for wish, mount in mounts_of(container, paths, env):
            if wish.sub_path:
                make_sub_path(Path(paths[wish.name]), Path(mount.source))
            mounts.append(mount)
        if container.termination_message_path:
            file = self._volumes.new_end_file(pod.metadata.uid, container.name, attempt)
            mounts.append(Mount(str(file), container.termination_message_path))
        return tuple(mounts)

    async def _post_start(self, pod: Pod, hook: Handler, target: Target, grace: int) -> None:
        outcome = await self._doer.do(hook, target, 24 * 3600.0)
        if outcome.ok:
            return
        self._events.container(
            pod, target.container, "FailedPostStartHook", outcome.message, "Warning"
        )
        await self._runtime.stop(target.id, grace)

    def _stop(self, pod: Pod | None, uid: str, action: KillContainer) -> None:
        until = self._clock.now() + action.grace
        if action.id in self._operations.busy(uid):
            # Told and asked it was already: only the time that is left gets shorter.
            work = self._runtime.stop(action.id, action.grace)
        else:
            work = self._kill(pod, uid, action)
        self._operations.begin(uid, action.id, work, until)

    async def _kill(self, pod: Pod | None, uid: str, action: KillContainer) -> None:
        """preStop, SIGTERM, the grace that is left, SIGKILL."""
        grace = float(action.grace)
        container = find_container(pod, action.name)
        if pod is not None and container is not None:
            text = f"Stopping container {action.name}"
            if action.reason and pod.metadata.deletion_timestamp is None:
                text = action.reason
            self._events.container(pod, container, "Killing", text)
            hook = container.lifecycle.pre_stop if container.lifecycle is not None else None
            if hook is not None and grace > 0:
                sandbox = self._runtime.pod(uid).sandbox
                ip = sandbox.ip if sandbox is not None else ""
                began = self._clock.monotonic()
                target = Target(container, action.id, ip or self._settings.node_ip)
                outcome = await self._doer.do(hook, target, grace)
                if not outcome.ok:
                    self._events.container(
                        pod, container, "FailedPreStopHook", outcome.message, "Warning"
                    )
                grace = max(2.0, grace - (self._clock.monotonic() - began))
        await self._runtime.stop(action.id, round(grace))


def make_sub_path(volume: Path, path: Path) -> None:
    """Make a directory for a subPath that does not exist; it may not lead out of its volume.

    Raises VolumeTrouble.
    """
    resolved = path.resolve()
    if not resolved.is_relative_to(volume.resolve()):
        raise VolumeTrouble(f"subPath {path.relative_to(volume)} leads out of its volume")
    if not resolved.exists():
        resolved.mkdir(parents=True, exist_ok=True)
