"""Settings of the agent: one frozen value, made by the command line, read by the roles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: The article's ADMISSION_CONTROL.
DEFAULT_ADMISSION = ("NamespaceLifecycle", "NamespaceAutoProvision", "LimitRanger", "ResourceQuota")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every flag of ``k8slite agent``; durations in seconds."""

    roles: str = "ai"
    node_name: str = ""  # the node's address, as the article has it
    node_ip: str = ""
    data_dir: Path = Path("/var/lib/k8slite")
    store: str = "sqlite"  # or memory, or etcd endpoints
    portal_net: str = "192.168.3.0/24"
    flannel_net: str = "172.16.0.0/16"
    admission_control: tuple[str, ...] = DEFAULT_ADMISSION
    port: int = 8080
    secure_port: int = 6443
    read_only_port: int = 7080
    node_port: int = 10250
    insecure_allow: tuple[str, ...] = ()
    docker_host: str = "unix:///var/run/docker.sock"
    docker_network: str = "k8slite"
    manifests: Path | None = None  # static pods; default data_dir/manifests
    scheduler_policy: Path | None = None
    scheduler_name: str = "default-scheduler"
    node_grace: float = 40.0
    eviction_timeout: float = 300.0
    warm_sandboxes: int = 2
    event_ttl: float = 3600.0
    log_level: str = "info"
