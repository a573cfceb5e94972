"""The status that a pod deserves, from what is seen of it.

Phases follow kubernetes-v0.17.md §4 with today's refinement (a container that waits for its next
restart counts as stopped); conditions are PodScheduled, Initialized, ContainersReady, Ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from k8slite.api.kinds.pod.types import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    Pod,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
)
from k8slite.decide.pods.state import Health, ObservedContainer, ObservedPod, Run, Waiting
from k8slite.decide.pods.sync import TERMINAL
from k8slite.kit.clock import rfc3339


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What the status is made of besides the pod. ``runtime`` prefixes container ids."""

    observed: ObservedPod
    now: float
    host_ip: str
    waiting: Mapping[str, Waiting]
    health: Mapping[str, Health]
    runtime: str = "docker"


def status_of(pod: Pod, facts: StatusFacts) -> PodStatus:
    """The whole status; transition times are kept where nothing changed."""
    old = pod.status
    if old.phase in TERMINAL:
        return _frozen(pod, facts)
    init = _statuses(pod.spec.init_containers, old.init_container_statuses, facts, init=True)
    idle = "ContainerCreating" if all(s.ready for s in init) else "PodInitializing"
    main = _statuses(pod.spec.containers, old.container_statuses, facts, idle, init=False)
    phase = phase_of(pod.spec, init, main)
    ip = _pod_ip(pod, facts)
    return replace(
        old,
        phase=phase,
        conditions=_conditions(pod, phase, init, main, facts.now),
        host_ip=facts.host_ip,
        pod_ip=ip,
        pod_ips=(PodIP(ip=ip),) if ip else (),
        start_time=old.start_time or rfc3339(facts.now),
        init_container_statuses=init,
        container_statuses=main,
        qos_class=old.qos_class or qos_class(pod.spec),
        reason="",
        message="",
    )


def failed(pod: Pod, reason: str, message: str, now: float, host_ip: str) -> PodStatus:
    """The end of a pod that this node will not run (rejected, past its deadline)."""
    old = pod.status
    return replace(
        old,
        phase="Failed",
        reason=reason,
        message=message,
        host_ip=host_ip,
        start_time=old.start_time or rfc3339(now),
        qos_class=old.qos_class or qos_class(pod.spec),
    )


def phase_of(
    spec: PodSpec, init: Sequence[ContainerStatus], main: Sequence[ContainerStatus]
) -> str:
    """Pending, Running, Succeeded or Failed."""
    for status in init:
        ended = status.state.terminated
        if ended is not None and ended.exit_code == 0:
            continue
        if ended is not None and spec.restart_policy == "Never":
            return "Failed"
        return "Pending"
    running = sum(1 for s in main if s.state.running is not None)
    ends = [end for s in main if (end := _end(s)) is not None]
    if running + len(ends) < len(main):
        return "Pending"
    if running:
        return "Running"
    if not ends or spec.restart_policy == "Always":
        return "Running" if ends else "Pending"
    if all(end.exit_code == 0 for end in ends):
        return "Succeeded"
    return "Failed" if spec.restart_policy == "Never" else "Running"


def qos_class(spec: PodSpec) -> str:
    """Guaranteed, Burstable or BestEffort."""
    limits = [c.resources.limits or {} for c in spec.containers]
    requests = [c.resources.requests or {} for c in spec.containers]
    if not any(limits) and not any(requests):
        return "BestEffort"
    for limit, request in zip(limits, requests, strict=True):
        for resource in ("cpu", "memory"):
            if resource not in limit or request.get(resource, limit[resource]) != limit[resource]:
                return "Burstable"
    return "Guaranteed"


def _end(status: ContainerStatus) -> ContainerStateTerminated | None:
    if status.state.terminated is not None:
        return status.state.terminated
    return status.last_state.terminated if status.state.waiting is not None else None


def _pod_ip(pod: Pod, facts: StatusFacts) -> str:
    if pod.spec.host_network:
        return facts.host_ip if facts.observed.sandbox is not None else ""
    sandbox = facts.observed.sandbox
    return sandbox.ip if sandbox is not None and sandbox.run is Run.RUNNING else ""


def _frozen(pod: Pod, facts: StatusFacts) -> PodStatus:
    """A finished pod: nothing but readiness may still change."""
    statuses = tuple(replace(s, ready=False, started=False) for s in pod.status.container_statuses)
    return replace(pod.status, container_statuses=statuses)


def _statuses(
    containers: Iterable[Container],
    old: Iterable[ContainerStatus],
    facts: StatusFacts,
    idle: str = "ContainerCreating",
    *,
    init: bool,
) -> tuple[ContainerStatus, ...]:
    """``idle`` is the reason of a container that has not run and that nothing stands against."""
    before = {status.name: status for status in old}
    return tuple(_status(c, before.get(c.name), facts, idle, init=init) for c in containers)


def _status(
    container: Container,
    old: ContainerStatus | None,
    facts: StatusFacts,
    idle: str,
    *,
    init: bool,
) -> ContainerStatus:
    seen = facts.observed.latest(container.name)
    waiting = facts.waiting.get(container.name)
    if seen is None or seen.run is Run.CREATED:
        return _never_ran(container, old, waiting or Waiting(idle))
    health = facts.health.get(seen.id, Health())
    running = seen.run is Run.RUNNING
    state, last = _states(seen, facts.observed.previous(container.name), waiting, facts, old)
    return ContainerStatus(
        name=container.name,
        state=state,
        last_state=last,
        ready=(running and health.started and health.ready) if not init else seen_ok(seen),
        restart_count=seen.attempt,
        image=seen.image or container.image,
        image_id=seen.image_id,
        container_id=f"{facts.runtime}://{seen.id}",
        started=running and health.started,
    )


def seen_ok(seen: ObservedContainer) -> bool:
    """An init container is ready once it ended well."""
    return seen.run is Run.EXITED and seen.exit_code == 0


def _never_ran(container: Container, old: ContainerStatus | None, why: Waiting) -> ContainerStatus:
    state = ContainerState(waiting=ContainerStateWaiting(reason=why.reason, message=why.message))
    if old is None:
        return ContainerStatus(
            name=container.name, image=container.image, state=state, started=False
        )
    last = old.last_state
    if old.state.terminated is not None:
        last = ContainerState(terminated=old.state.terminated)
    return replace(old, state=state, last_state=last, ready=False, started=False)


def _states(
    seen: ObservedContainer,
    previous: ObservedContainer | None,
    waiting: Waiting | None,
    facts: StatusFacts,
    old: ContainerStatus | None,
) -> tuple[ContainerState, ContainerState]:
    """Present and last state; a dead container that will run again waits."""
    last = ContainerState()
    if previous is not None and previous.run is Run.EXITED:
        last = ContainerState(terminated=terminated(previous, facts.runtime))
    elif old is not None and old.restart_count == seen.attempt:
        last = old.last_state
    if seen.run is Run.RUNNING:
        return ContainerState(
            running=ContainerStateRunning(started_at=_stamp(seen.started_at))
        ), last
    end = ContainerState(terminated=terminated(seen, facts.runtime))
    if waiting is not None:
        waits = ContainerStateWaiting(reason=waiting.reason, message=waiting.message)
        return ContainerState(waiting=waits), end
    return end, last


def terminated(dead: ObservedContainer, runtime: str) -> ContainerStateTerminated:
    """How a container ended, in the API's words."""
    if dead.oom_killed:
        reason = "OOMKilled"
    elif dead.error:
        reason = "ContainerCannotRun"
    else:
        reason = "Completed" if dead.exit_code == 0 else "Error"
    return ContainerStateTerminated(
        exit_code=dead.exit_code,
        reason=reason,
        message=dead.message or dead.error,
        started_at=_stamp(dead.started_at),
        finished_at=_stamp(dead.finished_at),
        container_id=f"{runtime}://{dead.id}",
    )


def _stamp(seconds: float) -> str | None:
    return rfc3339(seconds) if seconds else None


def _conditions(
    pod: Pod,
    phase: str,
    init: Sequence[ContainerStatus],
    main: Sequence[ContainerStatus],
    now: float,
) -> tuple[PodCondition, ...]:
    not_init = [s.name for s in init if not s.ready]
    not_ready = [s.name for s in main if not s.ready]
    if phase == "Succeeded":
        initialized, ready = ("True", "PodCompleted", ""), ("False", "PodCompleted", "")
    else:
        initialized = _verdict(not_init, "ContainersNotInitialized", "incomplete status")
        ready = _verdict(not_ready, "ContainersNotReady", "unready status")
    wanted = {
        "Initialized": initialized,
        "Ready": ready,
        "ContainersReady": ready,
        "PodScheduled": ("True", "", ""),
    }
    old = {condition.type: condition for condition in pod.status.conditions}
    kept = tuple(c for c in pod.status.conditions if c.type not in wanted)
    return tuple(_condition(t, v, old.get(t), now) for t, v in wanted.items()) + kept


def _verdict(names: list[str], reason: str, what: str) -> tuple[str, str, str]:
    if not names:
        return ("True", "", "")
    return ("False", reason, f"containers with {what}: [{' '.join(names)}]")


def _condition(
    type_: str, verdict: tuple[str, str, str], old: PodCondition | None, now: float
) -> PodCondition:
    status, reason, message = verdict
    same = old is not None and old.status == status and old.last_transition_time
    return PodCondition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        last_probe_time=old.last_probe_time if old is not None else None,
        last_transition_time=old.last_transition_time if old is not None and same else rfc3339(now),
    )
