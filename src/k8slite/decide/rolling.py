"""Rolling update: one controller's pods give way to another's, one at a time.

The state is in the two controllers alone, so a command that was cut off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from k8slite.api.errors import BadRequest

Raw = dict[str, Any]

#: On the new controller: how many replicas it shall have (v0.17's name).
DESIRED = "kubernetes.io/desired-replicas"


@dataclass(frozen=True, slots=True)
class Grow:
    """Give the new controller ``replicas`` and wait until they are ready."""

    replicas: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """Give the old controller ``replicas``."""

    replicas: int


@dataclass(frozen=True, slots=True)
class Done:
    """The old controller has nothing left to do."""


def next_step(old: int, new: int, desired: int) -> Grow | Shrink | Done:
    """One step from ``old`` and ``new`` replicas towards 0 and ``desired``.

    Up first, then down, so that capacity never falls below what was there.
    """
    if new < desired and new + old <= desired:
        return Grow(new + 1)
    if old > 0 and new + old > desired:
        return Shrink(old - 1)
    if new < desired:
        return Grow(new + 1)
    if old > 0:
        return Shrink(old - 1)
    return Grow(desired) if new > desired else Done()


def require_updatable(old: Raw, new: Raw) -> None:
    """Two controllers that can take turns have different names and selectors, and the new one's
    selector differs in a value from the old one's, so that neither counts the other's pods.

    Raises BadRequest.
    """
    name = old["metadata"]["name"]
    if new.get("kind") != "ReplicationController":
        raise BadRequest(f"the file holds a {new.get('kind')}, not a ReplicationController")
    if new["metadata"].get("name") == name:
        raise BadRequest(f"the new controller must have another name than {name!r}")
    mine, theirs = _selector(new), _selector(old)
    if not any(key in theirs and theirs[key] != value for key, value in mine.items()):
        raise BadRequest(
            f"the new controller must have another value than {name!r} for at least one key of "
            "the selector"
        )


def _selector(document: Raw) -> Raw:
    spec = document["spec"]
    labels = spec.get("template", {}).get("metadata", {}).get("labels")
    return spec.get("selector") or labels or {}


def with_image(old: Raw, image: str, *, name: str, container: str, key: str) -> Raw:
    """The controller that succeeds ``old`` with another image, told apart by the label ``key``
    whose value is a hash of the new template. Raises BadRequest."""
    document: Raw = msgspec.json.decode(msgspec.json.encode(old))
    template = document["spec"]["template"]
    containers = template["spec"]["containers"]
    chosen = [one for one in containers if not container or one["name"] == container]
    if len(chosen) != 1:
        names = ", ".join(one["name"] for one in containers)
        raise BadRequest(f"say which container gets the image: --container, one of {names}")
    chosen[0]["image"] = image
    digest = digest_of(template)
    labels = {**template["metadata"].get("labels", {}), key: digest}
    template["metadata"]["labels"] = labels
    selector = {**document["spec"].get("selector", {}), key: digest}
    annotations = {DESIRED: str(old["spec"].get("replicas", 1))}
    return {
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {
            "name": name or f"{old['metadata']['name']}-{digest}",
            "labels": old["metadata"].get("labels") or {},
            "annotations": annotations,
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    }


def digest_of(template: Raw) -> str:
    """A short name for a template: the same template, the same name."""
    encoded = msgspec.json.encode(template, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:10]


def renamed(document: Raw, name: str) -> Raw:
    """A copy of a controller under another name, as it would be created."""
    metadata = {
        key: value
        for key, value in document["metadata"].items()
        if key in ("labels", "annotations", "namespace")
    }
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != DESIRED}
    metadata["annotations"] = annotations
    return {
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": name, **metadata},
        "spec": document["spec"],
    }
