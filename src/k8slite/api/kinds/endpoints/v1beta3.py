"""What v1beta3 says differently about endpoints: addresses have an ``IP`` in capitals."""

from __future__ import annotations

from k8slite.api.renaming import within_each
from k8slite.api.scheme import Raw


def from_v1beta3(raw: Raw) -> Raw:
    return _renamed(raw, "IP", "ip")


def to_v1beta3(raw: Raw) -> Raw:
    return _renamed(raw, "ip", "IP")


def _renamed(raw: Raw, old: str, new: str) -> Raw:
    def address(one: Raw) -> None:
        if old in one:
            one.setdefault(new, one.pop(old))

    def subset(one: Raw) -> None:
        within_each(one, "addresses", address)
        within_each(one, "notReadyAddresses", address)

    raw = dict(raw)
    within_each(raw, "subsets", subset)
    return raw
