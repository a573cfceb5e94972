"""What one host of a cluster shall be, as one value that travels there. Pure.

``digest`` tells whether a host is what it shall be already: the same cluster, the same settings and
the same software make the same plan, whenever and wherever ``up`` runs.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from k8slite.config import Settings
from k8slite.deploy.cluster import ClusterSpec, NodeSpec
from k8slite.deploy.facts import CONFIG, DATA

ETCD_DATA = f"{DATA}/etcd"
PKI = f"{DATA}/pki"
TOKEN = f"{CONFIG}/join.token"

#: Where masters serve everybody who has a credential.
SECURE_PORT = Settings().secure_port

#: Bytes that etcd's data may grow to before it refuses writes.
_ETCD_QUOTA = 4 << 30


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What the masters of a cluster have in common. ``bundle`` is that of ``Pki.shared``, JSON."""

    bundle: str
    etcd_certificate: str  # PEM; an authority of etcd's own: no client of the API is one of etcd
    etcd_key: str


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One host. ``settings`` are the agent's, those that differ from the defaults."""

    cluster: str
    address: str
    roles: str
    nodes: list[dict[str, str]]
    runtime: str  # digest of the bundle
    settings: dict[str, Any]
    etcd: str = ""  # digest of etcd's bundle, "" where there is none
    etcd_flags: list[str] = []
    etcd_first: list[str] = []  # flags that count only while etcd has no data yet
    shared: Shared | None = None  # masters
    token: str = ""  # others
    docker_options: dict[str, Any] = {}

    @property
    def master(self) -> bool:
        return "a" in self.roles

    def without(self, address: str) -> HostPlan:
        """The same, for a cluster that this node has left."""
        kept = [node for node in self.nodes if node["address"] != address]
        return msgspec.structs.replace(self, nodes=kept)

    def encoded(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encoded()).hexdigest()

    @property
    def installer(self) -> str:
        return next(iter(self.settings.get("insecure_allow") or ()), "").partition("/")[0]

    @property
    def networks(self) -> dict[str, str]:
        """By the names that the file gives them."""
        names = {"PORTAL_NET": "portal_net", "FLANNEL_NET": "flannel_net"}
        return {name: str(self.settings[field]) for name, field in names.items()}

    @property
    def authority(self) -> str:
        """The first half of the token: which authority the node is to believe."""
        return self.token.partition(".")[0]


def decode(data: bytes) -> HostPlan:
    """Raises ValueError for what is no plan."""
    try:
        return msgspec.json.decode(data, type=HostPlan)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no plan for a host: {error}") from None


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What the plans of all hosts are made from, beside the spec.

    ``installer``: node's address → the installing machine's as the node sees it, "" for a node.
    ``recorded``: all nodes the cluster has, in the file or not. ``joining``: masters that come to
    an etcd that runs.
    """

    cluster: str
    runtime: str
    etcd: str
    shared: Shared
    token: str
    installer: Mapping[str, str]
    recorded: Sequence[NodeSpec] = ()
    joining: frozenset[str] = frozenset()


def plans(spec: ClusterSpec, made: Ingredients) -> dict[str, HostPlan]:
    """The plan of every node of ``spec``, by address."""
    known = {node.address: node for node in (*spec.nodes, *made.recorded)}
    nodes = [
        {"user": node.user, "address": node.address, "roles": node.roles}
        for node in sorted(known.values(), key=lambda node: ipaddress.IPv4Address(node.address))
    ]
    return {node.address: _plan(spec, node, nodes, made) for node in spec.nodes}


def _plan(
    spec: ClusterSpec, node: NodeSpec, nodes: list[dict[str, str]], made: Ingredients
) -> HostPlan:
    has_etcd = node.master and spec.store == "etcd"
    return HostPlan(
        cluster=made.cluster,
        address=node.address,
        roles=node.roles,
        nodes=nodes,
        runtime=made.runtime,
        settings=_settings(spec, node, made.installer.get(node.address, "")),
        etcd=made.etcd if has_etcd else "",
        etcd_flags=_etcd_flags(node.address) if has_etcd else [],
        etcd_first=_etcd_first(spec, node, made) if has_etcd else [],
        shared=made.shared if node.master else None,
        token="" if node.master else made.token,
        docker_options=dict(spec.docker_options),
    )


def _settings(spec: ClusterSpec, node: NodeSpec, installer: str) -> dict[str, Any]:
    """The agent's settings, as JSON can hold them."""
    masters = [master.address for master in spec.masters]
    settings: dict[str, Any] = {
        "roles": node.roles,
        "node_ip": node.address,
        "data_dir": DATA,
        "portal_net": spec.portal_net,
        "flannel_net": spec.flannel_net,
        "overlay": spec.overlay,
        **_differing({"proxy_mode": spec.proxy_mode, **asdict(spec.outside)}),
    }
    if not node.master:
        servers = [f"https://{address}:{SECURE_PORT}" for address in masters]
        return {**settings, "server": servers, "token_file": TOKEN}
    settings["admission_control"] = list(spec.admission_control)
    if installer:
        settings["insecure_allow"] = [str(ipaddress.ip_network(installer))]
    if spec.store == "etcd":
        # Its own member first: a member that is near answers soonest.
        near = sorted(masters, key=lambda address: address != node.address)
        settings |= {
            "store": "etcd",
            "etcd": [f"https://{address}:2379" for address in near],
            "etcd_ca": f"{PKI}/etcd-ca.crt",
            "etcd_cert": f"{PKI}/etcd-client.crt",
            "etcd_key": f"{PKI}/etcd-client.key",
        }
    return settings


def _differing(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that are not the defaults, as JSON can hold them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
        if value != getattr(Settings(), name)
    }


def _etcd_flags(address: str) -> list[str]:
    pair = {"cert-file": f"{PKI}/etcd-server.crt", "key-file": f"{PKI}/etcd-server.key"}
    authority = {"trusted-ca-file": f"{PKI}/etcd-ca.crt"}
    flags = {
        "name": address,
        "data-dir": ETCD_DATA,
        "listen-client-urls": f"https://{address}:2379,https://127.0.0.1:2379",
        "advertise-client-urls": f"https://{address}:2379",
        "listen-peer-urls": f"https://{address}:2380",
        "initial-advertise-peer-urls": f"https://{address}:2380",
        "client-cert-auth": "true",
        "peer-client-cert-auth": "true",
        **pair,
        **authority,
        **{f"peer-{flag}": path for flag, path in {**pair, **authority}.items()},
        "max-txn-ops": "10000",
        "quota-backend-bytes": str(_ETCD_QUOTA),
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "2h",
        "logger": "zap",
        "log-level": "warn",
    }
    return [f"--{flag}={value}" for flag, value in flags.items()]


def _etcd_first(spec: ClusterSpec, node: NodeSpec, made: Ingredients) -> list[str]:
    joins = node.address in made.joining
    # A member that joins may know only of those that are in the cluster by then.
    members = [
        master.address for master in spec.masters if joins or master.address not in made.joining
    ]
    cluster = ",".join(f"{address}=https://{address}:2380" for address in members)
    return [
        f"--initial-cluster={cluster}",
        f"--initial-cluster-token={made.cluster}",
        f"--initial-cluster-state={'existing' if joins else 'new'}",
    ]
