"""What a request to delete does to an object: mark it, shorten its grace, or end it.

Rules: kubernetes' ``registry/rest/delete.go`` and ``registry/generic/registry/store.go``. A pod on
a node is given time to stop; an object with finalizers stays, marked, until the last of them is
taken away; a namespace stays until it is empty and finalized.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from k8slite.api.errors import BadRequest, Conflict, FieldError, Invalid
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.meta import DeleteOptions, Object
from k8slite.kit.clock import parse_rfc3339, rfc3339

T = TypeVar("T", bound=Object)

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
POLICIES = ("", "Background", "Foreground", "Orphan")
#: The grace that a pod gets when neither it nor the request names one, in seconds.
DEFAULT_GRACE = 30


def plan(obj: T, options: DeleteOptions, now: float) -> T | None:
    """The object as it shall stay, or None when it is to go at once. ``obj`` itself: no change.

    Raises BadRequest for contradicting options, Invalid for an unknown policy.
    """
    policy = propagation(options)
    grace = _grace(obj, options)
    finalizers = _finalizers(obj, policy)
    if not finalizers and grace == 0 and not _held(obj):
        return None
    return _marked(obj, grace, finalizers, now)


def finished(obj: Object) -> bool:
    """A marked object that nothing holds any longer: the next write of it is its end."""
    meta = obj.metadata
    return (
        meta.deletion_timestamp is not None
        and not meta.finalizers
        and not meta.deletion_grace_period_seconds
        and not _held(obj)
    )


def propagation(options: DeleteOptions) -> str:
    """Background, Foreground or Orphan. Raises BadRequest, Invalid."""
    policy, orphan = options.propagation_policy, options.orphan_dependents
    if policy not in POLICIES:
        error = FieldError(
            "propagationPolicy",
            f'Unsupported value: "{policy}": supported values: {", ".join(POLICIES[1:])}',
            "NotSupported",
        )
        raise Invalid("DeleteOptions", "", [error])
    if policy and orphan is not None:
        raise BadRequest("orphanDependents and propagationPolicy cannot both be set")
    if orphan:
        return "Orphan"
    return policy or "Background"


def check_preconditions(obj: Object, options: DeleteOptions, plural: str) -> None:
    """Raises Conflict when ``obj`` is not the object, or not the version, that was meant."""
    wanted, meta = options.preconditions, obj.metadata
    if wanted is None:
        return
    for what, expected, actual in (
        ("UID", wanted.uid, meta.uid),
        ("ResourceVersion", wanted.resource_version, meta.resource_version),
    ):
        if expected is not None and expected != actual:
            raise precondition_failed(plural, meta.name, what, expected, actual)


def precondition_failed(plural: str, name: str, what: str, expected: str, actual: str) -> Conflict:
    message = (
        f'Operation cannot be fulfilled on {plural} "{name}": Precondition failed: {what} in '
        f"precondition: {expected}, {what} in object meta: {actual}"
    )
    return Conflict(message, kind=plural, name=name)


def _grace(obj: Object, options: DeleteOptions) -> int:
    """Seconds that ``obj`` gets; only a pod that runs somewhere gets any."""
    if not isinstance(obj, Pod):
        return 0
    asked = options.grace_period_seconds
    if asked is not None and asked < 0:
        asked = 1  # what Kubernetes makes of a negative grace
    if not obj.spec.node_name or obj.status.phase in ("Succeeded", "Failed"):
        return 0
    if asked is not None:
        return asked
    own = obj.spec.termination_grace_period_seconds
    return DEFAULT_GRACE if own is None else own


def _finalizers(obj: Object, policy: str) -> tuple[str, ...]:
    kept = tuple(f for f in obj.metadata.finalizers if f not in (FOREGROUND, ORPHAN))
    match policy:
        case "Foreground":
            return (*kept, FOREGROUND)
        case "Orphan":
            return (*kept, ORPHAN)
    # A deletion under way keeps the policy that it began with.
    return obj.metadata.finalizers if obj.metadata.deletion_timestamp else kept


def _held(obj: Object) -> bool:
    return isinstance(obj, Namespace) and bool(obj.spec.finalizers)


def _marked(obj: T, grace: int, finalizers: tuple[str, ...], now: float) -> T:
    meta = obj.metadata
    if meta.deletion_timestamp is None:
        due = int(now) + grace
    else:
        before = meta.deletion_grace_period_seconds or 0
        grace = min(before, grace)  # a second request may shorten, never lengthen
        due = int(parse_rfc3339(meta.deletion_timestamp)) - before + grace
    fields = {
        "deletion_timestamp": rfc3339(due),
        "deletion_grace_period_seconds": grace,
        "finalizers": finalizers,
    }
    obj = msgspec.structs.replace(obj, metadata=msgspec.structs.replace(meta, **fields))
    if isinstance(obj, Namespace) and obj.status.phase != "Terminating":
        status = msgspec.structs.replace(obj.status, phase="Terminating")
        obj = msgspec.structs.replace(obj, status=status)
    return obj
