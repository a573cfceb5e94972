"""Probes as state machines: results go in one by one, a verdict comes out.

Rules: kubernetes pkg/kubelet/prober. A startup probe holds the other two back until it succeeds;
a failing liveness or startup probe kills; a readiness probe starts out not ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from msgspec.structs import replace as _with

from k8slite.api.kinds.pod.types import Container, Probe
from k8slite.decide.pods.state import Health


class ProbeKind(Enum):
    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


@dataclass(frozen=True, slots=True)
class ProbeState:
    """``ok`` is the standing verdict (None: none yet); ``streak`` counts equal results in a row."""

    ok: bool | None = None
    streak: int = 0
    last: bool | None = None
    message: str = ""


def probe_of(container: Container, kind: ProbeKind) -> Probe | None:
    """The container's probe of that kind, its zero fields filled with the defaults."""
    probe = {
        ProbeKind.STARTUP: container.startup_probe,
        ProbeKind.LIVENESS: container.liveness_probe,
        ProbeKind.READINESS: container.readiness_probe,
    }[kind]
    if probe is None:
        return None
    return _with(
        probe,
        timeout_seconds=probe.timeout_seconds or 1,
        period_seconds=probe.period_seconds or 10,
        success_threshold=probe.success_threshold or 1,
        failure_threshold=probe.failure_threshold or 3,
    )


def observe(state: ProbeState, probe: Probe, ok: bool, message: str = "") -> ProbeState:
    """The state after one more result; the verdict turns at the probe's thresholds."""
    streak = state.streak + 1 if state.last is ok else 1
    needed = probe.success_threshold if ok else probe.failure_threshold
    verdict = ok if streak >= needed else state.ok
    return ProbeState(ok=verdict, streak=streak, last=ok, message="" if ok else message)


def health(container: Container, states: Mapping[ProbeKind, ProbeState]) -> Health:
    """What the probe states say of the container that bears them."""
    started = True
    if container.startup_probe is not None:
        startup = states.get(ProbeKind.STARTUP, ProbeState())
        if startup.ok is False:
            return Health(False, False, _killed(container, ProbeKind.STARTUP))
        started = startup.ok is True
    if container.liveness_probe is not None:
        liveness = states.get(ProbeKind.LIVENESS, ProbeState())
        if liveness.ok is False:
            return Health(started, False, _killed(container, ProbeKind.LIVENESS))
    ready = started
    if container.readiness_probe is not None:
        ready = ready and states.get(ProbeKind.READINESS, ProbeState()).ok is True
    return Health(started, ready)


def _killed(container: Container, kind: ProbeKind) -> str:
    return f"Container {container.name} failed {kind.value} probe, will be restarted"
