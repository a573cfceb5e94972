"""What v1beta3 says differently about pods, and about the templates of pods."""

from __future__ import annotations

from k8slite.api.renaming import rename, take, within, within_each
from k8slite.api.scheme import Raw

_OLD, _NEW = "v1beta3", "v1"


def from_v1beta3(raw: Raw) -> Raw:
    raw = dict(raw)
    within(raw, "spec", spec_from)
    within(raw, "status", _status_from)
    return raw


def to_v1beta3(raw: Raw) -> Raw:
    raw = dict(raw)
    within(raw, "spec", spec_to)
    within(raw, "status", _status_to)
    return raw


def spec_from(spec: Raw) -> None:
    """A pod's spec, in a pod or in a template."""
    rename(spec, "host", "nodeName")
    for field in ("containers", "initContainers"):
        within_each(spec, field, _container_from)
    within_each(
        spec, "volumes",
        lambda volume: within(
            volume, "downwardAPI", lambda source: within_each(source, "items", _field_ref_from)
        ),
    )  # fmt: skip


def spec_to(spec: Raw) -> None:
    rename(spec, "nodeName", "host")
    for field in ("containers", "initContainers"):
        within_each(spec, field, _container_to)
    within_each(
        spec, "volumes",
        lambda volume: within(
            volume, "downwardAPI", lambda source: within_each(source, "items", _field_ref_to)
        ),
    )  # fmt: skip


def _container_from(container: Raw) -> None:
    context = container.get("securityContext")
    lifted = {
        name: value
        for name in ("privileged", "capabilities")
        if (value := take(container, name)) is not None
    }
    if lifted and (context is None or isinstance(context, dict)):
        container["securityContext"] = {**lifted, **(context or {})}
    within_each(container, "env", lambda one: within(one, "valueFrom", _field_ref_from))
    _pull_policy(container)


def _pull_policy(container: Raw) -> None:
    """2015's default: only the tag ``latest`` is pulled always, no tag means what is there."""
    image = container.get("image")
    if isinstance(image, str) and image and not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = "Always" if image.endswith(":latest") else "IfNotPresent"


def _container_to(container: Raw) -> None:
    context = container.get("securityContext")
    if isinstance(context, dict):
        rest = dict(context)
        for name in ("privileged", "capabilities"):
            if name in rest:
                container[name] = rest.pop(name)
        if rest != context:
            container["securityContext"] = rest
            if not rest:
                del container["securityContext"]
    within_each(container, "env", lambda one: within(one, "valueFrom", _field_ref_to))


def _field_ref_from(source: Raw) -> None:
    within(source, "fieldRef", lambda ref: _paths(ref, _OLD, _NEW, "spec.host", "spec.nodeName"))


def _field_ref_to(source: Raw) -> None:
    within(source, "fieldRef", lambda ref: _paths(ref, _NEW, _OLD, "spec.nodeName", "spec.host"))


def _paths(ref: Raw, version: str, new_version: str, path: str, new_path: str) -> None:
    if ref.get("apiVersion") == version:
        ref["apiVersion"] = new_version
    if ref.get("fieldPath") == path:
        ref["fieldPath"] = new_path


def _status_from(status: Raw) -> None:
    rename(status, "Condition", "conditions")
    for field in ("containerStatuses", "initContainerStatuses"):
        within_each(status, field, _container_status_from)


def _container_status_from(status: Raw) -> None:
    for field in ("state", "lastState"):
        within(status, field, lambda state: rename(state, "termination", "terminated"))


def _status_to(status: Raw) -> None:
    rename(status, "conditions", "Condition")
    for field in ("containerStatuses", "initContainerStatuses"):
        within_each(status, field, _container_status_to)


def _container_status_to(status: Raw) -> None:
    for field in ("state", "lastState"):
        within(status, field, lambda state: rename(state, "terminated", "termination"))
