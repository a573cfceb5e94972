"""The life of a replication controller on its way into the store."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from k8slite.api import validation as check
from k8slite.api.defaulting import filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.podtemplate.rules import default_template, template
from k8slite.api.kinds.podtemplate.types import PodTemplateSpec
from k8slite.api.kinds.replicationcontroller.types import (
    ReplicationController,
    ReplicationControllerStatus,
)
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors

_NEW = ReplicationControllerStatus()


def fields(obj: ReplicationController) -> dict[str, str]:
    return {"status.replicas": str(obj.status.replicas)}


def _default(obj: ReplicationController) -> ReplicationController:
    """One replica; selector and labels are those of the template where none are given."""
    spec: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    if obj.spec.replicas is None:
        spec["replicas"] = 1
    body = obj.spec.template
    if body is not None:
        done = default_template(body)
        if done is not body:
            spec["template"] = done
        if body.metadata.labels:
            if not obj.spec.selector:
                spec["selector"] = body.metadata.labels
            if not obj.metadata.labels:
                changes["metadata"] = replace(obj.metadata, labels=body.metadata.labels)
    if spec:
        changes["spec"] = filled(obj.spec, spec)
    return filled(obj, changes)


def _checks(new: ReplicationController, old: ReplicationController | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    yield from check.natural(new.spec.replicas, "spec.replicas")
    yield from check.natural(new.spec.min_ready_seconds, "spec.minReadySeconds")
    if not new.spec.selector:
        yield check.required("spec.selector", "must select the labels of the template")
    else:
        yield from check.label_map(new.spec.selector, "spec.selector")
    if new.spec.template is None:
        yield check.required("spec.template")
    else:
        yield from _template(new.spec.template, new.spec.selector or {}, "spec.template")
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)


def _template(body: PodTemplateSpec, selector: dict[str, str], path: str) -> Errors:
    labels = body.metadata.labels or {}
    missing = [
        f"{key}={value}"[:130] for key, value in selector.items() if labels.get(key) != value
    ]
    if missing:
        said = (
            f"spec.selector does not match the template's labels: {', '.join(missing)} is not there"
        )
        yield FieldError(f"{path}.metadata.labels", said)
    yield from template(body, path)
    policy = body.spec.restart_policy
    if policy in ("OnFailure", "Never"):
        said = f"{check.shown(policy)} is not supported; pods of a controller restart Always"
        yield FieldError(f"{path}.spec.restartPolicy", said, "NotSupported")
    if body.spec.active_deadline_seconds is not None:
        said = "may not be set: pods of a controller have no deadline"
        yield check.forbidden(f"{path}.spec.activeDeadlineSeconds", said)


def _validate(new: ReplicationController, old: ReplicationController | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


def _status_checks(new: ReplicationController, old: ReplicationController | None) -> Errors:
    status = new.status
    for field, value in (
        ("replicas", status.replicas),
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
        ("observedGeneration", status.observed_generation),
    ):
        yield from check.natural(value, f"status.{field}")
    for field, value in (
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ):
        if value > status.replicas:
            said = f"{value} is more than status.replicas ({status.replicas})"
            yield FieldError(f"status.{field}", said)
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)


def _validate_status(
    new: ReplicationController, old: ReplicationController | None
) -> list[FieldError]:
    return check.collected(_status_checks(new, old))


STRATEGY = Strategy(
    default=_default,
    prepare_create=lambda obj: replace(obj, status=_NEW),
    prepare_update=lambda new, old: replace(new, status=old.status),
    prepare_status=lambda new, old: replace(new, spec=old.spec),
    validate=_validate,
    validate_status=_validate_status,
    generation_of=lambda obj: obj.spec,
)
