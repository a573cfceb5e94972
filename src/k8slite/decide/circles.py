"""Endpoints that lead back to where a client came from.

An endpoint may be the address of another service, which is somebody's alias. When it is, by however
many services between, the address of its own, each connection makes the next: one client would use
up all that a node has, and what it closes would go round for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
E = TypeVar("E", bound=Hashable)


def leading_back(
    start: K, ends: Iterable[E], door: Callable[[E], K | None], behind: Callable[[K], Iterable[E]]
) -> frozenset[E]:
    """Those of ``ends``, which stand behind ``start``, that lead to it again. ``door(end)`` says
    whose door an end is, or None; ``behind(key)`` gives the ends that stand behind that one."""
    known: dict[K, bool] = {}

    def leads_back(key: K) -> bool:
        if key not in known:
            known[key] = _reaches(key, start, door, behind)
        return known[key]

    return frozenset(end for end in ends if (key := door(end)) is not None and leads_back(key))


def _reaches(
    first: K, last: K, door: Callable[[E], K | None], behind: Callable[[K], Iterable[E]]
) -> bool:
    seen, todo = {first}, [first]
    while todo:
        key = todo.pop()
        if key == last:
            return True
        further = {beyond for end in behind(key) if (beyond := door(end)) is not None} - seen
        seen |= further
        todo.extend(further)
    return False
