"""The life of a resource quota on its way into the store."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from k8slite.api import validation as check
from k8slite.api.defaulting import canonical_map, filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.resourcequota.types import ResourceQuota, ResourceQuotaStatus
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors

SCOPES = (
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
)
_OPPOSITES = (("Terminating", "NotTerminating"), ("BestEffort", "NotBestEffort"))
_NEW = ResourceQuotaStatus()


def _default(obj: ResourceQuota) -> ResourceQuota:
    hard = canonical_map(obj.spec.hard)
    return obj if hard is obj.spec.hard else replace(obj, spec=replace(obj.spec, hard=hard))


def _prepare_status(new: ResourceQuota, old: ResourceQuota) -> ResourceQuota:
    changes: dict[str, Any] = {
        "hard": canonical_map(new.status.hard),
        "used": canonical_map(new.status.used),
    }
    return replace(new, spec=old.spec, status=filled(new.status, changes))


def _checks(new: ResourceQuota, old: ResourceQuota | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    yield from check.amounts(new.spec.hard, "spec.hard")
    for index, scope in enumerate(new.spec.scopes):
        yield from check.choice(scope, SCOPES, f"spec.scopes[{index}]")
    for one, other in _OPPOSITES:
        if one in new.spec.scopes and other in new.spec.scopes:
            yield FieldError("spec.scopes", f"{one} and {other} exclude each other")
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)
        if set(new.spec.scopes) != set(old.spec.scopes):
            yield check.immutable("spec.scopes", list(new.spec.scopes), list(old.spec.scopes))


def _validate(new: ResourceQuota, old: ResourceQuota | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


def _validate_status(new: ResourceQuota, old: ResourceQuota | None) -> list[FieldError]:
    return [
        *check.amounts(new.status.hard, "status.hard"),
        *check.amounts(new.status.used, "status.used"),
    ]


STRATEGY = Strategy(
    default=_default,
    prepare_create=lambda obj: replace(obj, status=_NEW),
    prepare_update=lambda new, old: replace(new, status=old.status),
    prepare_status=_prepare_status,
    validate=_validate,
    validate_status=_validate_status,
)
