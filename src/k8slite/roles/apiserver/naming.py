"""Where an object lives and what it is called: namespace, name, generated name, uid, stamps."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from k8slite.api.errors import BadRequest, FieldError, Invalid
from k8slite.api.meta import Object, ObjectMeta
from k8slite.api.scheme import Kind
from k8slite.decide.deletion import precondition_failed
from k8slite.kit.clock import Clock

T = TypeVar("T", bound=Object)

#: 63 characters of a name less the five of the suffix.
LONGEST_BASE = 58


def placed(kind: Kind[T], obj: T, namespace: str, name: str = "") -> T:
    """``obj`` in the namespace (and under the name) that the request's path names.

    Raises BadRequest when the object itself names others; Invalid when a namespace is missing.
    """
    meta = obj.metadata
    if name and meta.name != name:
        if meta.name:
            raise BadRequest(
                f"the name of the object ({meta.name}) does not match the name on the URL ({name})"
            )
        meta = msgspec.structs.replace(meta, name=name)
    if not kind.namespaced:
        if meta.namespace:
            raise BadRequest(
                f"namespace ({meta.namespace}) may not be set: {kind.plural} have no namespace"
            )
    elif namespace and meta.namespace != namespace:
        if meta.namespace:
            raise BadRequest(
                f"the namespace of the provided object ({meta.namespace}) does not match the "
                f"namespace sent on the request ({namespace})"
            )
        meta = msgspec.structs.replace(meta, namespace=namespace)
    elif not meta.namespace:
        error = FieldError("metadata.namespace", "Required value", "Required")
        raise Invalid(kind.kind, meta.name, [error])
    return obj if meta is obj.metadata else with_meta(obj, meta)


def newborn(kind: Kind[T], obj: T, clock: Clock) -> T:
    """``obj`` with a uid, a birthday and a name of its own; what only the server may say is
    dropped. Raises BadRequest, Invalid."""
    meta = obj.metadata
    if meta.resource_version:
        raise BadRequest("resourceVersion should not be set on objects to be created")
    name = meta.name or generated(meta, clock)
    if not name:
        error = FieldError("metadata.name", "Required value: name or generateName", "Required")
        raise Invalid(kind.kind, "", [error])
    born = ObjectMeta(
        name=name,
        generate_name=meta.generate_name,
        namespace=meta.namespace,
        uid=clock.uid(),
        generation=0 if kind.strategy.generation_of is None else 1,
        creation_timestamp=clock.stamp(),
        labels=meta.labels,
        annotations=meta.annotations,
        owner_references=meta.owner_references,
        finalizers=meta.finalizers,
        managed_fields=meta.managed_fields,
    )
    return with_meta(obj, born)


def generated(meta: ObjectMeta, clock: Clock) -> str:
    """A fresh name from ``generateName``; "" when there is none."""
    return meta.generate_name and meta.generate_name[:LONGEST_BASE] + clock.suffix()


def renamed(obj: T, clock: Clock) -> T:
    """``obj`` under another generated name: the first one was taken."""
    name = generated(obj.metadata, clock)
    return with_meta(obj, msgspec.structs.replace(obj.metadata, name=name))


def successor(kind: Kind[T], new: T, old: T) -> T:
    """``new`` as the next version of ``old``: what the server says of an object stays as it is.

    Raises Conflict when ``new`` was meant for another object of the same name.
    """
    mine, meta = new.metadata, old.metadata
    if mine is meta:
        return new
    if mine.uid and mine.uid != meta.uid:
        raise precondition_failed(kind.plural, meta.name, "UID", mine.uid, meta.uid)
    kept = ObjectMeta(
        resource_version=meta.resource_version,
        name=meta.name,
        generate_name=meta.generate_name,
        namespace=meta.namespace,
        self_link=meta.self_link,
        uid=meta.uid,
        generation=meta.generation,
        creation_timestamp=meta.creation_timestamp,
        deletion_timestamp=meta.deletion_timestamp,
        deletion_grace_period_seconds=meta.deletion_grace_period_seconds,
        labels=mine.labels or None,
        annotations=mine.annotations or None,
        owner_references=mine.owner_references,
        finalizers=mine.finalizers,
        managed_fields=mine.managed_fields,
    )
    return with_meta(new, kept)


def next_generation(kind: Kind[T], new: T, old: T) -> T:
    """``new`` with its generation raised when it wants something else than ``old``."""
    part: Any = kind.strategy.generation_of
    if part is None or part(new) == part(old):
        return new
    meta = msgspec.structs.replace(new.metadata, generation=old.metadata.generation + 1)
    return with_meta(new, meta)


def with_meta(obj: T, meta: ObjectMeta) -> T:
    return msgspec.structs.replace(obj, metadata=meta)
