"""What config-default.sh asks for: the file's variables in, a ``ClusterSpec`` out. Pure.

Everything that is wrong is told at once, each with its node or field and the mend.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from k8slite.config import DEFAULT_ADMISSION
from k8slite.decide import outside
from k8slite.decide.outside import Outside
from k8slite.deploy import dockeropts
from k8slite.deploy.configfile import Variable

#: The article's networks.
PORTAL_NET = "192.168.3.0/24"
FLANNEL_NET = "172.16.0.0/16"

OVERLAYS = ("vxlan", "host-gw")
STORES = ("etcd", "sqlite")
PROXY_MODES = ("userspace", "nft")

_MEANT = {
    "a": "master",
    "i": "minion",
    "ai": "master and minion",
}
#: Variables that mean something here; the first name of each is the article's.
_HONOURED = frozenset(
    "nodes roles NUM_MINIONS NUM_NODES PORTAL_NET SERVICE_CLUSTER_IP_RANGE FLANNEL_NET "
    "ADMISSION_CONTROL DOCKER_OPTS K8SLITE_OVERLAY K8SLITE_STORE "
    "PROXY_MODE ADDRESS_POOL ANNOUNCE BGP_AS BGP_PEERS".split()
)
#: Of the release's file: honoured by its add-ons, which k8slite does not have.
_UNUSED = re.compile(
    r"ENABLE_\w+|DNS_\w+|LOGGING_\w+|ELASTICSEARCH_\w+|KUBE_\w+|SERVICE_NODE_PORT_RANGE|"
    r"FLANNEL_OTHER_NET_CONFIG|FLANNEL_BACKEND|DEBUG|RUNTIME_CONFIG|PROXY_SETTING|SSH_OPTS"
)
_NODE = re.compile(r"(?:([A-Za-z_][A-Za-z0-9_.-]*\$?)@)?([^\s@]+)")


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A host of the cluster: whom to log in as, where, and what it shall be."""

    user: str
    address: str
    roles: str = "i"

    @property
    def login(self) -> str:
        """``user@address`` as the file has it."""
        return f"{self.user}@{self.address}" if self.user else self.address

    @property
    def master(self) -> bool:
        return "a" in self.roles

    @property
    def minion(self) -> bool:
        return "i" in self.roles

    @property
    def described(self) -> str:
        """``master``, ``minion`` or ``master and minion``."""
        return _MEANT[self.roles]


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster as it shall be. Networks are CIDRs."""

    nodes: tuple[NodeSpec, ...]
    portal_net: str = PORTAL_NET
    flannel_net: str = FLANNEL_NET
    admission_control: tuple[str, ...] = DEFAULT_ADMISSION
    docker_options: Mapping[str, Any] = field(default_factory=dict)
    overlay: str = "vxlan"
    store: str = "etcd"
    proxy_mode: str = PROXY_MODES[0]
    outside: Outside = field(default_factory=Outside)

    @property
    def masters(self) -> tuple[NodeSpec, ...]:
        return tuple(node for node in self.nodes if node.master)

    @property
    def minions(self) -> tuple[NodeSpec, ...]:
        return tuple(node for node in self.nodes if node.minion)

    def node(self, address: str) -> NodeSpec | None:
        return next((node for node in self.nodes if node.address == address), None)

    def with_nodes(self, nodes: Collection[NodeSpec]) -> ClusterSpec:
        return replace(self, nodes=tuple(nodes))


@dataclass(slots=True)
class Reading:
    """A spec, as far as one could be made of the file, and what is wrong or odd about it."""

    spec: ClusterSpec | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def node_of(text: str, roles: str = "i") -> NodeSpec:
    """``user@address`` → a node. Raises ValueError with what is wrong."""
    match = _NODE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no node; write user@192.168.0.10")
    try:
        address = ipaddress.IPv4Address(match[2])
    except ValueError:
        raise ValueError(
            f"{match[2]!r} in {text!r} is no IPv4 address; write user@192.168.0.10"
        ) from None
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        raise ValueError(f"{text}: the other nodes cannot reach {address}")
    if roles not in _MEANT:
        raise ValueError(f"roles {roles!r} of {text}: a (master), i (minion) or ai (both)")
    return NodeSpec(match[1] or "", str(address), roles)


def read(found: Mapping[str, Variable], plugins: Collection[str] = ()) -> Reading:
    """The cluster that the variables ask for. ``plugins`` are the admission plug-ins there are
    (none given: any name is taken)."""
    reading = Reading()
    nodes = _nodes(found, reading)
    portal_net, flannel_net = _networks(found, reading)
    _outside(nodes, {"PORTAL_NET": portal_net, "FLANNEL_NET": flannel_net}, reading)
    spec = ClusterSpec(
        nodes=tuple(nodes),
        portal_net=str(portal_net or PORTAL_NET),
        flannel_net=str(flannel_net or FLANNEL_NET),
        admission_control=_admission(found, plugins, reading),
        docker_options=_docker(found, reading),
        overlay=_choice(found, "K8SLITE_OVERLAY", OVERLAYS, reading),
        store=_choice(found, "K8SLITE_STORE", STORES, reading),
        proxy_mode=_choice(found, "PROXY_MODE", PROXY_MODES, reading),
        outside=_outside_addresses(found, nodes, (portal_net, flannel_net), reading),
    )
    if spec.store == "sqlite" and len(spec.masters) > 1:
        reading.problems.append(
            "K8SLITE_STORE=sqlite serves one master and roles name "
            f"{len(spec.masters)}: leave it out, for etcd"
        )
    _unused(found, reading)
    if not reading.problems:
        reading.spec = spec
    return reading


def _nodes(found: Mapping[str, Variable], reading: Reading) -> list[NodeSpec]:
    """The nodes with their roles, as far as they can be read."""
    problems = reading.problems
    if "nodes" not in found or not found["nodes"].words:
        problems.append(
            'nodes is not set: list the hosts, as nodes="core@192.168.0.10 core@192.168.0.11"'
        )
        return []
    logins = found["nodes"].words
    roles = found["roles"].words if "roles" in found else ()
    if not roles:
        problems.append('roles is not set: one for each node, as roles=("ai" "i")')
    elif len(roles) != len(logins):
        problems.append(
            f"nodes lists {len(logins)} and roles {len(roles)} "
            f"(lines {found['nodes'].line} and {found['roles'].line}): each node needs one role, "
            "in the same order"
        )
    for role in dict.fromkeys(roles):
        if role not in _MEANT:
            problems.append(
                f"roles (line {found['roles'].line}): {role!r} is unknown; a (master), i (minion) "
                "or ai (both)"
            )
    if roles and not any("a" in role for role in roles):
        problems.append(
            f"roles (line {found['roles'].line}) names no master: give one node `a` or `ai`"
        )
    nodes = []
    for number, login in enumerate(logins):
        role = roles[number] if number < len(roles) and roles[number] in _MEANT else "i"
        try:
            nodes.append(node_of(login, role))
        except ValueError as error:
            problems.append(f"nodes (line {found['nodes'].line}): {error}")
    _repeated(nodes, found["nodes"].line, reading)
    _counted(found, roles, reading)
    masters = sum(node.master for node in nodes)
    if masters > 1 and masters % 2 == 0:
        reading.warnings.append(
            f"{masters} masters bear the loss of no more of them than {masters - 1} would: an odd "
            "number is better"
        )
    return nodes


def _repeated(nodes: list[NodeSpec], line: int, reading: Reading) -> None:
    for address, times in Counter(node.address for node in nodes).items():
        if times == 1:
            continue
        often = "twice" if times == 2 else f"{times} times"
        text = f"nodes (line {line}) names {address} {often}: each host once"
        if times == len(nodes) == 3 and address == "192.168.0.10":
            text += (
                ". The article's own listing has this slip; its cluster is "
                "core@192.168.0.10 core@192.168.0.11 core@192.168.0.12"
            )
        reading.problems.append(text)


def _counted(found: Mapping[str, Variable], roles: tuple[str, ...], reading: Reading) -> None:
    """NUM_MINIONS says how many roles have an ``i``."""
    name = "NUM_MINIONS" if "NUM_MINIONS" in found else "NUM_NODES"
    if name not in found or not roles:
        return
    text, there = found[name].text.strip(), sum("i" in role for role in roles)
    if text != str(there):
        reading.problems.append(
            f"{name} (line {found[name].line}) is {text or 'empty'} and roles name {there} "
            f"minion{'' if there == 1 else 's'} (i or ai): say {there}, or leave {name} out"
        )


def _networks(
    found: Mapping[str, Variable], reading: Reading
) -> tuple[ipaddress.IPv4Network | None, ipaddress.IPv4Network | None]:
    both = [name for name in ("PORTAL_NET", "SERVICE_CLUSTER_IP_RANGE") if name in found]
    if len(both) == 2 and found[both[0]].text != found[both[1]].text:
        reading.problems.append(
            "PORTAL_NET and SERVICE_CLUSTER_IP_RANGE are two names of one thing and differ "
            f"(lines {found[both[0]].line} and {found[both[1]].line}): leave one out"
        )
    portal = _network(found, both[0] if both else "PORTAL_NET", PORTAL_NET, 29, reading)
    flannel = _network(found, "FLANNEL_NET", FLANNEL_NET, 24, reading)
    if portal and flannel and portal.overlaps(flannel):
        reading.problems.append(
            f"PORTAL_NET {portal} and FLANNEL_NET {flannel} overlap: choose two networks apart"
        )
    nodes = len(found["nodes"].words) if "nodes" in found else 0
    if flannel and flannel.prefixlen <= 24 and 1 << (24 - flannel.prefixlen) < nodes:
        reading.problems.append(
            f"FLANNEL_NET {flannel} holds {1 << (24 - flannel.prefixlen)} times a /24 and there "
            f"are {nodes} nodes: each needs one"
        )
    return portal, flannel


def _network(
    found: Mapping[str, Variable], name: str, default: str, longest: int, reading: Reading
) -> ipaddress.IPv4Network | None:
    """None where it cannot be read; then the reading says why."""
    text = found[name].text.strip() if name in found else default
    where = f"{name} (line {found[name].line})" if name in found else name
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        mend = ""
        try:
            mend = f"; did you mean {ipaddress.IPv4Network(text, strict=False)}?"
        except ValueError:
            mend = f"; as {default}"
        reading.problems.append(f"{where} {text!r} is no network: {error}{mend}")
        return None
    if network.prefixlen > longest:
        reading.problems.append(f"{where} {network} is too small: /{longest} or wider")
        return None
    if network.is_loopback or network.is_multicast or network.prefixlen == 0:
        reading.problems.append(f"{where} {network} is not for use here; as {default}")
        return None
    if not network.is_private:
        reading.warnings.append(
            f"{where} {network} is public address space: hosts there are out of the nodes' reach"
        )
    return network


def _outside(
    nodes: list[NodeSpec],
    networks: Mapping[str, ipaddress.IPv4Network | None],
    reading: Reading,
) -> None:
    """No node's address lies in a network of the cluster's own."""
    for name, network in networks.items():
        for address in dict.fromkeys(node.address for node in nodes):
            if network and ipaddress.IPv4Address(address) in network:
                reading.problems.append(
                    f"{name} {network} holds the address of node {address}: choose another network"
                )


_OUTSIDE = {
    "address_pool": "ADDRESS_POOL",
    "announce": "ANNOUNCE",
    "bgp_as": "BGP_AS",
    "bgp_peer": "BGP_PEERS",
}


def _outside_addresses(
    found: Mapping[str, Variable],
    nodes: list[NodeSpec],
    networks: tuple[ipaddress.IPv4Network | None, ...],
    reading: Reading,
) -> Outside:
    """The pool for services of type LoadBalancer, and how its addresses are announced."""

    def said(name: str) -> tuple[str, ...]:
        words = found[name].words if name in found else ()
        return tuple(part for word in words for part in word.split(",") if part)

    def named(setting: str) -> str:
        name = _OUTSIDE[setting]
        return f"{name} (line {found[name].line})" if name in found else name

    numbers = said("BGP_AS")
    number = "".join(numbers)
    if numbers and not number.isdecimal():
        reading.problems.append(f"{named('bgp_as')} {number!r}: a number, as 64512")
    asked = Outside(
        address_pool=said("ADDRESS_POOL"),
        announce=" ".join(said("ANNOUNCE")) or outside.DEFAULT.announce,
        bgp_as=int(number) if number.isdecimal() else outside.DEFAULT.bgp_as,
        bgp_peer=said("BGP_PEERS"),
    )
    nets = {n: net for n, net in zip(("PORTAL_NET", "FLANNEL_NET"), networks, strict=True) if net}
    hosts = {f"the address of {node.login}": ipaddress.IPv4Network(node.address) for node in nodes}
    reading.problems += outside.faults(asked, {**nets, **hosts}, named)
    return asked


def _admission(
    found: Mapping[str, Variable], plugins: Collection[str], reading: Reading
) -> tuple[str, ...]:
    if "ADMISSION_CONTROL" not in found:
        return DEFAULT_ADMISSION
    variable = found["ADMISSION_CONTROL"]
    names = tuple(word for word in re.split(r"[,\s]+", variable.text) if word)
    # The release's file has it; here each namespace has its account without a plug-in.
    known = not plugins or "ServiceAccount" in plugins
    skipped = [name for name in names if name == "ServiceAccount" and not known]
    if skipped:
        reading.warnings.append(
            "ADMISSION_CONTROL: ServiceAccount is left out: k8slite has no such plug-in"
        )
    names = tuple(name for name in names if name not in skipped)
    for name in names:
        if plugins and name not in plugins:
            reading.problems.append(
                f"ADMISSION_CONTROL (line {variable.line}): {name!r} is no admission plug-in "
                f"(there are: {', '.join(plugins)})"
            )
    return names


def _docker(found: Mapping[str, Variable], reading: Reading) -> dict[str, Any]:
    if "DOCKER_OPTS" not in found:
        return {}
    try:
        return dockeropts.parse(found["DOCKER_OPTS"].text)
    except dockeropts.DockerOptionsError as error:
        reading.problems.append(f"DOCKER_OPTS (line {found['DOCKER_OPTS'].line}): {error}")
        return {}


def _choice(
    found: Mapping[str, Variable], name: str, choices: tuple[str, ...], reading: Reading
) -> str:
    """The first of the choices where the file says nothing."""
    text = found[name].text if name in found else choices[0]
    if text not in choices:
        reading.problems.append(
            f"{name} (line {found[name].line}) {text!r}: {' or '.join(choices)}"
        )
    return text


def _unused(found: Mapping[str, Variable], reading: Reading) -> None:
    unused = [name for name in found if name not in _HONOURED and _UNUSED.fullmatch(name)]
    if unused:
        reading.warnings.append(f"not used by k8slite: {', '.join(unused)}")
    for name in found:
        if name.startswith("K8SLITE_") and name not in _HONOURED:
            reading.problems.append(
                f"{name} (line {found[name].line}) is unknown; there are K8SLITE_OVERLAY and "
                "K8SLITE_STORE"
            )
