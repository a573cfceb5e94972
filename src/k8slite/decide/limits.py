"""Limit ranges: what a pod gets that says nothing, and what it may not exceed.

Rules and sentences are those of Kubernetes' ``plugin/pkg/admission/limitranger``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction

import msgspec

from k8slite.api import quantity
from k8slite.api.kinds.limitrange.types import LimitRange, LimitRangeItem
from k8slite.api.kinds.pod.types import Container, Pod, Quantity, ResourceRequirements

Amounts = Mapping[str, Fraction]
_Stated = Mapping[str, Quantity] | None


def defaulted(pod: Pod, ranges: Sequence[LimitRange]) -> Pod:
    """``pod`` with the ranges' limits and requests where its containers state none."""
    items = list(_items(ranges, "Container"))
    spec = pod.spec
    containers = tuple(_defaulted(container, items) for container in spec.containers)
    inits = tuple(_defaulted(container, items) for container in spec.init_containers)
    if containers == spec.containers and inits == spec.init_containers:
        return pod
    spec = msgspec.structs.replace(spec, containers=containers, init_containers=inits)
    return msgspec.structs.replace(pod, spec=spec)


def violations(pod: Pod, ranges: Sequence[LimitRange]) -> list[str]:
    """What of ``pod`` lies outside the ranges; a sentence each."""
    found: list[str] = []
    for item in _items(ranges, "Container"):
        for container in (*pod.spec.containers, *pod.spec.init_containers):
            resources = container.resources
            found += _outside(item, _parsed(resources.requests), _parsed(resources.limits))
    for item in _items(ranges, "Pod"):
        requests = _together(pod, lambda resources: resources.requests)
        limits = _together(pod, lambda resources: resources.limits)
        found += _outside(item, requests, limits)
    return found


def _items(ranges: Sequence[LimitRange], type: str) -> Iterator[LimitRangeItem]:
    for limit_range in ranges:
        for item in limit_range.spec.limits:
            if item.type == type:
                yield item


def _defaulted(container: Container, items: Sequence[LimitRangeItem]) -> Container:
    limits = dict(container.resources.limits or {})
    requests = dict(container.resources.requests or {})
    for item in items:
        for name, amount in (item.default or {}).items():
            limits.setdefault(name, amount)
        for name, amount in (item.default_request or {}).items():
            requests.setdefault(name, amount)
    resources = ResourceRequirements(limits=limits or None, requests=requests or None)
    if resources == container.resources:
        return container
    return msgspec.structs.replace(container, resources=resources)


def _outside(item: LimitRangeItem, requests: Amounts, limits: Amounts) -> Iterator[str]:
    what = item.type
    for name, least in (item.min or {}).items():
        lowest = f"minimum {name} usage per {what} is {least}"
        request = requests.get(name, limits.get(name))
        if request is None:
            yield f"{lowest}.  No request is specified"
        elif request < quantity.parse(least):
            yield f"{lowest}, but request is {_written(request, least)}"
    for name, most in (item.max or {}).items():
        highest = f"maximum {name} usage per {what} is {most}"
        limit = limits.get(name)
        if limit is None:
            yield f"{highest}.  No limit is specified"
        elif limit > quantity.parse(most):
            yield f"{highest}, but limit is {_written(limit, most)}"
    for name, ratio in (item.max_limit_request_ratio or {}).items():
        yield from _ratio(f"{name} max limit to request ratio per {what}", ratio,
                          requests.get(name), limits.get(name))  # fmt: skip


def _ratio(
    what: str, ratio: Quantity, request: Fraction | None, limit: Fraction | None
) -> Iterator[str]:
    if not request or not limit:
        yield f"{what} is {ratio}, but no {'limit' if request else 'request'} is specified or is 0"
    elif limit / request > quantity.parse(ratio):
        yield f"{what} is {ratio}, but provided ratio is {float(limit / request):f}"


def _written(amount: Fraction, like: Quantity) -> str:
    return quantity.spell(amount, quantity.form_of(like))


def _parsed(amounts: _Stated) -> dict[str, Fraction]:
    return {name: quantity.parse(amount) for name, amount in (amounts or {}).items()}


def _together(pod: Pod, part: Callable[[ResourceRequirements], _Stated]) -> Amounts:
    """Sums over the containers; an init container counts when it alone takes more."""
    total: dict[str, Fraction] = {}
    for container in pod.spec.containers:
        for name, amount in _parsed(part(container.resources)).items():
            total[name] = total.get(name, Fraction(0)) + amount
    for container in pod.spec.init_containers:
        for name, amount in _parsed(part(container.resources)).items():
            total[name] = max(total.get(name, Fraction(0)), amount)
    return total
