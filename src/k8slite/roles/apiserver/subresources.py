"""What each part of an object's path writes: the body, /status, /binding, /scale, /finalize.

Pure functions from the object that is there and what was sent to the object to be stored.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from k8slite.api.errors import Conflict, FieldError, Invalid, conflict
from k8slite.api.kinds.binding.types import Binding
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.pod.types import Pod, PodCondition
from k8slite.api.kinds.replicationcontroller.types import (
    ReplicationController,
    Scale,
    ScaleSpec,
    ScaleStatus,
)
from k8slite.api.meta import Object, ObjectMeta
from k8slite.api.scheme import Kind
from k8slite.api.selectors import format_labels
from k8slite.decide.deletion import precondition_failed
from k8slite.roles.apiserver import naming

T = TypeVar("T", bound=Object)


def prepared(kind: Kind[T], new: T, old: T, subresource: str) -> T:
    """``new`` as the next version of ``old``, changed only where ``subresource`` may change it."""
    strategy = kind.strategy
    match subresource:
        case "":
            new = naming.successor(kind, strategy.prepare_update(new, old), old)
        case "status":
            new = naming.successor(kind, strategy.prepare_status(new, old), old)
        case "finalize":
            spec = msgspec.structs.replace(
                cast(Namespace, old).spec, finalizers=cast(Namespace, new).spec.finalizers
            )
            return msgspec.structs.replace(old, spec=spec)
    return naming.next_generation(kind, new, old)


def errors(kind: Kind[T], new: T, old: T, subresource: str) -> list[FieldError]:
    """What is wrong with ``new`` as the next version of ``old``."""
    if subresource == "status":
        return kind.strategy.validate_status(new, old)
    if subresource in ("binding", "finalize"):
        return []
    return kind.strategy.validate(new, old)


def bound(pod: Pod, binding: Binding, now: str) -> Pod:
    """``pod`` on the node that ``binding`` names, with the binding's annotations.

    Raises Conflict when it is bound, leaving, or another pod of that name; Invalid.
    """
    meta, target = pod.metadata, binding.target
    wrong = []
    if target.kind not in ("", "Node", "Minion"):
        wrong.append(FieldError("target.kind", 'must be empty or "Node"', "NotSupported"))
    if not target.name:
        wrong.append(FieldError("target.name", "Required value", "Required"))
    if wrong:
        raise Invalid("Binding", meta.name, wrong)
    if binding.metadata.uid and binding.metadata.uid != meta.uid:
        raise precondition_failed("pods", meta.name, "UID", binding.metadata.uid, meta.uid)
    if meta.deletion_timestamp is not None:
        raise _unbindable(meta.name, f"pod {meta.name} is being deleted, cannot be assigned")
    if pod.spec.node_name:
        raise _unbindable(
            meta.name, f"pod {meta.name} is already assigned to node {pod.spec.node_name!r}"
        )
    scheduled = PodCondition(type="PodScheduled", status="True", last_transition_time=now)
    others = tuple(c for c in pod.status.conditions if c.type != "PodScheduled")
    status = msgspec.structs.replace(pod.status, conditions=(*others, scheduled))
    spec = msgspec.structs.replace(pod.spec, node_name=target.name)
    if binding.metadata.annotations:
        annotations = {**(meta.annotations or {}), **binding.metadata.annotations}
        meta = msgspec.structs.replace(meta, annotations=annotations)
    return msgspec.structs.replace(pod, metadata=meta, spec=spec, status=status)


def _unbindable(name: str, why: str) -> Conflict:
    message = f'Operation cannot be fulfilled on pods/binding "{name}": {why}'
    return Conflict(message, kind="pods/binding", name=name)


def scale_of(rc: ReplicationController) -> Scale:
    meta = rc.metadata
    return Scale(
        metadata=ObjectMeta(
            resource_version=meta.resource_version,
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            creation_timestamp=meta.creation_timestamp,
        ),
        spec=ScaleSpec(replicas=1 if rc.spec.replicas is None else rc.spec.replicas),
        status=ScaleStatus(replicas=rc.status.replicas, selector=format_labels(rc.spec.selector)),
    )


def scaled(rc: ReplicationController, scale: Scale) -> ReplicationController:
    """Raises Conflict when ``scale`` was read from another version or object; Invalid."""
    wanted, meta = scale.metadata, rc.metadata
    if wanted.uid and wanted.uid != meta.uid:
        raise precondition_failed("replicationcontrollers", meta.name, "UID", wanted.uid, meta.uid)
    if wanted.resource_version and wanted.resource_version != meta.resource_version:
        raise conflict("replicationcontrollers", meta.name)
    if scale.spec.replicas < 0:
        error = FieldError("spec.replicas", "must be greater than or equal to 0")
        raise Invalid("Scale", meta.name, [error])
    spec: Any = msgspec.structs.replace(rc.spec, replicas=scale.spec.replicas)
    return msgspec.structs.replace(rc, spec=spec)
