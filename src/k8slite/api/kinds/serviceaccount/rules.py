"""The life of a service account on its way into the store."""

from __future__ import annotations

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.kinds.serviceaccount.types import ServiceAccount
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors


def _checks(new: ServiceAccount, old: ServiceAccount | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    for index, secret in enumerate(new.image_pull_secrets):
        if not secret.name:
            yield check.required(f"imagePullSecrets[{index}].name")
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)


def _validate(new: ServiceAccount, old: ServiceAccount | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


STRATEGY = Strategy(validate=_validate)
