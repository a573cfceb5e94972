"""What v1beta3 says differently about pod templates."""

from __future__ import annotations

from k8slite.api.kinds.pod.v1beta3 import spec_from, spec_to
from k8slite.api.renaming import within
from k8slite.api.scheme import Raw


def from_v1beta3(raw: Raw) -> Raw:
    raw = dict(raw)
    within(raw, "template", lambda template: within(template, "spec", spec_from))
    return raw


def to_v1beta3(raw: Raw) -> Raw:
    raw = dict(raw)
    within(raw, "template", lambda template: within(template, "spec", spec_to))
    return raw
