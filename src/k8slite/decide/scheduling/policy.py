"""Which rules, with which weights: the default, or a policy file in v0.17's format.

::

    kind: Policy
    apiVersion: v1
    predicates:
    - name: PodFitsPorts
    - name: SameRegion
      argument: {serviceAffinity: {labels: [region]}}
    - name: OnlySSD
      argument: {labelsPresence: {labels: [ssd], presence: true}}
    priorities:
    - {name: LeastRequestedPriority, weight: 1}
    - {name: RackSpread, weight: 2, argument: {serviceAntiAffinity: {label: rack}}}
    - {name: PreferNew, weight: 1, argument: {labelPreference: {label: new, presence: true}}}

An omitted list means the defaults, an empty one means none. Readiness, cordons and taints are
minded whatever the file says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from k8slite.decide.scheduling import plugins, predicates, priorities
from k8slite.decide.scheduling.plugins import PredicateFunction, PriorityFunction
from k8slite.decide.scheduling.rules import Predicate, Priority

#: Short forms of the names.
_ALIASES = {
    "LeastRequested": "LeastRequestedPriority",
    "ServiceSpreading": "ServiceSpreadingPriority",
    "SelectorSpread": "SelectorSpreadPriority",
}


class PolicyError(ValueError):
    """The policy file is wrong; the message begins with the path of the field."""


@dataclass(frozen=True, slots=True)
class Policy:
    predicates: tuple[Predicate, ...]
    priorities: tuple[Priority, ...]


def default(
    predicate_plugins: Mapping[str, PredicateFunction] | None = None,
    priority_plugins: Mapping[str, PriorityFunction] | None = None,
) -> Policy:
    """v0.17's rules, and every plug-in that is installed (priorities with weight 1)."""
    return Policy(_default_predicates(predicate_plugins), _default_priorities(priority_plugins))


def _default_predicates(found: Mapping[str, PredicateFunction] | None) -> tuple[Predicate, ...]:
    own = (plugins.predicate(name, function) for name, function in (found or {}).items())
    return (*predicates.ALWAYS, *predicates.BY_NAME.values(), *own)


def _default_priorities(found: Mapping[str, PriorityFunction] | None) -> tuple[Priority, ...]:
    own = (plugins.priority(name, function) for name, function in (found or {}).items())
    return (*priorities.DEFAULT, *own)


def parse(
    document: Any,
    predicate_plugins: Mapping[str, PredicateFunction] | None = None,
    priority_plugins: Mapping[str, PriorityFunction] | None = None,
) -> Policy:
    """A policy document (already read from YAML or JSON) → Policy. Raises PolicyError."""
    if not isinstance(document, Mapping):
        raise PolicyError("policy: expected an object with predicates and priorities")
    if document.get("kind", "Policy") != "Policy":
        raise PolicyError(f"kind: expected Policy, found {document.get('kind')!r}")
    unknown = set(document) - {"kind", "apiVersion", "predicates", "priorities"}
    if unknown:
        raise PolicyError(f"{min(unknown)}: unknown field")
    if document.get("predicates") is None:
        chosen = _default_predicates(predicate_plugins)
    else:
        asked = (
            _predicate(path, rule, predicate_plugins or {})
            for path, rule in _rules(document, "predicates")
        )
        chosen = (*predicates.ALWAYS, *asked)
    if document.get("priorities") is None:
        return Policy(chosen, _default_priorities(priority_plugins))
    return Policy(
        chosen,
        tuple(
            _priority(path, rule, priority_plugins or {})
            for path, rule in _rules(document, "priorities")
        ),
    )


def _rules(document: Mapping[str, Any], field: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rules = document[field]
    if not isinstance(rules, list):
        raise PolicyError(f"{field}: expected a list")
    for number, rule in enumerate(rules):
        path = f"{field}[{number}]"
        if not isinstance(rule, Mapping) or not isinstance(rule.get("name"), str):
            raise PolicyError(f"{path}.name: required")
        yield path, rule


def _argument(path: str, rule: Mapping[str, Any], sorts: tuple[str, ...]) -> tuple[str, Any]:
    """The one argument of a rule: its sort and its body; ("", {}) for none."""
    argument = rule.get("argument")
    if argument is None:
        return "", {}
    given = list(argument) if isinstance(argument, Mapping) else []
    if len(given) != 1 or given[0] not in sorts or not isinstance(argument[given[0]], Mapping):
        raise PolicyError(f"{path}.argument: expected exactly one of {', '.join(sorts)}")
    return given[0], argument[given[0]]


def _text(path: str, body: Mapping[str, Any], field: str) -> str:
    if not isinstance(body.get(field), str) or not body[field]:
        raise PolicyError(f"{path}.{field}: expected a label key")
    return str(body[field])


def _texts(path: str, body: Mapping[str, Any], field: str) -> tuple[str, ...]:
    found = body.get(field)
    if not isinstance(found, list) or not found or not all(isinstance(x, str) for x in found):
        raise PolicyError(f"{path}.{field}: expected a list of label keys")
    return tuple(found)


def _flag(path: str, body: Mapping[str, Any], field: str) -> bool:
    if not isinstance(body.get(field, False), bool):
        raise PolicyError(f"{path}.{field}: expected true or false")
    return bool(body.get(field, False))


def _predicate(
    path: str, rule: Mapping[str, Any], found: Mapping[str, PredicateFunction]
) -> Predicate:
    name: str = rule["name"]
    sort, body = _argument(path, rule, ("serviceAffinity", "labelsPresence"))
    at = f"{path}.argument.{sort}"
    if sort == "serviceAffinity":
        return predicates.service_affinity(name, _texts(at, body, "labels"))
    if sort == "labelsPresence":
        labels = _texts(at, body, "labels")
        return predicates.labels_presence(name, labels, _flag(at, body, "presence"))
    if name in predicates.BY_NAME:
        return predicates.BY_NAME[name]
    if name in found:
        return plugins.predicate(name, found[name])
    raise _unknown(path, name, {*predicates.BY_NAME, *found})


def _priority(
    path: str, rule: Mapping[str, Any], found: Mapping[str, PriorityFunction]
) -> Priority:
    name: str = _ALIASES.get(rule["name"], rule["name"])
    weight = rule.get("weight", 1)
    if not isinstance(weight, int) or isinstance(weight, bool) or weight < 0:
        raise PolicyError(f"{path}.weight: expected a whole number, 0 or more")
    sort, body = _argument(path, rule, ("serviceAntiAffinity", "labelPreference"))
    at = f"{path}.argument.{sort}"
    if sort == "serviceAntiAffinity":
        made = priorities.service_anti_affinity(name, _text(at, body, "label"))
    elif sort == "labelPreference":
        made = priorities.label_preference(
            name, _text(at, body, "label"), _flag(at, body, "presence")
        )
    elif name in priorities.BY_NAME:
        made = priorities.BY_NAME[name]
    elif name in found:
        made = plugins.priority(name, found[name])
    else:
        raise _unknown(path, name, {*priorities.BY_NAME, *found})
    return replace(made, weight=weight)


def _unknown(path: str, name: str, known: set[str]) -> PolicyError:
    return PolicyError(f"{path}.name: unknown {name!r} (known: {', '.join(sorted(known))})")
