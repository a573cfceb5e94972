"""Endpoints: which addresses stand behind a service right now.

Rules of Kubernetes' endpoints controller: a pod counts with an address when it has an IP, is not
over and not on its way out; ready pods become ``addresses``, the others ``notReadyAddresses``. A
named targetPort is looked up in each pod, so pods may differ; pods with the same ports share a
subset. Everything is sorted: the same pods give the same answer to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable

from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.kinds.endpoints.types import EndpointAddress, EndpointPort, EndpointSubset
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.decide.replication import is_ready

Ports = tuple[EndpointPort, ...]


def counts(pod: Pod) -> bool:
    """May ``pod`` stand behind a service at all?"""
    return bool(
        pod.status.pod_ip
        and pod.metadata.deletion_timestamp is None
        and pod.status.phase not in ("Succeeded", "Failed")
    )


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """The number of ``port`` in ``pod``; None when no container declares the name."""
    target = port.target_port
    if target in (None, "", 0):
        return port.port
    if isinstance(target, int):
        return target
    for container in pod.spec.containers:
        for declared in container.ports:
            if declared.name == target and (declared.protocol or "TCP") == (port.protocol or "TCP"):
                return declared.container_port
    return None


def _ports(service: Service, pod: Pod) -> Ports:
    found = []
    for port in service.spec.ports:
        number = target_port(port, pod)
        if number is not None:
            protocol = port.protocol or "TCP"
            found.append(
                EndpointPort(
                    name=port.name, port=number, protocol=protocol, app_protocol=port.app_protocol
                )
            )
    return tuple(found)


def _address(service: Service, pod: Pod) -> EndpointAddress:
    """The pod's uid and name, not its version: that would be a write for each of its changes."""
    spec, meta = pod.spec, pod.metadata
    named = bool(spec.hostname) and spec.subdomain == service.metadata.name
    return EndpointAddress(
        ip=pod.status.pod_ip,
        hostname=spec.hostname if named else "",
        node_name=spec.node_name or None,
        target_ref=ObjectReference(
            kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid
        ),
    )


def _order(address: EndpointAddress) -> tuple[str, str]:
    return address.ip, address.target_ref.uid if address.target_ref else ""


def subsets(service: Service, pods: Iterable[Pod]) -> tuple[EndpointSubset, ...]:
    """The subsets for ``service``, of those of ``pods`` (all of them selected by it) that count."""
    headless = service.spec.cluster_ip == "None"
    early = service.spec.publish_not_ready_addresses
    groups: dict[Ports, tuple[list[EndpointAddress], list[EndpointAddress]]] = {}
    for pod in pods:
        if not counts(pod):
            continue
        ports = _ports(service, pod)
        if not ports and not (headless and not service.spec.ports):
            continue
        ready, waiting = groups.setdefault(ports, ([], []))
        (ready if early or is_ready(pod) else waiting).append(_address(service, pod))
    return tuple(
        EndpointSubset(
            addresses=tuple(sorted(ready, key=_order)),
            not_ready_addresses=tuple(sorted(waiting, key=_order)),
            ports=ports,
        )
        for ports, (ready, waiting) in sorted(groups.items(), key=lambda item: repr(item[0]))
    )
