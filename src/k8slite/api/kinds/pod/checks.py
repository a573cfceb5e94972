"""What a pod must fulfil (kubernetes ``pkg/apis/core/validation``), whole and in a template."""

from __future__ import annotations

from msgspec.structs import replace

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.kinds.pod.container_checks import container
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec, Toleration
from k8slite.api.kinds.pod.volume_checks import volumes
from k8slite.api.validation import Errors

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
PHASES = ("", "Pending", "Running", "Succeeded", "Failed", "Unknown")

_MAX_ID = 2**31 - 1
_CHANGEABLE = (
    "of a pod that exists only the images of containers, activeDeadlineSeconds and further "
    "tolerations may be changed"
)


def pod(new: Pod, old: Pod | None) -> Errors:
    """A whole pod; ``old`` is what it replaces."""
    yield from check.metadata(new.metadata, check.dns_subdomain)
    if old is None or new.spec != old.spec:  # what is stored was looked at once
        yield from spec(new.spec, "spec")
    if old is None:
        if new.spec.ephemeral_containers:
            yield check.forbidden("spec.ephemeralContainers", "may not be set on create")
        return
    yield from check.metadata_update(new.metadata, old.metadata)
    yield from _update(new.spec, old.spec)


def status(new: Pod, old: Pod | None) -> Errors:
    """The status of a pod, written by whoever runs it."""
    yield from check.choice(new.status.phase, PHASES, "status.phase")
    for field, value in (("podIP", new.status.pod_ip), ("hostIP", new.status.host_ip)):
        if value and (problem := check.ip_address(value)):
            yield FieldError(f"status.{field}", f"{check.shown(value)} {problem}")
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)


def spec(body: PodSpec, path: str) -> Errors:
    """A pod's spec, in a pod or in a template."""
    names = frozenset(volume.name for volume in body.volumes)
    if body.volumes:
        yield from volumes(body.volumes, f"{path}.volumes")
    if not body.containers:
        yield check.required(f"{path}.containers", "a pod needs at least one container")
    for field, containers in (
        ("containers", body.containers),
        ("initContainers", body.init_containers),
    ):
        for index, one in enumerate(containers):
            yield from container(one, names, f"{path}.{field}[{index}]")
    yield from _together(body, path)
    yield from check.choice(body.restart_policy, RESTART_POLICIES, f"{path}.restartPolicy")
    yield from check.choice(body.dns_policy, DNS_POLICIES, f"{path}.dnsPolicy")
    yield from check.natural(
        body.termination_grace_period_seconds, f"{path}.terminationGracePeriodSeconds"
    )
    yield from check.between(
        body.active_deadline_seconds, 1, check.MAX_INT32, f"{path}.activeDeadlineSeconds"
    )
    yield from _names(body, path)
    if body.tolerations:
        yield from tolerations(body.tolerations, f"{path}.tolerations")
    yield from _security(body, path)


def _together(body: PodSpec, path: str) -> Errors:
    """What containers may not have in common."""
    everybody = [
        *((f"{path}.containers[{i}]", one) for i, one in enumerate(body.containers)),
        *((f"{path}.initContainers[{i}]", one) for i, one in enumerate(body.init_containers)),
    ]
    if len(everybody) > 1:
        yield from check.unique((f"{where}.name", one.name) for where, one in everybody)
    taken: dict[tuple[str, str, int], str] = {}
    for index, one in enumerate(body.containers):
        for number, port in enumerate(one.ports):
            here = f"{path}.containers[{index}].ports[{number}]"
            if body.host_network and port.host_port != port.container_port:
                said = f"must be the containerPort ({port.container_port}) with hostNetwork"
                yield FieldError(f"{here}.hostPort", said)
            key = (port.host_ip, port.protocol, port.host_port)
            if port.host_port and key in taken:
                yield check.duplicate(f"{here}.hostPort", port.host_port)
            taken.setdefault(key, here)


def _names(body: PodSpec, path: str) -> Errors:
    if body.node_selector:
        yield from check.label_map(body.node_selector, f"{path}.nodeSelector")
    for field, value, rule in (
        ("nodeName", body.node_name, check.dns_subdomain),
        ("serviceAccountName", body.service_account_name, check.dns_subdomain),
        ("schedulerName", body.scheduler_name, check.qualified_name),
        ("hostname", body.hostname, check.dns_label),
        ("subdomain", body.subdomain, check.dns_label),
    ):
        if value and (problem := rule(value)):
            yield FieldError(f"{path}.{field}", f"{check.shown(value)} {problem}")
    for index, reference in enumerate(body.image_pull_secrets):
        if not reference.name:
            yield check.required(f"{path}.imagePullSecrets[{index}].name")
    for index, alias in enumerate(body.host_aliases):
        here = f"{path}.hostAliases[{index}]"
        yield from check.text(alias.ip, check.ip_address, f"{here}.ip")
        for number, name in enumerate(alias.hostnames):
            yield from check.text(name, check.dns_subdomain, f"{here}.hostnames[{number}]")
    if body.dns_policy == "None" and not (body.dns_config or {}).get("nameservers"):
        yield check.required(
            f"{path}.dnsConfig.nameservers", "dnsPolicy None needs at least one name server"
        )


def tolerations(items: tuple[Toleration, ...], path: str) -> Errors:
    for index, one in enumerate(items):
        here = f"{path}[{index}]"
        yield from check.choice(one.operator, ("", "Exists", "Equal"), f"{here}.operator")
        yield from check.choice(one.effect, ("", *EFFECTS), f"{here}.effect")
        if one.key and (problem := check.qualified_name(one.key)):
            yield FieldError(f"{here}.key", f"{check.shown(one.key)} {problem}")
        if not one.key and one.operator != "Exists":
            yield FieldError(f"{here}.operator", "must be Exists when no key is given")
        if one.operator == "Exists" and one.value:
            yield FieldError(f"{here}.value", "must be left out when the operator is Exists")
        elif problem := check.label_value(one.value):
            yield FieldError(f"{here}.value", f"{check.shown(one.value)} {problem}")
        if one.toleration_seconds is not None and one.effect != "NoExecute":
            yield FieldError(f"{here}.effect", "must be NoExecute when tolerationSeconds is set")


def _security(body: PodSpec, path: str) -> Errors:
    context = body.security_context
    if context is None:
        return
    here = f"{path}.securityContext"
    yield from check.between(context.run_as_user, 0, _MAX_ID, f"{here}.runAsUser")
    yield from check.between(context.run_as_group, 0, _MAX_ID, f"{here}.runAsGroup")
    yield from check.between(context.fs_group, 0, _MAX_ID, f"{here}.fsGroup")
    for index, group in enumerate(context.supplemental_groups):
        yield from check.between(group, 0, _MAX_ID, f"{here}.supplementalGroups[{index}]")


def _update(new: PodSpec, old: PodSpec) -> Errors:
    """Everything but images, the deadline and further tolerations stays as it was."""
    if new == old:
        return
    for field, containers, before in (
        ("containers", new.containers, old.containers),
        ("initContainers", new.init_containers, old.init_containers),
    ):
        if len(containers) != len(before):
            yield check.forbidden(
                f"spec.{field}", "containers may not be added to or taken from a pod that exists"
            )
            return
    yield from _deadline(new.active_deadline_seconds, old.active_deadline_seconds)
    if any(toleration not in new.tolerations for toleration in old.tolerations):
        yield check.forbidden("spec.tolerations", f"{_CHANGEABLE}; none may go")
    as_before = replace(
        new,
        containers=_with_images(new.containers, old.containers),
        init_containers=_with_images(new.init_containers, old.init_containers),
        active_deadline_seconds=old.active_deadline_seconds,
        tolerations=old.tolerations,
    )
    if where := check.first_difference(as_before, old, "spec"):
        yield check.forbidden(where, _CHANGEABLE)


def _with_images(
    containers: tuple[Container, ...], old: tuple[Container, ...]
) -> tuple[Container, ...]:
    return tuple(
        replace(one, image=before.image) if one.image != before.image else one
        for one, before in zip(containers, old, strict=True)
    )


def _deadline(new: int | None, old: int | None) -> Errors:
    if old is not None and (new is None or new > old):
        said = f"may only become shorter (it is {old})"
        yield FieldError("spec.activeDeadlineSeconds", said)
