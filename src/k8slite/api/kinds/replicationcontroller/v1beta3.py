"""What v1beta3 says differently about replication controllers: their templates."""

from __future__ import annotations

from k8slite.api.kinds.podtemplate import v1beta3 as podtemplate
from k8slite.api.renaming import within
from k8slite.api.scheme import Raw


def from_v1beta3(raw: Raw) -> Raw:
    raw = dict(raw)
    within(raw, "spec", lambda spec: spec.update(podtemplate.from_v1beta3(spec)))
    return raw


def to_v1beta3(raw: Raw) -> Raw:
    raw = dict(raw)
    within(raw, "spec", lambda spec: spec.update(podtemplate.to_v1beta3(spec)))
    return raw
