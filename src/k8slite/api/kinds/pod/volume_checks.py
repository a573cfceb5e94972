"""What a pod's volumes must fulfil."""

from __future__ import annotations

from typing import Any

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.kinds.pod.defaults import VOLUME_SOURCES
from k8slite.api.kinds.pod.types import (
    ConfigMapVolumeSource,
    DownwardAPIVolumeSource,
    EmptyDirVolumeSource,
    HostPathVolumeSource,
    KeyToPath,
    ObjectFieldSelector,
    SecretVolumeSource,
    Volume,
)
from k8slite.api.struct import wire_name
from k8slite.api.validation import Errors

_HOST_PATH_TYPES = (
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
)
#: What a file of a downward API volume may show of its pod.
_DOWNWARD_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
)


def volumes(items: tuple[Volume, ...], path: str) -> Errors:
    """Every volume is named, once, and has exactly one source."""
    yield from check.unique(
        (f"{path}[{index}].name", volume.name) for index, volume in enumerate(items)
    )
    for index, volume in enumerate(items):
        yield from _volume(volume, f"{path}[{index}]")


def _volume(volume: Volume, path: str) -> Errors:
    yield from check.text(volume.name, check.dns_label, f"{path}.name")
    given = [name for name in VOLUME_SOURCES if getattr(volume, name) is not None]
    if not given:
        yield check.required(path, "a volume needs a source, such as emptyDir")
    elif len(given) > 1:
        names = " and ".join(map(wire_name, given))
        yield check.forbidden(path, f"a volume has one source only, this one has {names}")
    for name in given:
        yield from _source(getattr(volume, name), f"{path}.{wire_name(name)}")


def _source(source: Any, path: str) -> Errors:
    if isinstance(source, EmptyDirVolumeSource):
        yield from check.choice(source.medium, ("", "Memory", "HugePages"), f"{path}.medium")
        if source.size_limit is not None:
            yield from check.amount(source.size_limit, f"{path}.sizeLimit")
    elif isinstance(source, HostPathVolumeSource):
        if not source.path:
            yield check.required(f"{path}.path")
        elif ".." in source.path.split("/"):
            yield FieldError(f"{path}.path", 'may not contain ".."')
        yield from check.choice(source.type, _HOST_PATH_TYPES, f"{path}.type")
    elif isinstance(source, SecretVolumeSource):
        if not source.secret_name:
            yield check.required(f"{path}.secretName")
        yield from _keys(source.items, source.default_mode, path)
    elif isinstance(source, ConfigMapVolumeSource):
        if not source.name:
            yield check.required(f"{path}.name")
        yield from _keys(source.items, source.default_mode, path)
    elif isinstance(source, DownwardAPIVolumeSource):
        yield from _downward(source, path)


def _keys(items: tuple[KeyToPath, ...], default_mode: int | None, path: str) -> Errors:
    yield from _mode(default_mode, f"{path}.defaultMode")
    for index, item in enumerate(items):
        here = f"{path}.items[{index}]"
        if not item.key:
            yield check.required(f"{here}.key")
        yield from check.text(item.path, check.relative_path, f"{here}.path")
        yield from _mode(item.mode, f"{here}.mode")


def _downward(source: DownwardAPIVolumeSource, path: str) -> Errors:
    yield from _mode(source.default_mode, f"{path}.defaultMode")
    for index, item in enumerate(source.items):
        here = f"{path}.items[{index}]"
        yield from check.text(item.path, check.relative_path, f"{here}.path")
        yield from _mode(item.mode, f"{here}.mode")
        if (item.field_ref is None) == (item.resource_field_ref is None):
            yield check.required(here, "needs either fieldRef or resourceFieldRef")
        if item.field_ref is not None:
            yield from field_path(item.field_ref, _DOWNWARD_PATHS, f"{here}.fieldRef")
        if item.resource_field_ref is not None and not item.resource_field_ref.container_name:
            yield check.required(f"{here}.resourceFieldRef.containerName")


def field_path(selector: ObjectFieldSelector, allowed: tuple[str, ...], path: str) -> Errors:
    """``fieldPath`` is one of ``allowed`` or names one label or annotation."""
    value = selector.field_path
    if not value:
        yield check.required(f"{path}.fieldPath")
        return
    name, bracket, key = value.partition("['")
    if bracket and name in ("metadata.labels", "metadata.annotations"):
        if not key.endswith("']"):
            yield FieldError(f"{path}.fieldPath", f"{check.shown(value)} lacks its closing ']")
        elif problem := check.qualified_name(key[:-2].lower()):
            yield FieldError(f"{path}.fieldPath", f"{check.shown(key[:-2])} {problem}")
        return
    yield from check.choice(value, allowed, f"{path}.fieldPath")


def _mode(mode: int | None, path: str) -> Errors:
    if mode is not None and not 0 <= mode <= 0o777:
        yield FieldError(path, f"{mode} is no file mode; it must be 0 to 0777 (511)")
