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
    store: str = "sqlite"  # or memory, or etcd
    etcd: tuple[str, ...] = ()  # endpoints, as https://192.168.0.10:2379
    etcd_root: str = "/k8slite"  # every key of this cluster in etcd lies below it
    etcd_ca: Path | None = None
    etcd_cert: Path | None = None
    etcd_key: Path | None = None
    etcd_user: str = ""
    etcd_password_file: Path | None = None
    server: tuple[str, ...] = ()  # masters, as https://192.168.0.10:6443, for role i alone
    token: str = ""  # with which a node joins,
    token_file: Path | None = None  # or where it is
    overlay: str = "vxlan"  # or host-gw, or none: how pods of different nodes reach each other
    proxy_mode: str = "userspace"  # or nft: the kernel forwards, the client's address is kept
    address_pool: tuple[str, ...] = ()  # for services of type LoadBalancer: CIDRs and FROM-TO
    announce: str = "arp"  # or bgp, or none: how addresses of the pool reach their node
    bgp_as: int = 64512  # our own AS number
    bgp_peer: tuple[str, ...] = ()  # routers, as ADDRESS or ADDRESS=AS
    portal_net: str = "192.168.3.0/24"
    flannel_net: str = "172.16.0.0/16"
    admission_control: tuple[str, ...] = DEFAULT_ADMISSION
    port: int = 8080
    secure_port: int = 6443
    read_only_port: int = 7080
    node_port: int = 10250
    insecure_allow: tuple[str, ...] = ()  # CIDRs that the HTTP door serves besides the nodes
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
