"""What to do for a pod next: pod spec and facts in, plan out.

The plan is level-triggered: it is computed from what is seen, whatever happened before, so a crash
between two of its actions changes nothing. Rules are those of the kubelet
(kubernetes pkg/kubelet/kuberuntime, computePodActions and doBackOff).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from k8slite.api.kinds.pod.types import Container, Pod, PodSpec
from k8slite.decide.pods.state import (
    Action,
    CreateSandbox,
    KillContainer,
    ObservedContainer,
    ObservedPod,
    Plan,
    PodFacts,
    PullImage,
    RemoveContainer,
    Run,
    StartContainer,
    Waiting,
)
from k8slite.kit.clock import parse_rfc3339

#: Crash-loop back-off in seconds: the first restart is at once, then 10 s doubling to 5 min.
CRASH_FIRST, CRASH_MAX = 10.0, 300.0
#: A container that ran this long has recovered: its crashes are forgotten.
CRASH_RESET = 600.0

TERMINAL = ("Succeeded", "Failed")


def spec_hash(container: Container) -> str:
    """Eight hex digits that change when the container must be made anew."""
    data = msgspec.json.encode(container, order="deterministic")
    return hashlib.sha256(data).hexdigest()[:8]


def sandbox_hash(spec: PodSpec) -> str:
    """Eight hex digits of what a sandbox is made from."""
    ports = tuple(port for c in spec.containers for port in c.ports if port.host_port)
    parts = (spec.host_network, spec.host_pid, spec.host_ipc, spec.hostname, ports)
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:8]


def crashes_after(dead: ObservedContainer) -> int:
    """How many failures in a row stand behind ``dead`` (it ran long: none)."""
    return 0 if dead.finished_at - dead.started_at >= CRASH_RESET else dead.crashes


def crash_delay(crashes: int) -> float:
    """Seconds to wait after a container died that had ``crashes`` failures before it."""
    if crashes <= 0:
        return 0.0
    return float(min(CRASH_MAX, CRASH_FIRST * 2 ** min(crashes - 1, 32)))


def restarts(spec: PodSpec, exit_code: int, *, init: bool = False) -> bool:
    """Whether a container that ended with ``exit_code`` starts again."""
    if init:
        return exit_code != 0 and spec.restart_policy != "Never"
    if spec.restart_policy == "Never":
        return False
    if spec.restart_policy == "OnFailure":
        return exit_code != 0
    return True


def finished(pod: Pod) -> bool:
    """The pod has come to its end; terminal phases are never left."""
    return pod.status.phase in TERMINAL


def decide(pod: Pod, facts: PodFacts) -> Plan:
    """The plan for a pod that the node should run (or is to end: see the deletion stamp)."""
    if pod.metadata.deletion_timestamp is not None:
        grace = pod.metadata.deletion_grace_period_seconds
        return dismantle(facts, 30 if grace is None else grace, "the pod is being deleted")
    if finished(pod):
        return _lay_to_rest(facts)
    observed = facts.observed
    sandbox = observed.sandbox
    if sandbox is None or sandbox.run is not Run.RUNNING:
        return _new_sandbox(pod, facts)
    stray = [c for c in _running(observed.containers) if c.sandbox and c.sandbox != sandbox.id]
    if stray:
        return Plan(actions=tuple(_kills(stray, facts, "its sandbox is gone")))
    return _containers(pod, facts, sandbox)


def dismantle(facts: PodFacts, grace: int | None, reason: str) -> Plan:
    """Stop every container, then the sandbox; remove all; then the pod is gone from the node.

    ``grace`` None leaves each container the time that it was started with.
    """
    observed = facts.observed
    if observed.empty:
        return Plan(gone=True)
    running = _running(observed.containers)
    if running:
        return Plan(actions=tuple(_kills(running, facts, reason, grace)))
    every = observed.containers + observed.sandboxes
    return Plan(
        actions=tuple(RemoveContainer(c.id, c.name) for c in every if c.id not in facts.busy)
    )


def _lay_to_rest(facts: PodFacts) -> Plan:
    """A finished pod keeps its dead containers (for their logs) and loses the sandbox."""
    running = _running(facts.observed.containers)
    if running:
        return Plan(actions=tuple(_kills(running, facts, "the pod is finished")))
    return Plan(
        actions=tuple(
            RemoveContainer(c.id, c.name)
            for c in facts.observed.sandboxes
            if c.id not in facts.busy
        )
    )


def _running(containers: Iterable[ObservedContainer]) -> list[ObservedContainer]:
    return [container for container in containers if container.run is Run.RUNNING]


def _kills(
    containers: Iterable[ObservedContainer], facts: PodFacts, reason: str, grace: int | None = None
) -> list[Action]:
    return [
        KillContainer(c.id, c.name, reason, c.grace if grace is None else grace)
        for c in containers
        if c.id not in facts.busy or _sooner(facts, c.id, grace)
    ]


def _sooner(facts: PodFacts, id: str, grace: int | None) -> bool:
    """A stop is under way, but now there is less time for it (a second delete)."""
    until = facts.stopping.get(id)
    return grace is not None and until is not None and facts.now + grace < until


def _new_sandbox(pod: Pod, facts: PodFacts) -> Plan:
    observed = facts.observed
    running = _running(observed.containers)
    if running:
        return Plan(actions=tuple(_kills(running, facts, "its sandbox is gone")))
    if observed.containers and not _wants_more(pod.spec, observed):
        return Plan()
    if facts.volumes:
        waits = Waiting("ContainerCreating", facts.volumes)
        return Plan(waiting={c.name: waits for c in pod.spec.containers})
    # The dead one is left to the garbage collector: an engine that cannot remove it (a busy mount)
    # would keep the pod waiting.
    attempt = 1 + max((s.attempt for s in observed.sandboxes), default=-1)
    return Plan(actions=(CreateSandbox(attempt),))


def _wants_more(spec: PodSpec, observed: ObservedPod) -> bool:
    """Whether any container is still to be started, now or later."""
    for container in spec.init_containers:
        seen = observed.latest(container.name)
        if seen is not None and seen.run is Run.EXITED and seen.exit_code != 0:
            return restarts(spec, seen.exit_code, init=True)
    for container in spec.containers:
        seen = observed.latest(container.name)
        if seen is None or seen.run is not Run.EXITED or restarts(spec, seen.exit_code):
            return True
    return False


def _containers(pod: Pod, facts: PodFacts, sandbox: ObservedContainer) -> Plan:
    draft = _Draft(pod, facts, sandbox)
    if not draft.initialized():
        return draft.plan()
    for container in pod.spec.containers:
        draft.consider(container)
    return draft.plan()


class _Draft:
    """A plan in the making for the containers of a pod whose sandbox runs."""

    def __init__(self, pod: Pod, facts: PodFacts, sandbox: ObservedContainer) -> None:
        self._pod = pod
        self._facts = facts
        self._sandbox = sandbox
        self._actions: list[Action] = []
        self._waiting: dict[str, Waiting] = {}
        self._again: float | None = None

    def plan(self) -> Plan:
        return Plan(tuple(self._actions), self._waiting, self._again)

    def initialized(self) -> bool:
        """Whether the init containers are through; if not, the next of them is considered."""
        observed, spec = self._facts.observed, self._pod.spec
        if any(
            seen is not None and seen.sandbox == self._sandbox.id
            for seen in (observed.latest(c.name) for c in spec.containers)
        ):
            return True
        for container in spec.init_containers:
            seen = observed.latest(container.name)
            here = seen is not None and seen.sandbox == self._sandbox.id
            if seen is not None and here and seen.run is Run.EXITED and seen.exit_code == 0:
                continue
            self.consider(container, init=True)
            return False
        return True

    def consider(self, container: Container, *, init: bool = False) -> None:
        seen = self._facts.observed.latest(container.name)
        if seen is None or seen.run is Run.CREATED:
            self._discard_unstarted(seen)
            self._start(container, *self._next_number(container.name, seen), init=init)
        elif seen.run is Run.RUNNING:
            self._keep_or_kill(container, seen)
        else:
            self._after_exit(container, seen, init=init)

    def _next_number(self, name: str, seen: ObservedContainer | None) -> tuple[int, int]:
        """Attempt and crashes of the next instance when none has run in this sight.

        If Docker was tidied behind our back, the status still knows the restart count.
        """
        dead = self._facts.observed.previous(name) if seen is not None else None
        if dead is not None:
            return dead.attempt + 1, crashes_after(dead) + 1
        if seen is not None:
            return seen.attempt, seen.crashes
        for status in self._pod.status.container_statuses:
            if status.name == name and status.container_id:
                return status.restart_count + 1, 0
        return 0, 0

    def _discard_unstarted(self, seen: ObservedContainer | None) -> None:
        if seen is not None and seen.id not in self._facts.busy:
            self._actions.append(RemoveContainer(seen.id, seen.name))

    def _keep_or_kill(self, container: Container, seen: ObservedContainer) -> None:
        health = self._facts.health.get(seen.id)
        if seen.hash != spec_hash(container):
            reason = f"container {container.name} definition changed"
        elif health is not None and health.kill:
            reason = health.kill
        else:
            return
        self._actions.extend(_kills([seen], self._facts, reason))

    def _after_exit(self, container: Container, dead: ObservedContainer, *, init: bool) -> None:
        lost_sandbox = bool(dead.sandbox) and dead.sandbox != self._sandbox.id
        again = init and lost_sandbox
        if not again and not restarts(self._pod.spec, dead.exit_code, init=init):
            return
        crashes = crashes_after(dead)
        if dead.hash != spec_hash(container):
            crashes = 0  # a new definition deserves a fresh try
        until = dead.finished_at + crash_delay(crashes)
        if self._facts.now < until:
            delay = round(crash_delay(crashes))
            text = (
                f"back-off {delay}s restarting failed container={container.name} "
                f"pod={self._pod.metadata.name}_{self._pod.metadata.namespace}"
            )
            self._waiting[container.name] = Waiting("CrashLoopBackOff", text)
            self._again = until if self._again is None else min(self._again, until)
            return
        self._start(container, dead.attempt + 1, crashes + 1, init=init)

    def _start(self, container: Container, attempt: int, crashes: int, *, init: bool) -> None:
        facts = self._facts
        obstacle = facts.waiting.get(container.name)
        if facts.volumes:
            self._waiting[container.name] = Waiting("ContainerCreating", facts.volumes)
        elif container.name in facts.busy:
            self._waiting[container.name] = obstacle or Waiting("ContainerCreating")
        elif obstacle is not None:
            self._waiting[container.name] = obstacle
        elif not facts.images.get(container.name, False):
            self._actions.append(PullImage(container.name, container.image))
            self._waiting[container.name] = Waiting("ContainerCreating")
        else:
            self._actions.append(StartContainer(container.name, attempt, crashes, init))
            self._waiting[container.name] = Waiting("ContainerCreating")


def deadline(pod: Pod) -> float | None:
    """When the pod must have ended (activeDeadlineSeconds), Unix seconds."""
    if pod.spec.active_deadline_seconds is None or pod.status.start_time is None:
        return None
    return parse_rfc3339(pod.status.start_time) + pod.spec.active_deadline_seconds
