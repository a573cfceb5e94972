"""Endpoints: which addresses stand behind a service right now.

Rules of Kubernetes' endpoints controller: a pod counts with an address when it has an IP, is not
over and not on its way out; ready pods become ``addresses``, the others ``notReadyAddresses``. A
named targetPort is looked up in each pod, so pods may differ; pods with the same ports share a
subset. Everything is sorted: the same pods give the same answer to the byte.

Pods that are on their way out yet still ready have no place in Endpoints, and clients must not
be surprised by any. Where nobody else is left to serve they are better than nobody, so an
annotation tells the proxies of them: those only, so that the end of a pod costs no second write.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.kinds.endpoints.types import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
)
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.decide.replication import is_ready

Ports = tuple[EndpointPort, ...]
Subsets = tuple[EndpointSubset, ...]

#: Annotation on Endpoints: subsets, as JSON, of pods to serve where no ready one is left.
TERMINATING = "k8slite.io/terminating"

#: So many addresses are told of at most (about 8 kB); they are sorted, so it is always the same.
MAX_TERMINATING = 100

_SUBSETS = msgspec.json.Decoder(Subsets)


def counts(pod: Pod) -> bool:
    """May ``pod`` stand behind a service at all?"""
    return bool(
        pod.status.pod_ip
        and pod.metadata.deletion_timestamp is None
        and pod.status.phase not in ("Succeeded", "Failed")
    )


def lingers(pod: Pod) -> bool:
    """Is ``pod`` on its way out, and ready to the end?"""
    return bool(
        pod.status.pod_ip
        and pod.metadata.deletion_timestamp is not None
        and pod.status.phase not in ("Succeeded", "Failed")
        and is_ready(pod)
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


def terminating(service: Service, pods: Iterable[Pod], ready: Subsets) -> str:
    """The annotation that goes with the subsets ``ready``, or "": those of ``pods`` that linger
    and have a port which no ready pod serves; no ready pod of the same node, when the service
    keeps clients to their node."""
    lingering = sorted((pod for pod in pods if lingers(pod)), key=lambda pod: pod.status.pod_ip)
    if not lingering:
        return ""
    policies = (service.spec.internal_traffic_policy, service.spec.external_traffic_policy)
    by_node = "Local" in policies
    served = {
        (port.name, port.protocol, address.node_name if by_node else None)
        for subset in ready
        for port in subset.ports
        for address in subset.addresses
    }
    told = 0
    groups: dict[Ports, list[EndpointAddress]] = {}
    for pod in lingering:
        node = pod.spec.node_name or None
        ports = _ports(service, pod)
        missed = any((p.name, p.protocol, node if by_node else None) not in served for p in ports)
        if missed and told < MAX_TERMINATING:
            told += 1
            address = EndpointAddress(ip=pod.status.pod_ip, node_name=node)
            groups.setdefault(ports, []).append(address)
    found = [
        EndpointSubset(addresses=tuple(addresses), ports=ports)
        for ports, addresses in sorted(groups.items(), key=lambda item: repr(item[0]))
    ]
    return msgspec.json.encode(found).decode() if found else ""


def terminating_of(endpoints: Endpoints) -> Subsets:
    """What the annotation says; nothing when there is none, or it is no work of ours."""
    text = endpoints.metadata.annotation(TERMINATING)
    if not text:
        return ()
    try:
        return _SUBSETS.decode(text)
    except msgspec.MsgspecError:
        return ()
