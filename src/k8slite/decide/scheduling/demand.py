"""What a pod asks of a node: resources, host ports, disks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from k8slite.api import quantity
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec, Volume

#: What priorities assume of a container that asks for nothing, so that such pods spread too
#: (Kubernetes' GetNonzeroRequests).
ASSUMED_CPU = 100  # thousandths of a core
ASSUMED_MEMORY = 200 * 1024 * 1024  # bytes

#: ``(protocol, port)`` and the host address ("" is all of them).
HostPort = tuple[str, int, str]


class Disk(msgspec.Struct, frozen=True):
    """A disk that one node may mount for writing. ``shared``: read-only mounts may share it."""

    name: str
    shared: bool


class Demand(msgspec.Struct, frozen=True):
    """``cpu`` in thousandths of a core, ``memory`` in bytes, ``others`` in whole units.

    ``likely_cpu`` and ``likely_memory`` are what priorities count with.
    """

    cpu: int = 0
    memory: int = 0
    others: dict[str, int] = {}
    likely_cpu: int = 0
    likely_memory: int = 0
    ports: tuple[HostPort, ...] = ()
    disks: tuple[Disk, ...] = ()


def amounts(resources: Mapping[str, quantity.Text] | None) -> dict[str, int]:
    """A resource list as integers: cpu in thousandths, everything else in whole units.

    Text that is no quantity counts as nothing: validation has kept it out long before.
    """
    found = {}
    for name, text in (resources or {}).items():
        try:
            found[name] = quantity.milli(text) if name == "cpu" else quantity.value(text)
        except ValueError:
            continue
    return found


def _asked(container: Container) -> dict[str, int]:
    """A limit without a request is a request (the rule of defaulting, applied to old objects)."""
    return {
        **amounts(container.resources.limits),
        **amounts(container.resources.requests),
    }


def _total(spec: PodSpec) -> dict[str, int]:
    """All containers together, or the greediest init container if that is more."""
    total: dict[str, int] = {}
    for container in spec.containers:
        for name, amount in _asked(container).items():
            total[name] = total.get(name, 0) + amount
    for container in spec.init_containers:
        for name, amount in _asked(container).items():
            total[name] = max(total.get(name, 0), amount)
    return total


def host_ports(spec: PodSpec) -> Iterable[HostPort]:
    for container in spec.containers:
        for port in container.ports:
            number = port.host_port or (port.container_port if spec.host_network else 0)
            if number:
                address = "" if port.host_ip == "0.0.0.0" else port.host_ip
                yield port.protocol or "TCP", number, address


def _disk(volume: Volume) -> Disk | None:
    if source := volume.gce_persistent_disk:
        return Disk(f"gce/{source.get('pdName', '')}", bool(source.get("readOnly")))
    if source := volume.aws_elastic_block_store:
        return Disk(f"aws/{source.get('volumeID', '')}", False)
    if source := volume.iscsi:
        name = f"iscsi/{source.get('iqn', '')}/{source.get('lun', 0)}"
        return Disk(name, bool(source.get("readOnly")))
    return None


def demand_of(pod: Pod) -> Demand:
    spec = pod.spec
    total = _total(spec)
    likely_cpu = likely_memory = 0
    for container in spec.containers:
        asked = _asked(container)
        likely_cpu += asked.get("cpu", ASSUMED_CPU)
        likely_memory += asked.get("memory", ASSUMED_MEMORY)
    cpu, memory = total.pop("cpu", 0), total.pop("memory", 0)
    return Demand(
        cpu=cpu,
        memory=memory,
        others={name: amount for name, amount in total.items() if amount},
        likely_cpu=max(likely_cpu, cpu),
        likely_memory=max(likely_memory, memory),
        ports=tuple(sorted(set(host_ports(spec)))),
        disks=tuple(disk for volume in spec.volumes if (disk := _disk(volume))),
    )
