"""Sandbox and container specs in the words of Docker's API (containers/create)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from k8slite.decide.pods.spec import CPU_PERIOD, ContainerSpec, HostPort, SandboxSpec
from k8slite.roles.kubelet.docker import names
from k8slite.roles.kubelet.docker.pause import IMAGE

#: The sandbox dies last when memory runs out.
_SANDBOX_OOM_SCORE = -998
_CAP_SYS_RESOURCE = 24


@cache
def oom_floor(status: Path = Path("/proc/self/status")) -> int:
    """The lowest OOM score that this host lets anybody give.

    Going below zero takes CAP_SYS_RESOURCE; where we lack it (in some virtual machines and
    containers) so does Docker, and runc then dies without a word.
    """
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            capable = int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1
            return -1000 if capable else 0
    return 0


_LOGS = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


def sandbox(spec: SandboxSpec, network: str, node: str) -> dict[str, Any]:
    host: dict[str, Any] = {
        "NetworkMode": "host" if spec.host_network else network,
        "IpcMode": "host" if spec.host_ipc else "shareable",
        "OomScoreAdj": max(_SANDBOX_OOM_SCORE, oom_floor()),
        "LogConfig": {"Type": "none", "Config": {}},
    }
    if spec.ports:
        host["PortBindings"] = _bindings(spec.ports)
    if spec.dns.servers:
        host["Dns"] = list(spec.dns.servers)
    if spec.dns.searches:
        host["DnsSearch"] = list(spec.dns.searches)
    if spec.dns.options:
        host["DnsOptions"] = list(spec.dns.options)
    if spec.hosts:
        host["ExtraHosts"] = [f"{name}:{ip}" for ip, name in spec.hosts]
    if spec.sysctls:
        host["Sysctls"] = dict(spec.sysctls)
    config: dict[str, Any] = {
        "Image": IMAGE,
        "Labels": names.sandbox_labels(spec, node),
        "HostConfig": host,
    }
    if not spec.host_network:
        config["Hostname"] = spec.hostname
    if spec.ports:
        config["ExposedPorts"] = {f"{p.container_port}/{p.protocol}": {} for p in spec.ports}
    return config


def warm(network: str, node: str) -> dict[str, Any]:
    return {
        "Image": IMAGE,
        "Labels": names.warm_labels(node),
        "HostConfig": {
            "NetworkMode": network,
            "IpcMode": "shareable",
            "OomScoreAdj": max(_SANDBOX_OOM_SCORE, oom_floor()),
            "LogConfig": {"Type": "none", "Config": {}},
        },
    }


def _bindings(ports: tuple[HostPort, ...]) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        binding = {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
        bindings.setdefault(f"{port.container_port}/{port.protocol}", []).append(binding)
    return bindings


def container(spec: ContainerSpec, node: str) -> dict[str, Any]:
    env: Mapping[str, str] = spec.env
    if not spec.host_network:
        # Docker would set HOSTNAME to the sandbox's name, which a warm sandbox got before its pod.
        env = {"HOSTNAME": spec.hostname, **env}
    config: dict[str, Any] = {
        "Image": spec.image,
        "Labels": names.container_labels(spec, node),
        "Env": [f"{name}={value}" for name, value in env.items()],
        "HostConfig": _place(spec),
        "StopTimeout": spec.grace,  # what Docker gives when the host is shut down
        "OpenStdin": spec.stdin,
        "StdinOnce": spec.stdin_once,
        "Tty": spec.tty,
    }
    if spec.command:
        config["Entrypoint"] = list(spec.command)
    if spec.args:
        config["Cmd"] = list(spec.args)
    if spec.working_dir:
        config["WorkingDir"] = spec.working_dir
    if spec.user:
        config["User"] = spec.user
    return config


def _place(spec: ContainerSpec) -> dict[str, Any]:
    """What the container shares, and what it may take and do (HostConfig)."""
    joined = f"container:{spec.sandbox}"
    host: dict[str, Any] = {
        "NetworkMode": joined,
        "IpcMode": "host" if spec.host_ipc else joined,
        "PidMode": "host" if spec.host_pid else "",
        "CpuShares": spec.cpu_shares,
        "Memory": spec.memory,
        "OomScoreAdj": max(spec.oom_score, oom_floor()),
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "LogConfig": _LOGS,
        "Mounts": [
            {
                "Type": "bind",
                "Source": mount.source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
            }
            for mount in spec.mounts
        ],
    }
    if spec.memory:
        host["MemorySwap"] = spec.memory  # no swap beyond the limit
    if spec.cpu_quota:
        host["CpuPeriod"], host["CpuQuota"] = CPU_PERIOD, spec.cpu_quota
    if spec.cap_add:
        host["CapAdd"] = list(spec.cap_add)
    if spec.cap_drop:
        host["CapDrop"] = list(spec.cap_drop)
    if spec.groups:
        host["GroupAdd"] = list(spec.groups)
    if spec.no_new_privileges:
        host["SecurityOpt"] = ["no-new-privileges"]
    return host
