"""Required node affinity: ``nodeSelectorTerms`` of matchExpressions and matchFields.

Terms are alternatives, the expressions of a term must all hold (Kubernetes' NodeSelector).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k8slite.api.kinds.pod.types import Pod

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def required_terms(pod: Pod) -> tuple[Mapping[str, Any], ...] | None:
    """The terms of ``pod``, or None when it has no required node affinity."""
    affinity = (pod.spec.affinity or {}).get("nodeAffinity") or {}
    required = affinity.get(_REQUIRED)
    if required is None:
        return None
    return tuple(required.get("nodeSelectorTerms") or ())


def matches(terms: tuple[Mapping[str, Any], ...], name: str, labels: Mapping[str, str]) -> bool:
    """Does the node ``name`` with ``labels`` satisfy one of ``terms``?"""
    return any(_term(term, name, labels) for term in terms)


def _term(term: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    expressions = term.get("matchExpressions") or ()
    fields = term.get("matchFields") or ()
    if not expressions and not fields:
        return False  # an empty term matches nothing
    return all(_expression(e, labels) for e in expressions) and all(
        _expression(e, {"metadata.name": name}) for e in fields
    )


def _expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression.get("key", ""))
    values = expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _compare(value, values) > 0
        case "Lt":
            return _compare(value, values) < 0
    return False


def _compare(value: str | None, values: Any) -> int:
    """The sign of ``value - values[0]`` as integers; 0 when either is none."""
    try:
        left, right = int(value or ""), int(values[0])
    except (ValueError, IndexError, TypeError):
        return 0
    return (left > right) - (left < right)
