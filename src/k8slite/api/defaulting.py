"""How defaults are filled in: values change only where something was left out.

A default rule takes a value and gives the completed one, the very same object when there was
nothing to do; rules applied twice therefore do nothing the second time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from k8slite.api import quantity

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


def filled(value: S, changes: dict[str, Any]) -> S:
    """``value`` with ``changes`` made, itself when there are none."""
    return msgspec.structs.replace(value, **changes) if changes else value


def each(items: tuple[T, ...], rule: Callable[[T], T]) -> tuple[T, ...]:
    """``rule`` applied to every item, the same tuple when it changed none."""
    done = tuple(rule(item) for item in items)
    return done if any(new is not old for new, old in zip(done, items, strict=True)) else items


def canonical(amount: quantity.Text) -> str:
    """A quantity as it is stored. What is no quantity stays as it is, for validation to refuse."""
    try:
        return quantity.canonical(amount)
    except ValueError:
        return str(amount)


def canonical_map(
    amounts: dict[str, quantity.Text] | None,
) -> dict[str, quantity.Text] | None:
    """``canonical`` on every value, the same dict when it changed none."""
    if not amounts:
        return amounts
    done: dict[str, quantity.Text] = {name: canonical(value) for name, value in amounts.items()}
    return amounts if done == amounts else done
