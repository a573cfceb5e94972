"""What is printed of pods."""

from __future__ import annotations

from itertools import takewhile

from k8slite.api import age
from k8slite.api.kinds.pod.types import (
    Container,
    ContainerState,
    ContainerStateTerminated,
    ContainerStatus,
    Pod,
)
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, NONE, age_in_words, labels_or_none, single

# --- the article's: a row for the pod, then a row for each container --------------------------


def _statuses(pod: Pod) -> list[ContainerStatus]:
    """A status for every container, blank before the kubelet has reported."""
    known = {status.name: status for status in pod.status.container_statuses}
    return [
        known.get(container.name) or ContainerStatus(name=container.name, image=container.image)
        for container in pod.spec.containers
    ]


def host(pod: Pod) -> str:
    if not pod.spec.node_name and not pod.status.host_ip:
        return "<unassigned>"
    return f"{pod.spec.node_name}/{pod.status.host_ip}"


def _state(state: ContainerState) -> str:
    if state.running:
        return "Running"
    if state.terminated:
        return "Terminated"
    return "Waiting" if state.waiting else ""


def _end(ended: ContainerStateTerminated) -> str:
    said = f"exit code {ended.exit_code}" if not ended.signal else f"signal {ended.signal}"
    because = ended.message or ended.reason
    return f"{said}: {because}" if because else said


def _message(status: ContainerStatus) -> str:
    state = status.state
    if state.terminated:
        return _end(state.terminated)
    now = ""
    if state.waiting:
        now = ": ".join(filter(None, (state.waiting.reason, state.waiting.message)))
    before = status.last_state.terminated
    return "; ".join(filter(None, (now, f"last termination: {_end(before)}" if before else "")))


def _why(pod: Pod) -> str:
    """What the pod itself has to say; of a pod without a node, why it has none."""
    unscheduled = (
        condition.message
        for condition in pod.status.conditions
        if condition.type == "PodScheduled" and condition.status == "False"
    )
    return pod.status.message or next(unscheduled, "")


def _created(pod: Pod, now: float) -> list[str]:
    cells = [age_in_words(pod.metadata.creation_timestamp, now)]
    for status in _statuses(pod):
        state = status.state
        stamp = state.running.started_at if state.running else None
        if state.terminated:
            stamp = state.terminated.finished_at
        cells.append(age_in_words(stamp, now) if stamp else "")
    return cells


ARTICLE_COLUMNS: tuple[Column[Pod], ...] = (
    single("POD", lambda pod: pod.metadata.name),
    single("IP", lambda pod: pod.status.pod_ip),
    Column("CONTAINER(S)", lambda pod, now: ["", *(c.name for c in pod.spec.containers)]),
    Column("IMAGE(S)", lambda pod, now: ["", *(c.image for c in pod.spec.containers)]),
    single("HOST", host),
    single("LABELS", lambda pod: labels_or_none(pod.metadata.labels)),
    Column("STATUS", lambda pod, now: [phase(pod), *(_state(s.state) for s in _statuses(pod))]),
    Column("CREATED", _created),
    Column(
        "MESSAGE",
        lambda pod, now: [_why(pod), *(_message(s) for s in _statuses(pod))],
    ),
)


def phase(pod: Pod) -> str:
    """The phase, or that the pod is on its way out."""
    return "Terminating" if pod.metadata.deletion_timestamp else pod.status.phase


# --- today's (kubernetes/pkg/printers/internalversion, printPod) ------------------------------


def _why_ended(ended: ContainerStateTerminated) -> str:
    if ended.reason:
        return ended.reason
    return f"Signal:{ended.signal}" if ended.signal else f"ExitCode:{ended.exit_code}"


def _initialising(pod: Pod) -> str:
    """``Init:…`` of the first init container that is not through, or ""."""
    for number, status in enumerate(pod.status.init_container_statuses):
        ended, waiting = status.state.terminated, status.state.waiting
        if ended and ended.exit_code == 0:
            continue
        if ended:
            return f"Init:{_why_ended(ended)}"
        if waiting and waiting.reason not in ("", "PodInitializing"):
            return f"Init:{waiting.reason}"
        return f"Init:{number}/{len(pod.spec.init_containers)}"
    return ""


def _is_ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def status(pod: Pod) -> str:
    """One word for how a pod does."""
    if pod.metadata.deletion_timestamp and pod.status.phase not in ("Succeeded", "Failed"):
        return "Unknown" if pod.status.reason == "NodeLost" else "Terminating"
    if init := _initialising(pod):
        return init
    said = pod.status.reason or pod.status.phase
    running = False
    for container in reversed(pod.status.container_statuses):
        state = container.state
        if state.waiting and state.waiting.reason:
            said = state.waiting.reason
        elif state.terminated:
            said = _why_ended(state.terminated)
        elif state.running and container.ready:
            running = True
    if said == "Completed" and running:
        return "Running" if _is_ready(pod) else "NotReady"
    return said


def _ready(pod: Pod) -> str:
    ready = sum(1 for s in pod.status.container_statuses if s.ready and s.state.running)
    return f"{ready}/{len(pod.spec.containers)}"


def _counted(pod: Pod) -> tuple[ContainerStatus, ...]:
    """The containers whose restarts tell: the init containers until they are through."""
    if not _initialising(pod):
        return pod.status.container_statuses
    through = takewhile(
        lambda s: bool(s.state.terminated) and s.state.terminated.exit_code == 0,  # type: ignore[union-attr]
        pod.status.init_container_statuses,
    )
    return pod.status.init_container_statuses[: len(list(through)) + 1]


def _restarts(pod: Pod, now: float) -> list[str]:
    counted = _counted(pod)
    count = sum(status.restart_count for status in counted)
    ends = [s.last_state.terminated.finished_at for s in counted if s.last_state.terminated]
    ages = [seconds for end in ends if (seconds := age.since(end, now)) is not None]
    if not count or not ages:
        return [str(count)]
    return [f"{count} ({age.short(min(ages))} ago)"]


def _gates(pod: Pod) -> str:
    gates = [str(gate.get("conditionType", "")) for gate in pod.spec.readiness_gates]
    if not gates:
        return NONE
    true = {c.type for c in pod.status.conditions if c.status == "True"}
    return f"{sum(gate in true for gate in gates)}/{len(gates)}"


COLUMNS: tuple[Column[Pod], ...] = (
    NAME,
    single("Ready", _ready, description="Containers that are ready, of all containers."),
    single("Status", status, description="One word for how the pod does."),
    Column("Restarts", _restarts, description="How often containers were started again."),
    AGE,
    single("IP", lambda pod: pod.status.pod_ip or NONE, wide=True),
    single("Node", lambda pod: pod.spec.node_name or NONE, wide=True),
    single("Nominated Node", lambda pod: pod.status.nominated_node_name or NONE, wide=True),
    single("Readiness Gates", _gates, wide=True),
)


def container_names(containers: tuple[Container, ...]) -> list[str]:
    return [container.name for container in containers]


def container_images(containers: tuple[Container, ...]) -> list[str]:
    return [container.image for container in containers]
