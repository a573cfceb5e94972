"""Is a host fit for its part of the cluster? Facts in, problems and warnings out. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from k8slite.decide import announcing
from k8slite.deploy import dockeropts
from k8slite.deploy.cluster import ClusterSpec, NodeSpec
from k8slite.deploy.facts import OUR_LINKS, HostFacts, Listener, Record, Route

#: Older engines lack parts of the API that pods need (the article asked for 1.2).
OLDEST_DOCKER = (18, 9)
#: Seconds by which two clocks may differ.
WORST_SKEW = 5.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Needs:
    """What the bundle that is going to travel asks of a host; sizes in bytes."""

    arch: str
    libc: str = ""  # as 2.34
    unpacked: int = 300 * _MIB
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """The facts of a host and how its clock compares: ``skew`` seconds ahead of ours at least."""

    facts: HostFacts
    skew: float = 0.0


#: Port → who needs it, by role.
PORTS_OF_MASTERS = {
    8080: "the API's HTTP port",
    6443: "the API's HTTPS port",
    7080: "the API's read-only port",
}
PORTS_OF_ETCD = {2379: "etcd's clients", 2380: "etcd's members"}
PORTS_OF_MINIONS = {10250: "the node's own API"}
VXLAN_PORT = 8472
BGP_TOOL = "exabgp"


def check(spec: ClusterSpec, hosts: Mapping[str, Seen], needs: Needs) -> Findings:
    """Everything that is wrong with the hosts that answered, by address."""
    problems: list[str] = []
    warnings: list[str] = []
    for node in spec.nodes:
        if node.address in hosts:
            found, odd = _host(spec, node, hosts[node.address].facts, needs)
            problems += [f"{node.login}: {text}" for text in found]
            warnings += [f"{node.login}: {text}" for text in odd]
    problems += _clocks(hosts)
    facts = {address: seen.facts for address, seen in hosts.items()}
    problems += membership(spec, facts)
    problems += _unchangeable(spec, facts)
    return Findings(tuple(problems), tuple(warnings))


def _host(
    spec: ClusterSpec, node: NodeSpec, facts: HostFacts, needs: Needs
) -> tuple[list[str], list[str]]:
    problems = [
        *_system(facts, needs),
        *_bgp(spec, node, facts),
        *_docker(spec, facts),
        *_addresses(node, facts),
        *_routes(spec, facts),
        *_ports(spec, node, facts),
        *_disk(facts, needs),
    ]
    warnings = []
    if not facts.default_route:
        warnings.append(
            "has no default route: the host itself cannot reach portal IPs (pods can); add one, "
            "or `ip route add` for PORTAL_NET"
        )
    return problems, warnings


def _system(facts: HostFacts, needs: Needs) -> list[str]:
    problems = []
    if facts.arch and needs.arch and facts.arch != needs.arch:
        problems.append(
            f"is {facts.arch} and this machine {needs.arch}: what travels runs on {needs.arch} "
            "only; install from a machine of the host's kind"
        )
    if not facts.libc:
        said = f" (it says: {facts.libc_said})" if facts.libc_said else ""
        problems.append(f"has no GNU C library{said}: k8slite's bundle needs glibc {needs.libc}")
    elif needs.libc and _tuple(facts.libc) < _tuple(needs.libc):
        problems.append(
            f"its C library is {facts.libc} and what travels needs {needs.libc}: install from a "
            "machine as old as the host, or renew the host"
        )
    missing = [tool for tool in facts.missing_tools if tool != BGP_TOOL]
    if missing:
        problems.append(f"lacks {', '.join(missing)}: install them")
    return problems


def _bgp(spec: ClusterSpec, node: NodeSpec, facts: HostFacts) -> list[str]:
    if spec.outside.announce != "bgp" or not node.minion or BGP_TOOL not in facts.missing_tools:
        return []
    return [f"lacks {BGP_TOOL}, with which ANNOUNCE=bgp tells routers: apt-get install {BGP_TOOL}"]


def _docker(spec: ClusterSpec, facts: HostFacts) -> list[str]:
    version = facts.docker or facts.dockerd
    if not version:
        said = f": Docker says {facts.docker_said!r}" if facts.docker_said else ""
        return [f"has no Docker{said}; install it there (apt-get install docker.io)"]
    if facts.docker_said and facts.docker_said != "answers":
        return [f"Docker does not answer: {facts.docker_said}; restart it there"]
    if version != "unknown" and _tuple(version) < OLDEST_DOCKER:
        oldest = ".".join(f"{part:02d}" for part in OLDEST_DOCKER)
        return [f"its Docker is {version}: {oldest} or later is needed"]
    try:
        dockeropts.merged(facts.daemon_json, spec.docker_options)
    except dockeropts.DockerOptionsError as error:
        return [f"/etc/docker/{error}"] if spec.docker_options else []
    return []


def _addresses(node: NodeSpec, facts: HostFacts) -> list[str]:
    if not facts.addresses or node.address in facts.addresses:
        return []
    return [
        f"{node.address} leads to a host that has other addresses ({', '.join(facts.addresses)}): "
        "name the node by an address of its own"
    ]


def _routes(spec: ClusterSpec, facts: HostFacts) -> list[str]:
    problems = []
    for name, text in (("PORTAL_NET", spec.portal_net), ("FLANNEL_NET", spec.flannel_net)):
        network = ipaddress.IPv4Network(text)
        clashes = [
            route
            for route in facts.routes
            if network.overlaps(ipaddress.IPv4Network(route.network, strict=False))
            and not _own(route, facts.record)
        ]
        if clashes:
            which = ", ".join(f"{route.network} ({route.link})" for route in clashes[:3])
            problems.append(f"{name} {text} clashes with its routes to {which}: choose another net")
    return problems


def _own(route: Route, record: Record | None) -> bool:
    """Does a cluster of ours hold this route? host-gw's lead through other nodes, by any link."""
    if route.link in OUR_LINKS:
        return True
    return record is not None and route.network.endswith("/24")


def _ports(spec: ClusterSpec, node: NodeSpec, facts: HostFacts) -> list[str]:
    wanted: dict[tuple[str, int], str] = {}
    if node.master:
        ports = {**PORTS_OF_MASTERS, **(PORTS_OF_ETCD if spec.store == "etcd" else {})}
        wanted |= {("tcp", port): use for port, use in ports.items()}
    if node.minion:
        wanted |= {("tcp", port): use for port, use in PORTS_OF_MINIONS.items()}
    if spec.overlay == "vxlan":
        wanted[("udp", VXLAN_PORT)] = "the pods' network between nodes"
    if spec.outside.address_pool and spec.outside.announce == "arp" and node.minion:
        wanted[("udp", announcing.PORT)] = "the nodes' way to settle who announces an address"
    problems: dict[str, None] = {}
    for listener in facts.listeners:
        use = wanted.get((listener.protocol, listener.port))
        if use and not listener.ours and not _kernels(listener, facts):
            by = f" by {listener.who}" if listener.who else ""
            port = f"{listener.port}{'/udp' if listener.protocol == 'udp' else ''}"
            problems[f"port {port} ({use}) is taken{by}: end that first"] = None
    return list(problems)


def _kernels(listener: Listener, facts: HostFacts) -> bool:
    """VXLAN's port is held by the kernel itself, which no process shows for."""
    return listener.port == VXLAN_PORT and not listener.who and facts.record is not None


def _disk(facts: HostFacts, needs: Needs) -> list[str]:
    wanted = {"/opt": needs.unpacked + 64 * _MIB, "/var/lib": 512 * _MIB}
    if needs.digest and needs.digest in facts.runtimes:
        wanted["/opt"] = 0
    if facts.record is not None:
        wanted["/var/lib"] = 64 * _MIB
    return [
        f"{folder} has {facts.free[folder] // _MIB} MiB free and needs {bytes_ // _MIB}: make room"
        for folder, bytes_ in wanted.items()
        if folder in facts.free and facts.free[folder] < bytes_
    ]


def _clocks(hosts: Mapping[str, Seen]) -> list[str]:
    """Nodes whose clocks differ too much from most."""
    skews = {address: seen.skew for address, seen in hosts.items() if seen.facts.now}
    if not skews:
        return []
    middle = sorted(skews.values())[len(skews) // 2]
    # Ours is one more voice: with a single host, it is that one against us.
    if len(skews) < 3:
        middle = 0.0
    return [
        f"{address}: its clock is {abs(skew - middle):.0f} s "
        f"{'ahead' if skew > middle else 'behind'}: set it (timedatectl set-ntp true)"
        for address, skew in skews.items()
        if abs(skew - middle) > WORST_SKEW
    ]


def membership(spec: ClusterSpec, hosts: Mapping[str, HostFacts]) -> list[str]:
    """Hosts that are in another cluster than the one that ``spec`` describes."""
    problems = []
    ours = identity(spec, hosts)
    for address, facts in hosts.items():
        record = facts.record
        if facts.record_damaged:
            problems.append(
                f"{address}: /etc/k8slite/cluster.json cannot be read: mend it, or remove k8slite "
                "there by `k8slite down`"
            )
        elif record and record.id != ours:
            problems.append(
                f"{address}: belongs to another cluster ({record.id[:8]}, whose "
                f"masters are {', '.join(record.masters) or 'unknown'}): take it out of that one "
                "first (k8slite remove-node)"
            )
        elif record is None and facts.data and "store.db" in facts.data:
            problems.append(
                f"{address}: /var/lib/k8slite holds the data of a cluster of that machine alone: "
                "run `k8slite down` there first"
            )
    return problems


def _unchangeable(spec: ClusterSpec, hosts: Mapping[str, HostFacts]) -> list[str]:
    """What the file says otherwise than the cluster that stands, and cannot be changed in it."""
    problems = []
    ours = identity(spec, hosts)
    records = [facts.record for facts in hosts.values() if facts.record and facts.record.id == ours]
    if not records:
        return []
    wanted = {"PORTAL_NET": spec.portal_net, "FLANNEL_NET": spec.flannel_net}
    for name, network in records[0].networks:
        if wanted.get(name, network) != network:
            problems.append(
                f"{name} is {wanted[name]} and the cluster that stands has {network}: addresses "
                "are taken from it already; keep it, or `k8slite down` first"
            )
    for recorded in records[0].nodes:
        node = spec.node(recorded.get("address", ""))
        if node and node.roles != recorded.get("roles"):
            problems.append(
                f"{node.address} is {recorded.get('roles')!r} in the cluster that stands and "
                f"{node.roles!r} in the file: k8slite remove-node, then add-node"
            )
    for node in spec.masters:
        facts = hosts.get(node.address)
        if facts and facts.record and facts.record.id == ours:
            problems += _other_store(spec, node, facts)
    return problems


def _other_store(spec: ClusterSpec, node: NodeSpec, facts: HostFacts) -> list[str]:
    has = {"etcd": "etcd" in facts.data, "sqlite": "store.db" in facts.data}
    other = next((store for store in has if store != spec.store), "")
    if has[spec.store] or not has.get(other):
        return []
    return [
        f"{node.address}: the cluster keeps its objects in {other} and the file asks for "
        f"{spec.store}: set K8SLITE_STORE={other}, or move them first (k8slite store migrate)"
    ]


def identity(spec: ClusterSpec, hosts: Mapping[str, HostFacts]) -> str:
    """The id of the cluster that ``spec`` describes, "" when none of its masters is in one yet.

    The first master that has a record whose masters are ours speaks for it.
    """
    masters = {node.address for node in spec.masters}
    for node in (*spec.masters, *spec.nodes):
        facts = hosts.get(node.address)
        if facts and facts.record and masters & set(facts.record.masters):
            return facts.record.id
    return ""


def _tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
