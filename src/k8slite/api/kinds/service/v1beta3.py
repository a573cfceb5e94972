"""What v1beta3 says differently about services."""

from __future__ import annotations

from k8slite.api.errors import BadRequest
from k8slite.api.renaming import rename, take, within
from k8slite.api.scheme import Raw


def from_v1beta3(raw: Raw) -> Raw:
    raw = dict(raw)
    within(raw, "spec", _spec_from)
    return raw


def to_v1beta3(raw: Raw) -> Raw:
    raw = dict(raw)
    within(raw, "spec", _spec_to)
    return raw


def _spec_from(spec: Raw) -> None:
    rename(spec, "portalIP", "clusterIP")
    rename(spec, "publicIPs", "externalIPs")
    balanced = take(spec, "createExternalLoadBalancer")
    if balanced is not None and not isinstance(balanced, bool):
        raise BadRequest("spec.createExternalLoadBalancer: expected true or false")
    if balanced:
        spec.setdefault("type", "LoadBalancer")


def _spec_to(spec: Raw) -> None:
    rename(spec, "clusterIP", "portalIP")
    rename(spec, "externalIPs", "publicIPs")
    if spec.get("type") == "LoadBalancer":
        del spec["type"]
        spec["createExternalLoadBalancer"] = True
