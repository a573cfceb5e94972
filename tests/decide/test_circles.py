"""Endpoints that lead back to their own service."""

from __future__ import annotations

import pytest

from k8slite.decide.circles import leading_back

#: Who stands behind whom; an end in capitals is the door of that service.
BEHIND = {"a": ["B", "pod"], "b": ["C", "D"], "c": ["A", "C"], "d": ["D", "pod"], "e": ["E"]}


@pytest.mark.parametrize(
    ("service", "back"),
    [("a", {"B"}), ("b", {"C"}), ("c", {"A", "C"}), ("d", {"D"}), ("e", {"E"})],
)
def test_whatever_lies_between_is_followed_and_other_circles_are_not(
    service: str, back: set[str]
) -> None:
    def door(end: str) -> str | None:
        return end.lower() if end.isupper() else None

    assert leading_back(service, BEHIND[service], door, BEHIND.__getitem__) == back
