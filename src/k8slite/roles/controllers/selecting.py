"""From labels to whoever selects them, and back, without looking at everybody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from k8slite.api import selectors
from k8slite.api.meta import Object
from k8slite.client.base import Informer

T = TypeVar("T", bound=Object)
Selector = Mapping[str, str] | None

_INDEX = "labels"


def _pair(namespace: str, key: str, value: str) -> str:
    return f"{namespace}/{key}={value}"


def _least_pair(namespace: str, selector: Selector) -> str:
    assert selector
    key = min(selector)
    return _pair(namespace, key, selector[key])


class Selectors:
    """The objects of a kind that select others by labels (services, replication controllers)."""

    def __init__(self, informer: Informer[Any], selector_of: Callable[[Any], Selector]) -> None:
        self._informer = informer
        self._selector_of = selector_of

        def keys(obj: Object) -> Iterable[str]:
            selector = selector_of(obj)
            return (_least_pair(obj.metadata.namespace, selector),) if selector else ()

        informer.index("selector", keys)

    def of(self, obj: Object) -> list[Any]:
        """Those that select ``obj``: each is filed under one pair that ``obj`` must carry."""
        labels, namespace = obj.metadata.labels or {}, obj.metadata.namespace
        return [
            found
            for key, value in labels.items()
            for found in self._informer.by_index("selector", _pair(namespace, key, value))
            if selectors.match_labels(self._selector_of(found), labels)
        ]


def label_pairs(obj: Object) -> tuple[str, ...]:
    """What an index for ``selected`` files ``obj`` under."""
    namespace = obj.metadata.namespace
    return tuple(_pair(namespace, k, v) for k, v in (obj.metadata.labels or {}).items())


def index_labels(informer: Informer[Any]) -> None:
    """Make ``selected`` possible on ``informer``."""
    informer.index(_INDEX, label_pairs)


def selected(
    informer: Informer[T], namespace: str, selector: Selector, *, index: str = _INDEX
) -> list[T]:
    """The objects in ``namespace`` that ``selector`` matches; none for an empty selector."""
    if not selector:
        return []
    found = informer.by_index(index, _least_pair(namespace, selector))
    return [obj for obj in found if selectors.match_labels(selector, obj.metadata.labels)]
