"""What each container of a pod must fulfil."""

from __future__ import annotations

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.kinds.pod.types import (
    Container,
    ContainerPort,
    EnvFromSource,
    EnvVar,
    EnvVarSource,
    Handler,
    HTTPGetAction,
    Lifecycle,
    Probe,
    ResourceRequirements,
    SecurityContext,
    VolumeMount,
)
from k8slite.api.kinds.pod.volume_checks import field_path
from k8slite.api.validation import Errors

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
PROTOCOLS = ("TCP", "UDP", "SCTP")

#: What an environment variable may show of its pod.
_ENV_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_ENV_RESOURCES = tuple(
    f"{side}.{name}"
    for side in ("limits", "requests")
    for name in ("cpu", "memory", "ephemeral-storage")
)
_MAX_ID = 2**31 - 1


def container(one: Container, volumes: frozenset[str], path: str) -> Errors:
    """``volumes`` are the names of the pod's volumes."""
    yield from check.text(one.name, check.dns_label, f"{path}.name")
    if not one.image:
        yield check.required(f"{path}.image")
    elif one.image != one.image.strip():
        yield FieldError(f"{path}.image", "may not begin or end with white space")
    yield from check.choice(one.image_pull_policy, PULL_POLICIES, f"{path}.imagePullPolicy")
    yield from check.choice(
        one.termination_message_policy,
        ("File", "FallbackToLogsOnError"),
        f"{path}.terminationMessagePolicy",
    )
    if one.ports:
        yield from _ports(one.ports, f"{path}.ports")
    if one.env:
        for index, variable in enumerate(one.env):
            yield from _variable(variable, f"{path}.env[{index}]")
    if one.env_from:
        for index, source in enumerate(one.env_from):
            yield from _env_from(source, f"{path}.envFrom[{index}]")
    if one.volume_mounts:
        yield from _mounts(one.volume_mounts, volumes, f"{path}.volumeMounts")
    if one.resources.limits or one.resources.requests:
        yield from resources(one.resources, f"{path}.resources")
    yield from _probes(one, path)
    if one.lifecycle is not None:
        yield from _lifecycle(one.lifecycle, f"{path}.lifecycle")
    if one.security_context is not None:
        yield from _security(one.security_context, f"{path}.securityContext")


def resources(needs: ResourceRequirements, path: str) -> Errors:
    """Requests and limits are quantities, and no request exceeds its limit."""
    yield from check.amounts(needs.limits, f"{path}.limits")
    yield from check.amounts(needs.requests, f"{path}.requests")
    yield from check.at_most(needs.requests, needs.limits, f"{path}.requests", "limit")


def _ports(ports: tuple[ContainerPort, ...], path: str) -> Errors:
    yield from check.unique((f"{path}[{i}].name", port.name) for i, port in enumerate(ports))
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        if port.name and (problem := check.port_name(port.name)):
            yield FieldError(f"{here}.name", f"{check.shown(port.name)} {problem}")
        if port.container_port:
            yield from check.port_number(port.container_port, f"{here}.containerPort")
        else:
            yield check.required(f"{here}.containerPort")
        if port.host_port:
            yield from check.port_number(port.host_port, f"{here}.hostPort")
        yield from check.choice(port.protocol, PROTOCOLS, f"{here}.protocol")
        if port.host_ip and (problem := check.ip_address(port.host_ip)):
            yield FieldError(f"{here}.hostIP", f"{check.shown(port.host_ip)} {problem}")


def _variable(variable: EnvVar, path: str) -> Errors:
    yield from check.text(variable.name, check.env_name, f"{path}.name")
    source = variable.value_from
    if source is None:
        return
    if variable.value:
        yield FieldError(f"{path}.valueFrom", "may not be given together with a value")
    yield from _variable_source(source, f"{path}.valueFrom")


def _variable_source(source: EnvVarSource, path: str) -> Errors:
    given = [
        name
        for name, value in (
            ("fieldRef", source.field_ref),
            ("resourceFieldRef", source.resource_field_ref),
            ("configMapKeyRef", source.config_map_key_ref),
            ("secretKeyRef", source.secret_key_ref),
        )
        if value is not None
    ]
    if len(given) != 1:
        said = " and ".join(given) or "none"
        yield FieldError(
            path,
            "needs exactly one of fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef, "
            f"it has {said}",
        )
    if source.field_ref is not None:
        yield from field_path(source.field_ref, _ENV_PATHS, f"{path}.fieldRef")
    if source.resource_field_ref is not None:
        resource = source.resource_field_ref.resource
        yield from check.choice(resource, _ENV_RESOURCES, f"{path}.resourceFieldRef.resource")
    for field, selector in (
        ("configMapKeyRef", source.config_map_key_ref),
        ("secretKeyRef", source.secret_key_ref),
    ):
        if selector is not None:
            if not selector.name:
                yield check.required(f"{path}.{field}.name")
            yield from check.text(selector.key, check.data_key, f"{path}.{field}.key")


def _env_from(source: EnvFromSource, path: str) -> Errors:
    if source.prefix and (problem := check.env_name(source.prefix)):
        yield FieldError(f"{path}.prefix", f"{check.shown(source.prefix)} {problem}")
    if (source.config_map_ref is None) == (source.secret_ref is None):
        yield FieldError(path, "needs exactly one of configMapRef and secretRef")
    for field, reference in (
        ("configMapRef", source.config_map_ref),
        ("secretRef", source.secret_ref),
    ):
        if reference is not None and not reference.name:
            yield check.required(f"{path}.{field}.name")


def _mounts(mounts: tuple[VolumeMount, ...], volumes: frozenset[str], path: str) -> Errors:
    yield from check.unique(
        (f"{path}[{index}].mountPath", mount.mount_path) for index, mount in enumerate(mounts)
    )
    for index, mount in enumerate(mounts):
        here = f"{path}[{index}]"
        if not mount.name:
            yield check.required(f"{here}.name")
        elif mount.name not in volumes:
            said = f"the pod has no volume {check.shown(mount.name)}"
            yield FieldError(f"{here}.name", said, "NotFound")
        if not mount.mount_path:
            yield check.required(f"{here}.mountPath")
        elif ":" in mount.mount_path:
            yield FieldError(f"{here}.mountPath", 'may not contain ":"')
        if mount.sub_path and (problem := check.relative_path(mount.sub_path)):
            yield FieldError(f"{here}.subPath", f"{check.shown(mount.sub_path)} {problem}")


def _probes(one: Container, path: str) -> Errors:
    for field, probe, once in (
        ("livenessProbe", one.liveness_probe, True),
        ("readinessProbe", one.readiness_probe, False),
        ("startupProbe", one.startup_probe, True),
    ):
        if probe is None:
            continue
        here = f"{path}.{field}"
        yield from _probe(probe, here)
        if once and probe.success_threshold != 1:
            yield FieldError(f"{here}.successThreshold", "must be 1 for this probe")


def _probe(probe: Probe, path: str) -> Errors:
    yield from _handler(probe, path)
    for field, value, least in (
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("periodSeconds", probe.period_seconds, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("failureThreshold", probe.failure_threshold, 1),
        ("terminationGracePeriodSeconds", probe.termination_grace_period_seconds, 1),
    ):
        if value is not None and not least <= value <= check.MAX_INT32:
            yield from check.between(value, least, check.MAX_INT32, f"{path}.{field}")


def _handler(handler: Probe | Handler, path: str) -> Errors:
    given = [
        name
        for name, value in (
            ("exec", handler.exec),
            ("httpGet", handler.http_get),
            ("tcpSocket", handler.tcp_socket),
        )
        if value is not None
    ]
    if not given:
        yield check.required(path, "needs one of exec, httpGet and tcpSocket")
    elif len(given) > 1:
        yield check.forbidden(path, f"may have one handler only, it has {' and '.join(given)}")
    if handler.exec is not None and not handler.exec.command:
        yield check.required(f"{path}.exec.command")
    if handler.http_get is not None:
        yield from _http(handler.http_get, f"{path}.httpGet")
    if handler.tcp_socket is not None:
        yield from check.port_or_name(handler.tcp_socket.port, f"{path}.tcpSocket.port")


def _http(action: HTTPGetAction, path: str) -> Errors:
    yield from check.port_or_name(action.port, f"{path}.port")
    yield from check.choice(action.scheme, ("HTTP", "HTTPS"), f"{path}.scheme")
    for index, header in enumerate(action.http_headers):
        if not header.name or not all(c.isalnum() or c in "-_" for c in header.name):
            said = f"{check.shown(header.name)} is no name of a header"
            yield FieldError(f"{path}.httpHeaders[{index}].name", said)
        if "\r" in header.value or "\n" in header.value:
            yield FieldError(f"{path}.httpHeaders[{index}].value", "may not contain a line break")


def _lifecycle(lifecycle: Lifecycle, path: str) -> Errors:
    for field, handler in (("postStart", lifecycle.post_start), ("preStop", lifecycle.pre_stop)):
        if handler is not None:
            yield from _handler(handler, f"{path}.{field}")


def _security(context: SecurityContext, path: str) -> Errors:
    yield from check.between(context.run_as_user, 0, _MAX_ID, f"{path}.runAsUser")
    yield from check.between(context.run_as_group, 0, _MAX_ID, f"{path}.runAsGroup")
    if context.privileged and context.allow_privilege_escalation is False:
        yield FieldError(
            f"{path}.allowPrivilegeEscalation", "may not be false for a privileged container"
        )
