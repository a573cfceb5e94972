"""The life of a config map on its way into the store."""

from __future__ import annotations

from k8slite.api import payload
from k8slite.api import validation as check
from k8slite.api.defaulting import filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors


def _default(obj: ConfigMap) -> ConfigMap:
    binary = payload.tidy(obj.binary_data)
    return filled(obj, {} if binary is obj.binary_data else {"binary_data": binary})


def _checks(new: ConfigMap, old: ConfigMap | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    yield from payload.sized(
        {"data": new.data, "binaryData": new.binary_data}, coded=("binaryData",)
    )
    for key in (new.data or {}).keys() & (new.binary_data or {}).keys():
        yield FieldError(
            check.at("binaryData", key), "stands in data too; it must be unique", "Duplicate"
        )
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)
        yield from payload.kept(
            new.immutable,
            old.immutable,
            {"data": (new.data, old.data), "binaryData": (new.binary_data, old.binary_data)},
        )


def _validate(new: ConfigMap, old: ConfigMap | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


STRATEGY = Strategy(default=_default, validate=_validate)
