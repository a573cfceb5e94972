"""The files of secret, config map and downward API volumes: path → content and mode."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from k8slite.api.kinds.pod.types import DownwardAPIVolumeSource, KeyToPath, Volume
from k8slite.decide.pods.env import ConfigError, PodContext, field_value, resource_value

DEFAULT_MODE = 0o644


@dataclass(frozen=True, slots=True)
class File:
    data: bytes
    mode: int = DEFAULT_MODE


def volume_files(volume: Volume, context: PodContext) -> dict[str, File]:
    """The files of ``volume`` by relative path.

    Raises ConfigError when what it is made of does not exist and is not optional, or when a path
    would leave the volume.
    """
    if volume.secret is not None:
        secret_source = volume.secret
        secret = context.secrets.get(secret_source.secret_name)
        if secret is None and not secret_source.optional:
            raise ConfigError(f'secret "{secret_source.secret_name}" not found')
        held = {
            k: base64.b64decode(v) for k, v in ((secret.data if secret else None) or {}).items()
        }
        what = f'secret "{secret_source.secret_name}"'
        return _select(
            held, secret_source.items, secret_source.default_mode, secret_source.optional, what
        )
    if volume.config_map is not None:
        source = volume.config_map
        config_map = context.config_maps.get(source.name)
        if config_map is None and not source.optional:
            raise ConfigError(f'configmap "{source.name}" not found')
        held = {}
        if config_map is not None:
            held.update({k: v.encode() for k, v in (config_map.data or {}).items()})
            held.update({k: base64.b64decode(v) for k, v in (config_map.binary_data or {}).items()})
        what = f'configmap "{source.name}"'
        return _select(held, source.items, source.default_mode, source.optional, what)
    if volume.downward_api is not None:
        return _downward(volume.downward_api, context)
    return {}


def _select(
    held: Mapping[str, bytes],
    items: Sequence[KeyToPath],
    default_mode: int | None,
    optional: bool | None,
    what: str,
) -> dict[str, File]:
    mode = DEFAULT_MODE if default_mode is None else default_mode
    if not items:
        return {_inside(key): File(data, mode) for key, data in held.items()}
    files: dict[str, File] = {}
    for item in items:
        if item.key in held:
            own = mode if item.mode is None else item.mode
            files[_inside(item.path)] = File(held[item.key], own)
        elif not optional:
            raise ConfigError(f"{what} has no key {item.key}")
    return files


def _downward(source: DownwardAPIVolumeSource, context: PodContext) -> dict[str, File]:
    mode = DEFAULT_MODE if source.default_mode is None else source.default_mode
    files: dict[str, File] = {}
    for item in source.items:
        if item.field_ref is not None:
            text = field_value(item.field_ref.field_path, context)
        elif item.resource_field_ref is not None:
            text = resource_value(item.resource_field_ref, None, context)
        else:
            text = ""
        files[_inside(item.path)] = File(text.encode(), mode if item.mode is None else item.mode)
    return files


def _inside(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise ConfigError(f"path {path!r} must be relative and stay in the volume")
    return path


def volume_references(volumes: Sequence[Volume]) -> tuple[set[str], set[str]]:
    """Names of the config maps and secrets that volumes are made of."""
    config_maps = {v.config_map.name for v in volumes if v.config_map is not None}
    secrets = {v.secret.secret_name for v in volumes if v.secret is not None}
    return config_maps, secrets
