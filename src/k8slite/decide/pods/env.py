"""The environment of a container: own variables, references, and the services.

Rules: kubernetes pkg/kubelet/envvars (service variables) and third_party/forked/golang/expansion
(``$(VAR)``, ``$$`` escapes).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from k8slite.api import quantity
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.pod.types import (
    Container,
    EnvFromSource,
    EnvVarSource,
    KeySelector,
    Pod,
    ResourceFieldSelector,
)
from k8slite.api.kinds.secret.types import Secret
from k8slite.api.kinds.service.types import Service

#: The services whose variables every pod gets, from namespace ``default``.
MASTER_SERVICES = ("kubernetes", "kubernetes-ro")

_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


class ConfigError(Exception):
    """A container cannot be made as it is described; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class PodContext:
    """What the variables and files of a pod may refer to.

    ``config_maps`` and ``secrets`` are those of the pod's namespace, by name; ``capacity`` is the
    node's, for limits that are not set (``cpu`` and ``memory`` as quantities).
    """

    pod: Pod
    node_name: str = ""
    host_ip: str = ""
    pod_ip: str = ""
    services: tuple[Service, ...] = ()
    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    capacity: Mapping[str, quantity.Text] = field(default_factory=dict)


def environment(container: Container, context: PodContext) -> dict[str, str]:
    """All variables in order: services, envFrom, env (later ones win).

    Raises ConfigError when a reference that is not optional leads nowhere.
    """
    values = service_variables(context)
    for source in container.env_from:
        values.update(_env_from(source, context))
    for variable in container.env:
        if variable.value_from is None:
            values[variable.name] = expand(variable.value, values)
            continue
        found = _value_from(variable.value_from, container, context)
        if found is not None:
            values[variable.name] = found
    return values


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value; unknown names stay as they are, ``$$`` becomes ``$``."""

    def replacement(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        return values.get(name, match[0])

    return _REFERENCE.sub(replacement, text)


def service_variables(context: PodContext) -> dict[str, str]:
    """Variables of the master services and of the services of the pod's own namespace."""
    namespace = context.pod.metadata.namespace
    links = context.pod.spec.enable_service_links is not False
    values: dict[str, str] = {}
    for service in sorted(context.services, key=lambda s: s.metadata.name):
        own = service.metadata.namespace == namespace and links
        master = (
            service.metadata.namespace == "default" and service.metadata.name in MASTER_SERVICES
        )
        if (own or master) and service.spec.cluster_ip not in ("", "None"):
            values.update(_of_service(service))
    return values


def _of_service(service: Service) -> dict[str, str]:
    prefix = _variable(service.metadata.name)
    ip = service.spec.cluster_ip
    ports = service.spec.ports
    if not ports:
        return {}
    values = {f"{prefix}_SERVICE_HOST": ip, f"{prefix}_SERVICE_PORT": str(ports[0].port)}
    for port in ports:
        if port.name:
            values[f"{prefix}_SERVICE_PORT_{_variable(port.name)}"] = str(port.port)
    for number, port in enumerate(ports):
        protocol = (port.protocol or "TCP").lower()
        url = f"{protocol}://{ip}:{port.port}"
        if number == 0:
            values[f"{prefix}_PORT"] = url
        base = f"{prefix}_PORT_{port.port}_{protocol.upper()}"
        values[base] = url
        values[f"{base}_PROTO"] = protocol
        values[f"{base}_PORT"] = str(port.port)
        values[f"{base}_ADDR"] = ip
    return values


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")


def _env_from(source: EnvFromSource, context: PodContext) -> dict[str, str]:
    if source.config_map_ref is not None:
        ref = source.config_map_ref
        config_map = context.config_maps.get(ref.name)
        if config_map is None and not ref.optional:
            raise ConfigError(f'configmap "{ref.name}" not found')
        data = dict(config_map.data or {}) if config_map is not None else {}
    elif source.secret_ref is not None:
        ref = source.secret_ref
        secret = context.secrets.get(ref.name)
        if secret is None and not ref.optional:
            raise ConfigError(f'secret "{ref.name}" not found')
        data = {k: _text(v) for k, v in ((secret.data if secret else None) or {}).items()}
    else:
        return {}
    return {source.prefix + k: v for k, v in data.items() if _NAME.fullmatch(source.prefix + k)}


def _text(value: str) -> str:
    return base64.b64decode(value).decode("utf-8", "replace")


def _value_from(source: EnvVarSource, container: Container, context: PodContext) -> str | None:
    if source.field_ref is not None:
        return field_value(source.field_ref.field_path, context)
    if source.resource_field_ref is not None:
        return resource_value(source.resource_field_ref, container, context)
    if source.config_map_key_ref is not None:
        ref = source.config_map_key_ref
        config_map = context.config_maps.get(ref.name)
        data = config_map.data if config_map is not None else None
        return _key(ref, "configmap", data, config_map is not None)
    if source.secret_key_ref is not None:
        ref = source.secret_key_ref
        secret = context.secrets.get(ref.name)
        found = _key(ref, "secret", secret.data if secret else None, secret is not None)
        return None if found is None else _text(found)
    return ""


def _key(ref: KeySelector, what: str, data: Mapping[str, str] | None, there: bool) -> str | None:
    value = (data or {}).get(ref.key)
    if value is None and not ref.optional:
        if not there:
            raise ConfigError(f'{what} "{ref.name}" not found')
        raise ConfigError(f'couldn\'t find key {ref.key} in {what} "{ref.name}"')
    return value


def field_value(path: str, context: PodContext) -> str:
    """The pod's field that ``path`` names. Raises ConfigError for an unknown path."""
    pod = context.pod
    meta = pod.metadata
    subscript = _SUBSCRIPT.match(path)
    if subscript is not None:
        holder = meta.labels if subscript[1] == "labels" else meta.annotations
        return (holder or {}).get(subscript[2], "")
    fields = {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "metadata.labels": _lines(meta.labels),
        "metadata.annotations": _lines(meta.annotations),
        "spec.nodeName": context.node_name,
        "spec.host": context.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.hostIP": context.host_ip,
        "status.podIP": context.pod_ip,
        "status.podIPs": context.pod_ip,
    }
    if path not in fields:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return fields[path]


def _lines(values: Mapping[str, str] | None) -> str:
    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'

    return "\n".join(f"{key}={quoted(value)}" for key, value in sorted((values or {}).items()))


def resource_value(
    ref: ResourceFieldSelector, container: Container | None, context: PodContext
) -> str:
    """``limits.cpu`` and the like, divided by the divisor and rounded up."""
    if ref.container_name:
        named = [c for c in context.pod.spec.containers if c.name == ref.container_name]
        if not named:
            raise ConfigError(f'container "{ref.container_name}" not found')
        container = named[0]
    if container is None:
        raise ConfigError("resourceFieldRef needs a containerName here")
    kind, _, resource = ref.resource.partition(".")
    limits, requests = container.resources.limits or {}, container.resources.requests or {}
    if kind == "limits":
        amount = limits.get(resource, context.capacity.get(resource, "0"))
    elif kind == "requests":
        amount = requests.get(resource, limits.get(resource, "0"))
    else:
        raise ConfigError(f"unsupported resource: {ref.resource}")
    divisor = quantity.parse(ref.divisor or "1") or Fraction(1)
    quotient = quantity.parse(amount) / divisor
    return str(-(-quotient.numerator // quotient.denominator))


def references(containers: Iterable[Container]) -> tuple[set[str], set[str]]:
    """Names of the config maps and of the secrets that the containers' variables refer to."""
    config_maps: set[str] = set()
    secrets: set[str] = set()
    for container in containers:
        for source in container.env_from:
            if source.config_map_ref is not None:
                config_maps.add(source.config_map_ref.name)
            if source.secret_ref is not None:
                secrets.add(source.secret_ref.name)
        for variable in container.env:
            origin = variable.value_from
            if origin is not None and origin.config_map_key_ref is not None:
                config_maps.add(origin.config_map_key_ref.name)
            if origin is not None and origin.secret_key_ref is not None:
                secrets.add(origin.secret_key_ref.name)
    return config_maps, secrets
