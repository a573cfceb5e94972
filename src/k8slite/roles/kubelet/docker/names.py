"""How our containers are named and labelled in Docker, and how they are read back.

Names are those of v0.17: ``k8s_<container>.<hash>_<pod>_<namespace>_<uid>_<8 hex>``; none of the
parts can hold an underscore. The name, not a label, says whose a container is: a warm sandbox is
given to a pod by renaming it, which Docker does atomically, while labels are fixed at creation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k8slite.decide.pods.spec import ContainerSpec, SandboxSpec
from k8slite.decide.pods.state import SANDBOX, ObservedContainer, PodRef, Run
from k8slite.kit.clock import parse_rfc3339

KIND = "io.k8slite.kind"  # sandbox, warm, container, network, pause
NODE = "io.k8slite.node"
ATTEMPT = "io.k8slite.attempt"
CRASHES = "io.k8slite.crashes"
SANDBOX_ID = "io.k8slite.sandbox"
GRACE = "io.k8slite.grace"
INIT = "io.k8slite.init"

_PREFIX = "k8s_"
_WARM = "warm"


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of a container's name; ``pod`` None is a warm sandbox, not yet anybody's."""

    container: str
    hash: str
    pod: PodRef | None
    suffix: str

    def __str__(self) -> str:
        if self.pod is None:
            return f"{_PREFIX}{SANDBOX}.{_WARM}_{self.suffix}"
        pod = self.pod
        return (
            f"{_PREFIX}{self.container}.{self.hash}_"
            f"{pod.name}_{pod.namespace}_{pod.uid}_{self.suffix}"
        )


def parse_name(text: str) -> Name | None:
    """The name's parts, or None for a name that is not of ours."""
    text = text.lstrip("/")
    if not text.startswith(_PREFIX):
        return None
    parts = text[len(_PREFIX) :].split("_")
    if len(parts) == 2 and parts[0] == f"{SANDBOX}.{_WARM}":
        return Name(SANDBOX, "", None, parts[1])
    container, dot, hash_ = parts[0].rpartition(".")
    if len(parts) != 5 or not dot:
        return None
    return Name(container, hash_, PodRef(parts[2], parts[1], parts[3]), parts[4])


def sandbox_labels(spec: SandboxSpec, node: str) -> dict[str, str]:
    return {KIND: "sandbox", NODE: node, ATTEMPT: str(spec.attempt), GRACE: str(spec.grace)}


def warm_labels(node: str) -> dict[str, str]:
    return {KIND: "warm", NODE: node}


def container_labels(spec: ContainerSpec, node: str) -> dict[str, str]:
    return {
        KIND: "container",
        NODE: node,
        ATTEMPT: str(spec.attempt),
        CRASHES: str(spec.crashes),
        SANDBOX_ID: spec.sandbox,
        GRACE: str(spec.grace),
        INIT: "1" if spec.init else "",
        # What other tools look for.
        "io.kubernetes.pod.name": spec.pod.name,
        "io.kubernetes.pod.namespace": spec.pod.namespace,
        "io.kubernetes.pod.uid": spec.pod.uid,
        "io.kubernetes.container.name": spec.name,
    }


def observed(id: str, name: Name, labels: Mapping[str, str], run: Run) -> ObservedContainer:
    """What name and labels tell of a container. Only for names with a pod."""
    assert name.pod is not None
    return ObservedContainer(
        id=id,
        name=name.container,
        pod=name.pod,
        hash=name.hash,
        run=run,
        attempt=_number(labels, ATTEMPT),
        crashes=_number(labels, CRASHES),
        sandbox=labels.get(SANDBOX_ID, ""),
        grace=_number(labels, GRACE, 30),
        init=bool(labels.get(INIT)),
        image=labels.get("image", ""),
    )


def _number(labels: Mapping[str, str], key: str, default: int = 0) -> int:
    text = labels.get(key, "")
    return int(text) if text.isdigit() else default


def inspected(data: Mapping[str, Any]) -> ObservedContainer | None:
    """The container that ``docker inspect`` describes; None when it is nobody's pod's."""
    name = parse_name(data["Name"])
    if name is None or name.pod is None:
        return None
    labels = data["Config"].get("Labels") or {}
    state = data["State"]
    base = observed(data["Id"], name, labels, Run.CREATED)
    created = when(data.get("Created", ""))
    run, started, finished = Run.CREATED, when(state["StartedAt"]), when(state["FinishedAt"])
    error = state.get("Error", "")
    if state.get("Running"):
        run, finished = Run.RUNNING, 0.0
    elif started or error:
        # Docker calls a container that would not start "created"; it has ended all the same.
        run = Run.EXITED
        started, finished = started or created, finished or created
    return ObservedContainer(
        **{
            **{field: getattr(base, field) for field in base.__slots__},
            "run": run,
            "image": data["Config"].get("Image", ""),
            "image_id": f"docker://{data['Image']}",
            "created_at": created,
            "started_at": started,
            "finished_at": finished,
            "exit_code": int(state.get("ExitCode", 0)),
            "oom_killed": bool(state.get("OOMKilled")),
            "error": error,
            "ip": address(data),
        }
    )


def doomed(data: Mapping[str, Any]) -> bool:
    """Docker has begun to remove it, and will never start it again."""
    state = data["State"]
    return bool(state.get("Dead")) or state.get("Status") in ("dead", "removing")


def address(data: Mapping[str, Any]) -> str:
    """The IPv4 address of an inspected container ("" when it has none of its own)."""
    networks = (data.get("NetworkSettings") or {}).get("Networks") or {}
    for network in networks.values():
        if network.get("IPAddress"):
            return str(network["IPAddress"])
    return ""


def when(text: str) -> float:
    """Docker's time → Unix seconds; its zero time (year 1) and "" → 0."""
    if not text or text.startswith("0001-"):
        return 0.0
    head, dot, tail = text.partition(".")
    if dot:
        # Docker writes nanoseconds and drops trailing zeros; Python reads three or six digits.
        digits = tail.rstrip("Z")
        text = f"{head}.{digits[:6]:0<6}Z"
    return parse_rfc3339(text)
