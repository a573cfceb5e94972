"""The pod network: one Docker bridge network per node, declared, adopted when right, removed."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiodocker import Docker, DockerError

from k8slite.roles.kubelet.docker import names
from k8slite.roles.kubelet.runtime import PodNetwork, RuntimeFailure

INTERFACE = "k8slite0"
_INTERFACE_OPTION = "com.docker.network.bridge.name"


async def ensure(docker: Docker, name: str, pods: PodNetwork) -> str:
    """Make the network stand on the CIDR that the cluster grants; returns it.

    A network of ours is adopted when its interface and CIDR are right; a wrong one is replaced
    while no container uses it. Raises RuntimeFailure when the name is somebody else's.
    """
    networks = await docker.networks.list()
    mine = next((network for network in networks if network["Name"] == name), None)
    if mine is not None and names.KIND not in (mine.get("Labels") or {}):
        raise RuntimeFailure(
            f"Docker network {name} exists and is not k8slite's: "
            f"remove it (docker network rm {name}) or choose another --docker-network"
        )
    have = _subnet(mine) if mine is not None and _interface(mine) == INTERFACE else ""
    others = [_subnet(network) for network in networks if network["Name"] != name]
    cidr = await pods.claim(have, [*filter(None, others), *host_routes(besides=INTERFACE)])
    if mine is not None:
        if have == cidr:
            return cidr
        await _remove(docker, mine, cidr)
    await docker.networks.create(
        {
            "Name": name,
            "Driver": "bridge",
            "CheckDuplicate": True,
            "Options": {_INTERFACE_OPTION: INTERFACE},
            "IPAM": {"Config": [{"Subnet": cidr}]},
            "Labels": {names.KIND: "network"},
        }
    )
    return cidr


def _interface(network: dict[str, Any]) -> str:
    return str((network.get("Options") or {}).get(_INTERFACE_OPTION, ""))


async def _remove(docker: Docker, network: dict[str, Any], cidr: str) -> None:
    try:
        handle = await docker.networks.get(network["Id"])
        await handle.delete()
    except DockerError as error:
        raise RuntimeFailure(
            f"Docker network {network['Name']} has {_subnet(network)}, this node's pods are to "
            f"have {cidr}, and it cannot be replaced: {error.message}; remove the containers in it"
        ) from None


def _subnet(network: dict[str, Any]) -> str:
    for config in (network.get("IPAM") or {}).get("Config") or []:
        if config.get("Subnet") and ":" not in config["Subnet"]:
            return str(config["Subnet"])
    return ""


def host_routes(besides: str = "", table: Path = Path("/proc/net/route")) -> Iterable[str]:
    """Networks that the host already routes, the default route left out."""
    for line in table.read_text().splitlines()[1:]:
        words = line.split()
        interface, target, mask = words[0], int(words[1], 16), int(words[7], 16)
        if target and interface != besides:
            address = socket.inet_ntoa(struct.pack("<I", target))
            yield f"{address}/{mask.bit_count()}"
