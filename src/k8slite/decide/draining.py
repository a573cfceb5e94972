"""Which pods leave a node that is drained, which stay, and which stand in the way.

The rules are those of ``kubectl drain``: mirrors and what every node runs one of stay; what nobody
would make again, and what would lose its data, goes only when that is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from k8slite.api.kinds.pod.types import Pod
from k8slite.decide.admission.nodes import MIRROR


@dataclass(frozen=True, slots=True)
class Leave:
    """What is allowed to be lost."""

    force: bool = False  # pods without a controller
    ignore_daemons: bool = False  # leave pods of a DaemonSet where they are
    delete_data: bool = False  # what lies in an emptyDir


@dataclass(frozen=True, slots=True)
class Departure:
    """``going`` are the pods to evict, ``warnings`` and ``obstacles`` lines for people. Where there
    is an obstacle nothing should go."""

    going: tuple[Pod, ...] = ()
    warnings: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()


def departure(pods: Iterable[Pod], leave: Leave) -> Departure:
    """What becomes of the pods of a node that is drained."""
    going: list[Pod] = []
    alone, daemons, losing = [], [], []
    for pod in pods:
        if pod.metadata.annotation(MIRROR):
            continue
        owner = _controller(pod)
        if owner == "DaemonSet":
            daemons.append(pod.key)
            continue
        if pod.status.phase not in ("Succeeded", "Failed"):
            if not owner:
                alone.append(pod.key)
            if any(volume.empty_dir is not None for volume in pod.spec.volumes):
                losing.append(pod.key)
        going.append(pod)
    warnings: list[str] = []
    obstacles: list[str] = []
    for names, allowed, flag, refusal, warning in (
        (alone, leave.force, "--force", "pods without a controller", "deleting"),
        (daemons, leave.ignore_daemons, "--ignore-daemonsets", "pods of a DaemonSet", "ignoring"),
        (losing, leave.delete_data, "--delete-emptydir-data", "pods with an emptyDir", "deleting"),
    ):
        told = f"{refusal}: {', '.join(sorted(names))}"
        if names and allowed:
            warnings.append(f"{warning} {told}")
        elif names:
            obstacles.append(f"cannot delete {told} (use {flag} to override)")
    return Departure(tuple(going), tuple(warnings), tuple(obstacles))


def _controller(pod: Pod) -> str:
    """The kind of what made the pod and would make it again; "" for none."""
    owners = (owner.kind for owner in pod.metadata.owner_references if owner.controller)
    return next(owners, "")
