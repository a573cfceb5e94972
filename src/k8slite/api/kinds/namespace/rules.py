"""The life of a namespace on its way into the store."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from k8slite.api import validation as check
from k8slite.api.defaulting import filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.namespace.types import Namespace, NamespaceSpec, NamespaceStatus
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors

#: The finalizer that the namespace controller takes away once the namespace is empty.
FINALIZER = "kubernetes"
#: The label by which selectors can name a namespace.
NAME_LABEL = "kubernetes.io/metadata.name"
PHASES = ("Active", "Terminating")


def fields(obj: Namespace) -> dict[str, str]:
    return {"status.phase": obj.status.phase}


def _default(obj: Namespace) -> Namespace:
    changes: dict[str, Any] = {}
    name = obj.metadata.name
    if name and obj.metadata.label(NAME_LABEL) != name:
        labels = {**(obj.metadata.labels or {}), NAME_LABEL: name}
        changes["metadata"] = replace(obj.metadata, labels=labels)
    if not obj.status.phase:
        changes["status"] = replace(obj.status, phase="Active")
    return filled(obj, changes)


def _prepare_create(obj: Namespace) -> Namespace:
    finalizers = obj.spec.finalizers
    if FINALIZER not in finalizers:
        finalizers = (*finalizers, FINALIZER)
    return replace(
        obj, spec=NamespaceSpec(finalizers=finalizers), status=NamespaceStatus(phase="Active")
    )


def _checks(new: Namespace, old: Namespace | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_label)
    for index, finalizer in enumerate(new.spec.finalizers):
        yield from check.text(finalizer, check.qualified_name, f"spec.finalizers[{index}]")
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)


def _validate(new: Namespace, old: Namespace | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


def _validate_status(new: Namespace, old: Namespace | None) -> list[FieldError]:
    errors = list(check.choice(new.status.phase, PHASES, "status.phase"))
    if new.metadata.deletion_timestamp is None and new.status.phase == "Terminating":
        said = "may be Terminating only once the namespace is being deleted"
        errors.append(FieldError("status.phase", said))
    return errors


STRATEGY = Strategy(
    default=_default,
    prepare_create=_prepare_create,
    # Finalizers are changed through /finalize alone.
    prepare_update=lambda new, old: replace(new, spec=old.spec, status=old.status),
    prepare_status=lambda new, old: replace(new, spec=old.spec),
    validate=_validate,
    validate_status=_validate_status,
)
