"""What a pod gets where its author said nothing (kubernetes ``pkg/apis/core/v1/defaults.go``)."""

from __future__ import annotations

from typing import Any

from k8slite.api.defaulting import canonical, canonical_map, each, filled
from k8slite.api.kinds.pod.types import (
    ConfigMapVolumeSource,
    Container,
    ContainerPort,
    DownwardAPIVolumeFile,
    DownwardAPIVolumeSource,
    EmptyDirVolumeSource,
    EnvVar,
    Handler,
    HTTPGetAction,
    Lifecycle,
    ObjectFieldSelector,
    Pod,
    PodSecurityContext,
    PodSpec,
    Probe,
    ResourceFieldSelector,
    ResourceRequirements,
    SecretVolumeSource,
    Volume,
)

TERMINATION_MESSAGE_PATH = "/dev/termination-log"
DEFAULT_SCHEDULER = "default-scheduler"
#: Seconds between the polite signal and the other one.
GRACE_SECONDS = 30
#: rw-r--r--
FILE_MODE = 0o644

#: The fields of a Volume that are its source.
VOLUME_SOURCES = tuple(name for name in Volume.__struct_fields__ if name != "name")

_NO_RESTRICTIONS = PodSecurityContext()
_EMPTY_DIR = EmptyDirVolumeSource()


def default_pod(pod: Pod) -> Pod:
    """A pod's defaults: those of its spec, and requests where only limits were given."""
    spec = default_spec(pod.spec)
    changes: dict[str, Any] = {}
    for field in ("containers", "init_containers"):
        containers = getattr(spec, field)
        done = each(containers, _request_limits)
        if done is not containers:
            changes[field] = done
    spec = filled(spec, changes)
    return pod if spec is pod.spec else filled(pod, {"spec": spec})


def default_spec(spec: PodSpec) -> PodSpec:
    """The defaults of a pod's spec, in a pod or in a template."""
    changes: dict[str, Any] = {}
    if not spec.restart_policy:
        changes["restart_policy"] = "Always"
    if not spec.dns_policy:
        changes["dns_policy"] = "ClusterFirst"
    if not spec.scheduler_name:
        changes["scheduler_name"] = DEFAULT_SCHEDULER
    if spec.termination_grace_period_seconds is None:
        changes["termination_grace_period_seconds"] = GRACE_SECONDS
    if spec.security_context is None:
        changes["security_context"] = _NO_RESTRICTIONS
    if spec.enable_service_links is None:
        changes["enable_service_links"] = True
    if spec.service_account_name != spec.service_account:
        name = spec.service_account_name or spec.service_account
        changes["service_account_name"] = changes["service_account"] = name
    for field in ("containers", "init_containers"):
        containers = getattr(spec, field)
        done = tuple(_container(container, spec.host_network) for container in containers)
        if any(new is not old for new, old in zip(done, containers, strict=True)):
            changes[field] = done
    volumes = each(spec.volumes, _volume)
    if volumes is not spec.volumes:
        changes["volumes"] = volumes
    return filled(spec, changes)


def pull_policy(image: str) -> str:
    """Always for an image that may change under its name: tag ``latest``, or no tag or digest."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _container(container: Container, host_network: bool) -> Container:
    changes: dict[str, Any] = {}
    if not container.image_pull_policy:
        changes["image_pull_policy"] = pull_policy(container.image)
    if not container.termination_message_path:
        changes["termination_message_path"] = TERMINATION_MESSAGE_PATH
    if not container.termination_message_policy:
        changes["termination_message_policy"] = "File"
    if container.ports:
        ports = each(container.ports, _host_port if host_network else _port)
        if ports is not container.ports:
            changes["ports"] = ports
    if container.env:
        env = each(container.env, _variable)
        if env is not container.env:
            changes["env"] = env
    for field in ("liveness_probe", "readiness_probe", "startup_probe"):
        probe = getattr(container, field)
        if probe is not None and (done := _probe(probe)) is not probe:
            changes[field] = done
    if container.lifecycle is not None:
        lifecycle = _lifecycle(container.lifecycle)
        if lifecycle is not container.lifecycle:
            changes["lifecycle"] = lifecycle
    resources = _resources(container.resources)
    if resources is not container.resources:
        changes["resources"] = resources
    return filled(container, changes)


def _port(port: ContainerPort) -> ContainerPort:
    return port if port.protocol else filled(port, {"protocol": "TCP"})


def _host_port(port: ContainerPort) -> ContainerPort:
    """On the host's network a container's port is the host's port."""
    port = _port(port)
    return port if port.host_port else filled(port, {"host_port": port.container_port})


def _variable(variable: EnvVar) -> EnvVar:
    source = variable.value_from
    if source is None:
        return variable
    changes: dict[str, Any] = {}
    if source.field_ref is not None and not source.field_ref.api_version:
        changes["field_ref"] = _field_ref(source.field_ref)
    if source.resource_field_ref is not None:
        selector = _resource_ref(source.resource_field_ref)
        if selector is not source.resource_field_ref:
            changes["resource_field_ref"] = selector
    return filled(variable, {"value_from": filled(source, changes)}) if changes else variable


def _field_ref(selector: ObjectFieldSelector) -> ObjectFieldSelector:
    return selector if selector.api_version else filled(selector, {"api_version": "v1"})


def _resource_ref(selector: ResourceFieldSelector) -> ResourceFieldSelector:
    """A divisor left out is written as ``0``, which stands for one."""
    divisor = canonical(selector.divisor) if selector.divisor != "" else "0"
    return selector if divisor == selector.divisor else filled(selector, {"divisor": divisor})


def _probe(probe: Probe) -> Probe:
    changes: dict[str, Any] = {}
    if not probe.timeout_seconds:
        changes["timeout_seconds"] = 1
    if not probe.period_seconds:
        changes["period_seconds"] = 10
    if not probe.success_threshold:
        changes["success_threshold"] = 1
    if not probe.failure_threshold:
        changes["failure_threshold"] = 3
    if probe.http_get is not None and (done := _http(probe.http_get)) is not probe.http_get:
        changes["http_get"] = done
    return filled(probe, changes)


def _http(action: HTTPGetAction) -> HTTPGetAction:
    changes = {}
    if not action.path:
        changes["path"] = "/"
    if not action.scheme:
        changes["scheme"] = "HTTP"
    return filled(action, changes)


def _lifecycle(lifecycle: Lifecycle) -> Lifecycle:
    changes: dict[str, Any] = {}
    for field in ("post_start", "pre_stop"):
        handler: Handler | None = getattr(lifecycle, field)
        if handler is None or handler.http_get is None:
            continue
        done = _http(handler.http_get)
        if done is not handler.http_get:
            changes[field] = filled(handler, {"http_get": done})
    return filled(lifecycle, changes)


def _resources(resources: ResourceRequirements) -> ResourceRequirements:
    changes: dict[str, Any] = {}
    for field in ("limits", "requests"):
        amounts = getattr(resources, field)
        done = canonical_map(amounts)
        if done is not amounts:
            changes[field] = done
    return filled(resources, changes)


def _request_limits(container: Container) -> Container:
    """Who limits a resource and requests none of it requests the limit."""
    resources = container.resources
    if not resources.limits:
        return container
    requests = {**resources.limits, **(resources.requests or {})}
    if requests == resources.requests:
        return container
    return filled(container, {"resources": filled(resources, {"requests": requests})})


def _volume(volume: Volume) -> Volume:
    for source in VOLUME_SOURCES:
        value = getattr(volume, source)
        if value is None:
            continue
        done = _source(value)
        return volume if done is value else filled(volume, {source: done})
    return filled(volume, {"empty_dir": _EMPTY_DIR})


def _source(source: Any) -> Any:
    if isinstance(source, SecretVolumeSource | ConfigMapVolumeSource):
        return source if source.default_mode is not None else filled(source, _MODE)
    if isinstance(source, DownwardAPIVolumeSource):
        changes: dict[str, Any] = dict(_MODE) if source.default_mode is None else {}
        items = each(source.items, _downward_file)
        if items is not source.items:
            changes["items"] = items
        return filled(source, changes)
    if isinstance(source, EmptyDirVolumeSource) and source.size_limit is not None:
        limit = canonical(source.size_limit)
        return source if limit == source.size_limit else filled(source, {"size_limit": limit})
    if isinstance(source, dict) and "sources" in source and "defaultMode" not in source:
        return {**source, "defaultMode": FILE_MODE}
    return source


_MODE = {"default_mode": FILE_MODE}


def _downward_file(file: DownwardAPIVolumeFile) -> DownwardAPIVolumeFile:
    changes: dict[str, Any] = {}
    if file.field_ref is not None and not file.field_ref.api_version:
        changes["field_ref"] = _field_ref(file.field_ref)
    if file.resource_field_ref is not None:
        selector = _resource_ref(file.resource_field_ref)
        if selector is not file.resource_field_ref:
            changes["resource_field_ref"] = selector
    return filled(file, changes)
