"""The pod network: one Docker bridge network per node, declared, adopted when right, removed."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiodocker import Docker, DockerError

from k8slite.decide.pods.network import first_free, inside
from k8slite.roles.kubelet.docker import names
from k8slite.roles.kubelet.runtime import PodNetwork, RuntimeFailure

INTERFACE = "k8slite0"
_INTERFACE_OPTION = "com.docker.network.bridge.name"


async def ensure(docker: Docker, name: str, flannel_net: str, wish: PodNetwork) -> str:
    """Make the network stand; returns its CIDR.

    A network of ours is adopted when its interface and CIDR are right; a wrong one is replaced
    while no container uses it. Raises RuntimeFailure when the name is somebody else's.
    """
    networks = await docker.networks.list()
    mine = next((network for network in networks if network["Name"] == name), None)
    if mine is not None:
        if names.KIND not in (mine.get("Labels") or {}):
            raise RuntimeFailure(
                f"Docker network {name} exists and is not k8slite's: "
                f"remove it (docker network rm {name}) or choose another --docker-network"
            )
        cidr = _subnet(mine)
        if _right(mine, cidr, flannel_net, wish.wanted):
            return cidr
        await _remove(docker, mine)
    others = [_subnet(network) for network in networks if network["Name"] != name]
    taken = [*wish.reserved, *filter(None, others), *host_routes(besides=INTERFACE)]
    try:
        cidr = wish.wanted or first_free(flannel_net, taken)
    except ValueError as error:
        raise RuntimeFailure(str(error)) from None
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


def _right(network: dict[str, Any], cidr: str, flannel_net: str, wanted: str) -> bool:
    interface = (network.get("Options") or {}).get(_INTERFACE_OPTION)
    if interface != INTERFACE or not cidr or not inside(cidr, flannel_net):
        return False
    return not wanted or wanted == cidr


async def _remove(docker: Docker, network: dict[str, Any]) -> None:
    try:
        handle = await docker.networks.get(network["Id"])
        await handle.delete()
    except DockerError as error:
        raise RuntimeFailure(
            f"Docker network {network['Name']} has the wrong address {_subnet(network)} and "
            f"cannot be replaced: {error.message}; remove the containers in it"
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
