"""Runs the probes of running containers; one task per probe, ended with its container."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from k8slite.api.kinds.pod.types import Container, Pod, Probe
from k8slite.decide.pods.probe import ProbeKind, ProbeState, health, observe, probe_of
from k8slite.decide.pods.state import Health, ObservedContainer, ObservedPod, Run
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.handlers import Doer, Target

#: ``unhealthy(pod, container, kind, message)``: a probe failed once.
Unhealthy = Callable[[Pod, Container, str, str], None]


class Prober:
    """Probe results by container id; ``changed(uid)`` when a verdict may have turned."""

    def __init__(
        self, doer: Doer, clock: Clock, changed: Callable[[str], None], unhealthy: Unhealthy
    ) -> None:
        self._doer = doer
        self._clock = clock
        self._changed = changed
        self._unhealthy = unhealthy
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._states: dict[str, dict[ProbeKind, ProbeState]] = {}
        self._of_pod: dict[str, set[str]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            await asyncio.Event().wait()

    def sync(self, pod: Pod, observed: ObservedPod, host_ip: str) -> dict[str, Health]:
        """Probe what runs, leave what does not; returns the verdicts by container id."""
        uid = pod.metadata.uid
        running: dict[str, Health] = {}
        for container in pod.spec.containers:
            seen = observed.latest(container.name)
            if seen is None or seen.run is not Run.RUNNING:
                continue
            if not any(probe_of(container, kind) for kind in ProbeKind):
                continue
            if seen.id not in self._tasks:
                self._begin(pod, container, seen, _address(observed, host_ip))
            running[seen.id] = health(container, self._states[seen.id])
        for id in self._of_pod.get(uid, set()) - running.keys():
            self._end(uid, id)
        return running

    def forget(self, uid: str) -> None:
        for id in list(self._of_pod.get(uid, ())):
            self._end(uid, id)

    def _begin(self, pod: Pod, container: Container, seen: ObservedContainer, ip: str) -> None:
        assert self._group is not None
        self._states[seen.id] = {}
        self._of_pod.setdefault(pod.metadata.uid, set()).add(seen.id)
        target = Target(container, seen.id, ip)
        self._tasks[seen.id] = [
            self._group.create_task(
                self._probe(pod, target, seen, kind, probe), name=f"{kind.value}-{seen.id[:12]}"
            )
            for kind in ProbeKind
            if (probe := probe_of(container, kind)) is not None
        ]

    def _end(self, uid: str, id: str) -> None:
        for task in self._tasks.pop(id, []):
            task.cancel()
        self._states.pop(id, None)
        ids = self._of_pod.get(uid, set())
        ids.discard(id)
        if not ids:
            self._of_pod.pop(uid, None)

    async def _probe(
        self, pod: Pod, target: Target, seen: ObservedContainer, kind: ProbeKind, probe: Probe
    ) -> None:
        uid = pod.metadata.uid
        due = seen.started_at + probe.initial_delay_seconds - self._clock.now()
        await self._clock.sleep(max(0.0, due))
        while True:
            states = self._states[target.id]
            if kind is ProbeKind.STARTUP and states.get(kind, ProbeState()).ok:
                return
            if kind is ProbeKind.STARTUP or self._started(target, states):
                outcome = await self._doer.do(probe, target, probe.timeout_seconds)
                before = states.get(kind, ProbeState())
                states[kind] = observe(before, probe, outcome.ok, outcome.message)
                if not outcome.ok:
                    self._unhealthy(pod, target.container, kind.value, outcome.message)
                if states[kind].ok is not before.ok:
                    self._changed(uid)
                await self._clock.sleep(probe.period_seconds)
            else:
                await self._clock.sleep(min(1.0, probe.period_seconds))

    def _started(self, target: Target, states: dict[ProbeKind, ProbeState]) -> bool:
        if target.container.startup_probe is None:
            return True
        return states.get(ProbeKind.STARTUP, ProbeState()).ok is True


def _address(observed: ObservedPod, host_ip: str) -> str:
    sandbox = observed.sandbox
    return sandbox.ip if sandbox is not None and sandbox.ip else host_ip
