"""The life of an event on its way into the store."""

from __future__ import annotations

from k8slite.api import validation as check
from k8slite.api.defaulting import filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.event.types import Event
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors

TYPES = ("Normal", "Warning")
#: Where events about objects without a namespace may stand.
_ROOT_NAMESPACES = ("", "default", "kube-system")
_MAX_MESSAGE = 64 * 1024


def fields(event: Event) -> dict[str, str]:
    involved = event.involved_object
    component = event.source.component or event.reporting_component
    return {
        "involvedObject.kind": involved.kind,
        "involvedObject.namespace": involved.namespace,
        "involvedObject.name": involved.name,
        "involvedObject.uid": involved.uid,
        "involvedObject.apiVersion": involved.api_version,
        "involvedObject.resourceVersion": involved.resource_version,
        "involvedObject.fieldPath": involved.field_path,
        "reason": event.reason,
        "reportingComponent": component,
        "source": component,
        "type": event.type,
    }


def _default(event: Event) -> Event:
    return filled(event, {} if event.type else {"type": "Normal"})


def _checks(new: Event, old: Event | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    yield from check.choice(new.type, TYPES, "type")
    yield from check.natural(new.count, "count")
    if len(new.message) > _MAX_MESSAGE:
        said = f"{len(new.message)} characters; at most {_MAX_MESSAGE}"
        yield FieldError("message", said, "TooLong")
    involved, here = new.involved_object.namespace, new.metadata.namespace
    fits = here in _ROOT_NAMESPACES if not involved else involved == here or not here
    if not fits:
        said = f"{check.shown(involved)} is not the event's namespace {check.shown(here)}"
        yield FieldError("involvedObject.namespace", said)
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)
        if new.involved_object != old.involved_object:
            yield FieldError("involvedObject", "may not be changed")


def _validate(new: Event, old: Event | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


STRATEGY = Strategy(default=_default, validate=_validate)
