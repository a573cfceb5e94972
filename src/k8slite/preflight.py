"""Before anything starts: settings that cannot work are refused, each with its flag and the mend.

What depends on the machine is filled in here too (the node's address and name).
"""

from __future__ import annotations

import ipaddress
import math
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from k8slite.api.validation import dns_subdomain
from k8slite.config import Settings
from k8slite.decide import outside
from k8slite.decide.addresspool import Pool
from k8slite.deploy.local import listening_ports
from k8slite.network.uplink import NoUplink, find_uplink, ipv6_is_on
from k8slite.roles.apiserver.doors import is_own

#: In the abstract name space of sockets, which every network namespace has for itself.
_CLAIM = "\0k8slite/node"
#: struct ucred of socket(7): pid, uid, gid.
_PEER = struct.Struct("3i")


PROXY_MODES = ("userspace", "nft")


class BadSettings(ValueError):
    """A flag that cannot be honoured; the message names it and says what would do."""


class HostTaken(RuntimeError):
    """Another agent has this host."""


def resolve(settings: Settings) -> Settings:
    """Fill in what depends on the machine, and refuse what cannot work. Raises BadSettings."""
    _roles(settings)
    _store(settings)
    nets = _networks(settings)
    _proxy(settings)
    _ports(settings)
    _durations(settings)
    _allowed(settings)
    _folder("data-dir", settings.data_dir)
    if settings.manifests is not None:
        _folder("manifests", settings.manifests)
    if "://" not in settings.docker_host:
        raise BadSettings(
            f"--docker-host {settings.docker_host!r}: unix:///path/of/docker.sock or tcp://HOST:PORT"
        )
    address = _address(settings.node_ip) if settings.node_ip else own_address()
    for flag, net in nets.items():
        if ipaddress.IPv4Address(address) in net:
            raise BadSettings(
                f"--{flag} {net} holds the node's own address {address}: choose another network"
            )
    _outside(settings, nets, address)
    name = settings.node_name or address
    if wrong := dns_subdomain(name):
        raise BadSettings(f"--node-name {name!r} {wrong}")
    return replace(settings, node_ip=address, node_name=name)


def _proxy(settings: Settings) -> None:
    if settings.proxy_mode not in PROXY_MODES:
        raise BadSettings(f"--proxy-mode {settings.proxy_mode!r}: {' or '.join(PROXY_MODES)}")


def _outside(settings: Settings, nets: Mapping[str, ipaddress.IPv4Network], address: str) -> None:
    asked = outside.Outside(
        settings.address_pool, settings.announce, settings.bgp_as, settings.bgp_peer
    )
    names = {f"--{name}": net for name, net in nets.items()}
    names[f"this node's address {address}"] = ipaddress.IPv4Network(address)
    for fault in outside.faults(asked, names, lambda name: f"--{name.replace('_', '-')}"):
        raise BadSettings(fault)
    if "i" in settings.roles and settings.announce == "arp":
        _neighbourly(settings.address_pool, address)


def _neighbourly(pool: Sequence[str], address: str) -> None:
    """IPv6 addresses of the pool need IPv6 on the interface where this node is asked for them."""
    asked = [text for text in pool if 6 in Pool.read((text,)).versions]
    try:
        name = find_uplink(address).name if asked else ""
    except NoUplink:
        return  # that is waited for
    if asked and not ipv6_is_on(name):
        raise BadSettings(
            f"--address-pool {asked[0]}: IPv6 is off on {name}: turn it on "
            f"(sysctl net.ipv6.conf.{name}.disable_ipv6=0), or leave these addresses out"
        )


def own_address() -> str:
    """The address of the default route's interface. Raises BadSettings when there is none.

    Connecting a datagram socket sends nothing: it only asks the routing table.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.255", 9))
        except OSError:
            raise BadSettings("no default route to learn an address from: give --node-ip") from None
        return str(probe.getsockname()[0])


def _address(text: str) -> str:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise BadSettings(
            f"--node-ip {text!r} is no IPv4 address: give one of this machine's (ip -4 addr)"
        ) from None
    if address.is_loopback:
        raise BadSettings(f"--node-ip {text}: pods and portals cannot reach loopback")
    if not is_own(text):
        raise BadSettings(
            f"--node-ip {text} is no address of this machine: give one that is (ip -4 addr)"
        )
    return text


def _roles(settings: Settings) -> None:
    if settings.roles not in ("a", "i", "ai"):
        raise BadSettings(f"--roles {settings.roles}: a (control plane), i (node) or ai (both)")
    if settings.roles == "i":
        _joinable(settings)
    elif settings.server:
        raise BadSettings(
            f"--server {settings.server[0]}: only a node alone (--roles i) joins a master; masters "
            "share a store (--etcd)"
        )
    if "i" in settings.roles and os.geteuid() != 0:
        raise BadSettings(
            f"--roles {settings.roles}: containers and portal rules are root's to make; run with "
            "sudo, or --roles a for a control plane alone"
        )
    if settings.overlay not in ("vxlan", "host-gw", "none"):
        raise BadSettings(f"--overlay {settings.overlay}: vxlan, host-gw or none")


def _joinable(settings: Settings) -> None:
    if not settings.server:
        raise BadSettings(
            "--roles i: a node alone needs a master to join: give --server https://MASTER:6443 and "
            "its --token-file, or use --roles ai on one machine"
        )
    for server in settings.server:
        _url("--server", server, ("https",), "https://192.168.0.10:6443")
    if settings.token and settings.token_file is not None:
        raise BadSettings("--token and --token-file: give one of them")
    if (settings.data_dir / "pki" / "node.crt").exists():
        return  # it has joined: no token is needed any more
    if settings.token_file is not None and not os.access(settings.token_file, os.R_OK):
        raise BadSettings(f"--token-file {settings.token_file} cannot be read")
    if not settings.token and settings.token_file is None:
        raise BadSettings(
            "--roles i: to join, this node needs a token: give --token-file with what "
            "`k8slite token` says on a master"
        )


def _url(flag: str, text: str, schemes: Sequence[str], example: str) -> None:
    try:
        parts = urlsplit(text)
        good = parts.scheme in schemes and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.path.strip("/"):
        raise BadSettings(f"{flag} {text!r}: write it as {example}")


def _store(settings: Settings) -> None:
    if settings.store not in ("sqlite", "memory", "etcd"):
        raise BadSettings(f"--store {settings.store}: sqlite, memory or etcd")
    if settings.store == "etcd" and not settings.etcd:
        raise BadSettings("--store etcd: where is it? give --etcd http(s)://HOST:2379")
    if settings.etcd and settings.store != "etcd":
        raise BadSettings(f"--store {settings.store} and --etcd: one of them is the store")
    for endpoint in settings.etcd:
        _url("--etcd", endpoint, ("http", "https"), "https://192.168.0.10:2379")
    if len({urlsplit(endpoint).scheme for endpoint in settings.etcd}) > 1:
        raise BadSettings("--etcd: all endpoints speak http, or all https")
    if (settings.etcd_cert is None) != (settings.etcd_key is None):
        raise BadSettings("--etcd-cert and --etcd-key: a certificate needs its key, and the key it")
    if settings.etcd_user and settings.etcd_password_file is None:
        raise BadSettings(f"--etcd-user {settings.etcd_user}: give --etcd-password-file too")
    for flag in ("etcd_ca", "etcd_cert", "etcd_key", "etcd_password_file"):
        path = getattr(settings, flag)
        if path is not None and not os.access(path, os.R_OK):
            raise BadSettings(f"--{flag.replace('_', '-')} {path} cannot be read")


def _networks(settings: Settings) -> dict[str, ipaddress.IPv4Network]:
    nets = {}
    for flag, text, longest in (
        ("portal-net", settings.portal_net, 29),
        ("flannel-net", settings.flannel_net, 28),
    ):
        try:
            net = ipaddress.IPv4Network(text)
        except ValueError as error:
            raise BadSettings(f"--{flag} {text}: {error}; as 192.168.3.0/24") from None
        if net.prefixlen > longest:
            raise BadSettings(f"--{flag} {net}: too small, /{longest} or wider")
        nets[flag] = net
    if nets["portal-net"].overlaps(nets["flannel-net"]):
        raise BadSettings(
            f"--portal-net {nets['portal-net']} overlaps --flannel-net {nets['flannel-net']}"
        )
    return nets


def _ports(settings: Settings) -> None:
    seen: dict[int, str] = {}
    for flag, port in listening_ports(settings).items():
        if not 1 <= port <= 65535:
            raise BadSettings(f"{flag} {port}: a port is a number from 1 to 65535")
        if port in seen:
            raise BadSettings(
                f"{flag} {port} is {seen[port]} already: each needs a port of its own"
            )
        seen[port] = flag


def _durations(settings: Settings) -> None:
    for flag, seconds in (
        ("node-grace", settings.node_grace),
        ("eviction-timeout", settings.eviction_timeout),
    ):
        if not (math.isfinite(seconds) and seconds > 0):
            raise BadSettings(f"--{flag} {seconds}: seconds, more than 0")
    if not 0 <= settings.warm_sandboxes <= 100:
        raise BadSettings(f"--warm-sandboxes {settings.warm_sandboxes}: from 0 to 100")


def _allowed(settings: Settings) -> None:
    for text in settings.insecure_allow:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise BadSettings(f"--insecure-allow {text!r}: a network, as 10.0.0.0/8") from None


def _folder(flag: str, path: Path) -> None:
    """Make sure of a folder that can be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise BadSettings(
            f"--{flag} {path} is no folder: name one, or a path for a new one"
        ) from None
    except OSError as error:
        raise BadSettings(
            f"--{flag} {path} cannot be made ({error.strerror}): choose another folder, or run as "
            "root"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadSettings(f"--{flag} {path} cannot be written to: choose another, or run as root")


@contextmanager
def host_claim() -> Iterator[None]:
    """This host's node is ours while in here; the kernel ends the claim with the process.

    Two kubelets on one host would take each other's containers and portal rules for stale ones.
    Raises HostTaken.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(_CLAIM)
        except OSError:
            raise HostTaken(
                f"another agent (pid {host_holder() or 'unknown'}) is this host's node: stop that "
                "one first, for two would fight over containers and portal rules"
            ) from None
        claim.listen(8)
        yield


def host_holder() -> int:
    """The pid of the agent that has this host's node; 0 when there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(_CLAIM)
            peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError:
            return 0
        return int(_PEER.unpack(peer)[0])
