"""Replication: so many pods of this template, always.

``plan`` compares a controller with the pods that concern it: those it owns and those that nobody
owns but its selector matches. The plan may be applied in part and in any order; deciding again
from what is then there ends in the same place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from k8slite.api import selectors
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.replicationcontroller.types import (
    ReplicationController,
    ReplicationControllerStatus,
)
from k8slite.api.meta import ObjectMeta, OwnerReference
from k8slite.kit.clock import parse_rfc3339

_OVER = ("Succeeded", "Failed")
_PHASES = {"Pending": 0, "Unknown": 1, "": 1}


@dataclass(frozen=True, slots=True)
class Plan:
    """``adopt`` and ``release`` change who owns a pod, ``create`` is how many to make.

    ``look_again`` is in how many seconds the status will change by itself (minReadySeconds).
    """

    status: ReplicationControllerStatus
    adopt: tuple[Pod, ...] = ()
    release: tuple[Pod, ...] = ()
    create: int = 0
    delete: tuple[Pod, ...] = ()
    look_again: float | None = None


def controller_of(obj: Any) -> OwnerReference | None:
    """The owner that manages ``obj`` (ownerReferences with ``controller: true``), if any."""
    for reference in obj.metadata.owner_references:
        if reference.controller:
            found: OwnerReference = reference
            return found
    return None


def is_active(pod: Pod) -> bool:
    """Neither over nor on its way out: it counts as a replica."""
    return pod.metadata.deletion_timestamp is None and pod.status.phase not in _OVER


def is_ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def _ready_since(pod: Pod) -> float:
    """When the pod became ready, in Unix seconds; 0 when nobody wrote it down."""
    for condition in pod.status.conditions:
        if condition.type == "Ready" and condition.last_transition_time:
            return parse_rfc3339(condition.last_transition_time)
    return 0.0


def reference_to(controller: ReplicationController) -> OwnerReference:
    meta = controller.metadata
    return OwnerReference(
        api_version=controller.api_version,
        kind=controller.kind,
        name=meta.name,
        uid=meta.uid,
        controller=True,
        block_owner_deletion=True,
    )


def pod_from_template(controller: ReplicationController, name: str) -> Pod:
    """The replica ``name`` as it is to be created."""
    template = controller.spec.template
    assert template is not None, "validation requires a template"
    metadata = ObjectMeta(
        name=name,
        generate_name=f"{controller.metadata.name}-",
        namespace=controller.metadata.namespace,
        labels=template.metadata.labels,
        annotations=template.metadata.annotations,
        finalizers=template.metadata.finalizers,
        owner_references=(reference_to(controller),),
    )
    return Pod(kind="Pod", metadata=metadata, spec=template.spec)


def adopted(controller: ReplicationController, pod: Pod) -> Pod:
    references = (*pod.metadata.owner_references, reference_to(controller))
    return _owned_by(pod, references)


def released(controller: ReplicationController, pod: Pod) -> Pod:
    uid = controller.metadata.uid
    return _owned_by(pod, tuple(r for r in pod.metadata.owner_references if r.uid != uid))


def _owned_by(pod: Pod, references: tuple[OwnerReference, ...]) -> Pod:
    metadata = msgspec.structs.replace(pod.metadata, owner_references=references)
    return msgspec.structs.replace(pod, metadata=metadata)


def deletion_rank(pod: Pod) -> tuple[Any, ...]:
    """Sorts pods into the order in which surplus ones go: unassigned, then pending, then not
    ready, then the youngest; the name decides last, so that two looks agree."""
    created = pod.metadata.creation_timestamp
    return (
        bool(pod.spec.node_name),
        _PHASES.get(pod.status.phase, 2),
        is_ready(pod),
        -parse_rfc3339(created) if created else 0.0,
        pod.metadata.name,
    )


def plan(controller: ReplicationController, pods: Iterable[Pod], now: float) -> Plan:
    """``pods`` are those of the controller's namespace that it may have to do with (others are
    ignored); ``now`` is Unix seconds."""
    uid, spec = controller.metadata.uid, controller.spec
    leaving = controller.metadata.deletion_timestamp is not None
    owned: list[Pod] = []
    adopt: list[Pod] = []
    release: list[Pod] = []
    for pod in pods:
        owner = controller_of(pod)
        matches = bool(spec.selector) and selectors.match_labels(spec.selector, pod.metadata.labels)
        if owner is not None and owner.uid == uid:
            if matches or leaving:
                owned.append(pod)
            elif pod.metadata.deletion_timestamp is None:
                release.append(pod)
        elif owner is None and matches and not leaving and is_active(pod):
            adopt.append(pod)
    active = [pod for pod in (*owned, *adopt) if is_active(pod)]
    status, look_again = _status(controller, active, now)
    if leaving:
        return Plan(release=tuple(release), status=status, look_again=look_again)
    wanted = 1 if spec.replicas is None else spec.replicas
    excess = len(active) - wanted
    surplus = sorted(active, key=deletion_rank)[:excess] if excess > 0 else []
    return Plan(
        adopt=tuple(pod for pod in adopt if pod not in surplus) if surplus else tuple(adopt),
        release=tuple(release),
        create=max(0, -excess),
        delete=tuple(surplus),
        status=status,
        look_again=look_again,
    )


def _status(
    controller: ReplicationController, active: list[Pod], now: float
) -> tuple[ReplicationControllerStatus, float | None]:
    """What the pods say of the controller, and when that changes with time alone."""
    template = controller.spec.template
    labels = template.metadata.labels if template else None
    least = controller.spec.min_ready_seconds
    ready = [pod for pod in active if is_ready(pod)]
    waits = [_ready_since(pod) + least - now for pod in ready] if least else []
    soon = [wait for wait in waits if wait > 0]
    status = msgspec.structs.replace(
        controller.status,
        replicas=len(active),
        fully_labeled_replicas=sum(
            selectors.match_labels(labels, pod.metadata.labels) for pod in active
        ),
        ready_replicas=len(ready),
        available_replicas=len(ready) - len(soon),
        observed_generation=controller.metadata.generation,
    )
    return status, min(soon, default=None)
