"""The life of a limit range on its way into the store."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from k8slite.api import quantity
from k8slite.api import validation as check
from k8slite.api.defaulting import canonical_map, each, filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.limitrange.types import LimitRange, LimitRangeItem
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors

TYPES = ("Pod", "Container", "PersistentVolumeClaim")

_AMOUNTS = ("max", "min", "default", "default_request", "max_limit_request_ratio")


def _default(obj: LimitRange) -> LimitRange:
    limits = each(obj.spec.limits, _default_item)
    return obj if limits is obj.spec.limits else replace(obj, spec=replace(obj.spec, limits=limits))


def _default_item(item: LimitRangeItem) -> LimitRangeItem:
    """For containers: limits default to the most, requests to the default limit or the least."""
    changes: dict[str, Any] = {}
    for field in _AMOUNTS:
        amounts = getattr(item, field)
        done = canonical_map(amounts)
        if done is not amounts:
            changes[field] = done
    item = filled(item, changes)
    if item.type != "Container":
        return item
    default = {**(item.max or {}), **(item.default or {})}
    request = {**(item.min or {}), **default, **(item.default_request or {})}
    changes = {}
    if default != (item.default or {}):
        changes["default"] = default
    if request != (item.default_request or {}):
        changes["default_request"] = request
    return filled(item, changes)


def _checks(new: LimitRange, old: LimitRange | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    for index, item in enumerate(new.spec.limits):
        yield from _check_item(item, f"spec.limits[{index}]")
    yield from check.unique(
        (f"spec.limits[{i}].type", x.type) for i, x in enumerate(new.spec.limits)
    )
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)


def _check_item(item: LimitRangeItem, path: str) -> Errors:
    if item.type:
        yield from check.text(item.type, check.qualified_name, f"{path}.type")
    else:
        yield check.required(f"{path}.type", f"choose {', '.join(TYPES)}")
    for field, amounts in (
        ("max", item.max),
        ("min", item.min),
        ("default", item.default),
        ("defaultRequest", item.default_request),
        ("maxLimitRequestRatio", item.max_limit_request_ratio),
    ):
        yield from check.amounts(amounts, f"{path}.{field}")
    if item.type == "Pod":
        for field, amounts in (("default", item.default), ("defaultRequest", item.default_request)):
            if amounts:
                yield check.forbidden(f"{path}.{field}", "may not be given for whole pods")
    yield from check.at_most(item.min, item.max, f"{path}.min", "maximum")
    yield from check.at_most(item.min, item.default, f"{path}.min", "default")
    yield from check.at_most(item.min, item.default_request, f"{path}.min", "default request")
    yield from check.at_most(item.default, item.max, f"{path}.default", "maximum")
    yield from check.at_most(item.default_request, item.max, f"{path}.defaultRequest", "maximum")
    yield from check.at_most(
        item.default_request, item.default, f"{path}.defaultRequest", "default limit"
    )
    for name, ratio in (item.max_limit_request_ratio or {}).items():
        if _less_than_one(ratio):
            here = check.at(f"{path}.maxLimitRequestRatio", name)
            yield FieldError(here, "is less than 1")


def _less_than_one(ratio: quantity.Text) -> bool:
    try:
        return quantity.parse(ratio) < 1
    except ValueError:
        return False  # said already


def _validate(new: LimitRange, old: LimitRange | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


STRATEGY = Strategy(default=_default, validate=_validate)
