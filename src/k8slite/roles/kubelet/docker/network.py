"""The pod network: one Docker bridge network per node, declared, adopted when right, removed."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from aiodocker import Docker, DockerError

from k8slite.network.routes import BRIDGE, LINK
from k8slite.roles.kubelet.docker import names
from k8slite.roles.kubelet.runtime import PodNetwork, RuntimeFailure

log = structlog.get_logger()

_INTERFACE_OPTION = "com.docker.network.bridge.name"
#: From this version of its API on (Engine 28) Docker drops what is routed to containers from
#: outside, unless the bridge network is told otherwise.
_GUARDED = (1, 48)


def options(api_version: str, mtu: int) -> dict[str, str]:
    """What the bridge driver must be told: we masquerade, not Docker, and pods are routed to.

    ``api_version`` is the engine's (``1.41``), ``mtu`` that of pods in bytes (0: say nothing).
    """
    told = {
        _INTERFACE_OPTION: BRIDGE,
        "com.docker.network.bridge.enable_ip_masquerade": "false",
    }
    if mtu:
        told["com.docker.network.driver.mtu"] = str(mtu)
    if tuple(int(part) for part in api_version.split(".")[:2]) >= _GUARDED:
        told["com.docker.network.bridge.gateway_mode_ipv4"] = "nat-unprotected"
    return told


async def ensure(docker: Docker, name: str, pods: PodNetwork, options: dict[str, str]) -> str:
    """Make the network stand on the CIDR that the cluster grants, with ``options``; that CIDR.

    A network of ours is adopted when it is right; a wrong one is replaced while no pod uses it. One
    whose options alone are wrong is adopted while pods use it: they stay, and it is replaced once
    they are gone. Raises RuntimeFailure when the name is somebody else's.
    """
    networks = await docker.networks.list()
    mine = next((network for network in networks if network["Name"] == name), None)
    if mine is not None and names.KIND not in (mine.get("Labels") or {}):
        raise RuntimeFailure(
            f"Docker network {name} exists and is not k8slite's: "
            f"remove it (docker network rm {name}) or choose another --docker-network"
        )
    present = (mine.get("Options") or {}) if mine is not None else {}
    have = _subnet(mine) if mine and present.get(_INTERFACE_OPTION) == BRIDGE else ""
    others = [_subnet(network) for network in networks if network["Name"] != name]
    cidr = await pods.claim(have, [*filter(None, others), *host_routes(besides=(BRIDGE, LINK))])
    if mine is not None:
        if have == cidr and present.items() >= options.items():
            return cidr
        why = await _remove(docker, mine)
        if why and have == cidr:
            log.warning("Docker network kept for its pods", role="kubelet", options=present)
            return cidr
        if why:
            raise RuntimeFailure(
                f"Docker network {name} has {_subnet(mine)}, this node's pods are to have {cidr}, "
                f"and it cannot be replaced: {why}; remove the containers in it"
            )
    await docker.networks.create(
        {
            "Name": name,
            "Driver": "bridge",
            "CheckDuplicate": True,
            "Options": options,
            "IPAM": {"Config": [{"Subnet": cidr}]},
            "Labels": {names.KIND: "network"},
        }
    )
    return cidr


async def _remove(docker: Docker, network: dict[str, Any]) -> str:
    """Remove the network if no pod is in it; why not, or ""."""
    handle = await docker.networks.get(network["Id"])
    inside = (await handle.show()).get("Containers") or {}
    held = {id: names.parse_name(found.get("Name", "")) for id, found in inside.items()}
    pods = [inside[id]["Name"] for id, parsed in held.items() if parsed is None or parsed.pod]
    if pods:
        return f"{pods[0]} is in it"
    for id in held:  # warm sandboxes are nobody's: others are made
        with suppress(DockerError):
            await docker.containers.container(id).delete(force=True)
    try:
        await handle.delete()
    except DockerError as error:
        return error.message
    return ""


def _subnet(network: dict[str, Any]) -> str:
    for config in (network.get("IPAM") or {}).get("Config") or []:
        if config.get("Subnet") and ":" not in config["Subnet"]:
            return str(config["Subnet"])
    return ""


def host_routes(
    besides: Iterable[str] = (), table: Path = Path("/proc/net/route")
) -> Iterable[str]:
    """Networks that the host already routes, the default route left out."""
    for line in table.read_text().splitlines()[1:]:
        words = line.split()
        interface, target, mask = words[0], int(words[1], 16), int(words[7], 16)
        if target and interface not in besides:
            address = socket.inet_ntoa(struct.pack("<I", target))
            yield f"{address}/{mask.bit_count()}"
