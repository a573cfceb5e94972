"""What is wrong with a configuration or its hosts is told at once, by node, field and mend."""

from __future__ import annotations

from dataclasses import replace

import pytest

from k8slite.config import DEFAULT_ADMISSION
from k8slite.decide.outside import Outside
from k8slite.deploy.checks import Findings, Needs, Seen, check, identity
from k8slite.deploy.cluster import ClusterSpec, NodeSpec, Reading, node_of, read
from k8slite.deploy.configfile import parse
from k8slite.deploy.facts import HostFacts, Listener, Record, Route

THREE = "nodes='core@192.168.0.10 core@192.168.0.11 core@192.168.0.12'\n"
ROLES = 'roles=("ai" "i" "i")\n'


def reading(text: str) -> Reading:
    return read(parse(text), DEFAULT_ADMISSION)


def problems(text: str) -> list[str]:
    found = reading(text)
    assert found.spec is None
    return found.problems


def test_the_articles_cluster() -> None:
    found = reading(
        THREE + ROLES + "NUM_MINIONS=3\nPORTAL_NET=192.168.3.0/24\nFLANNEL_NET=172.16.0.0/16\n"
        "ADMISSION_CONTROL=NamespaceLifecycle,LimitRanger\n"
        "DOCKER_OPTS='--insecure-registry 192.168.0.100:5000'\n"
    )
    assert found.problems == []
    assert found.warnings == []
    spec = found.spec
    assert spec is not None
    assert spec.nodes == (
        NodeSpec("core", "192.168.0.10", "ai"),
        NodeSpec("core", "192.168.0.11", "i"),
        NodeSpec("core", "192.168.0.12", "i"),
    )
    assert [node.described for node in spec.nodes] == ["master and minion", "minion", "minion"]
    assert spec.admission_control == ("NamespaceLifecycle", "LimitRanger")
    assert spec.docker_options == {"insecure-registries": ["192.168.0.100:5000"]}
    assert (spec.overlay, spec.store) == ("vxlan", "etcd")


def test_addresses_for_the_outside() -> None:
    found = reading(
        THREE + ROLES + "PROXY_MODE=nft\nADDRESS_POOL='192.168.0.240/28 fd00::10-fd00::20'\n"
        "ANNOUNCE=bgp\nBGP_AS=64600\nBGP_PEERS=(192.168.0.1=64513 192.168.0.2)\n"
    )
    assert found.problems == []
    assert found.spec is not None
    assert found.spec.proxy_mode == "nft"
    pool, peers = ("192.168.0.240/28", "fd00::10-fd00::20"), ("192.168.0.1=64513", "192.168.0.2")
    assert found.spec.outside == Outside(pool, "bgp", 64600, peers)


def test_the_articles_own_slip_is_told_in_its_words() -> None:
    (problem,) = problems(
        'nodes="core@192.168.0.10 core@192.168.0.10 core@192.168.0.10"\nroles=("ai" "i" "i")\n'
    )
    assert "192.168.0.10 3 times" in problem
    assert "The article's own listing has this slip" in problem
    assert "core@192.168.0.10 core@192.168.0.11 core@192.168.0.12" in problem


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "nodes is not set"),
        (THREE, "roles is not set"),
        (THREE + "roles=(ai i)", "nodes lists 3 and roles 2 (lines 1 and 2)"),
        (THREE + "roles=(i i i)", "names no master"),
        (THREE + "roles=(ai i x)", "'x' is unknown"),
        (THREE + ROLES + "NUM_MINIONS=2", "NUM_MINIONS (line 3) is 2 and roles name 3 minions"),
        (THREE + "roles=(a i i)\nNUM_MINIONS=3", "roles name 2 minions"),
        ("nodes='a@192.168.0.1 b@192.168.0.1'\nroles=(ai i)", "192.168.0.1 twice"),
        ("nodes=core@node1\nroles=ai", "'node1' in 'core@node1' is no IPv4 address"),
        ("nodes=core@127.0.0.1\nroles=ai", "cannot reach 127.0.0.1"),
        ("nodes=a@b@c\nroles=ai", "'a@b@c' is no node"),
        (THREE + ROLES + "PORTAL_NET=172.16.3.0/24", "overlap"),
        (THREE + ROLES + "PORTAL_NET=192.168.3.0", "too small"),
        (THREE + ROLES + "PORTAL_NET=192.168.3.1/24", "did you mean 192.168.3.0/24?"),
        (THREE + ROLES + "PORTAL_NET=x", "'x' is no network"),
        (THREE + ROLES + "FLANNEL_NET=172.16.0.0/24", "each needs one"),
        (THREE + ROLES + "FLANNEL_NET=172.16.0.0/25", "too small"),
        (THREE + ROLES + "PORTAL_NET=192.168.0.0/24", "holds the address of node 192.168.0.11"),
        (
            THREE + ROLES + "PORTAL_NET=10.0.0.0/24\nSERVICE_CLUSTER_IP_RANGE=10.1.0.0/24",
            "two names of one thing",
        ),
        (THREE + ROLES + "ADMISSION_CONTROL=LimitRanger,Nonsense", "'Nonsense' is no admission"),
        (THREE + ROLES + "DOCKER_OPTS='--iptables=false'", "pods could not reach"),
        (THREE + ROLES + "DOCKER_OPTS='--frobnicate'", "--frobnicate is not passed on"),
        (THREE + ROLES + "K8SLITE_OVERLAY=geneve", "vxlan or host-gw"),
        (THREE + ROLES + "K8SLITE_OVERLAID=vxlan", "K8SLITE_OVERLAID (line 3) is unknown"),
        (THREE + "roles=(a a ai)\nK8SLITE_STORE=sqlite", "serves one master"),
        (THREE + ROLES + "PROXY_MODE=fast", "PROXY_MODE (line 3) 'fast': userspace or nft"),
        (THREE + ROLES + "ADDRESS_POOL=here", "ADDRESS_POOL (line 3) 'here': "),
        (
            THREE + ROLES + "ADDRESS_POOL=192.168.0.0/28",
            "192.168.0.0/28 holds the address of core@192.168.0.10: leave it out",
        ),
        (THREE + ROLES + "ANNOUNCE=bgp\nADDRESS_POOL=10.9.0.0/28", "to which routers?"),
        (THREE + ROLES + "BGP_AS=ours", "BGP_AS (line 3) 'ours': a number"),
        (THREE + ROLES + "BGP_PEERS=192.168.0.1", "told nothing without ANNOUNCE bgp"),
    ],
)
def test_every_fault_of_the_file_is_named_with_its_mend(text: str, named: str) -> None:
    assert any(named in problem for problem in problems(text)), problems(text)


def test_all_faults_of_a_file_are_told_at_once() -> None:
    found = problems(
        "nodes='core@192.168.0.10 core@192.168.0.10'\nroles=(i)\nNUM_MINIONS=7\n"
        "PORTAL_NET=172.16.0.0/24\nDOCKER_OPTS=x\nADMISSION_CONTROL=None"
    )
    assert len(found) == 7


def test_what_is_odd_is_a_warning_only() -> None:
    found = reading(THREE + "roles=(ai ai i)\nENABLE_CLUSTER_DNS=true\nDNS_REPLICAS=1\nMY_OWN=1\n")
    assert found.spec is not None
    assert [text.split(":")[0] for text in found.warnings] == [
        "2 masters bear the loss of no more of them than 1 would",
        "not used by k8slite",
    ]
    assert "ENABLE_CLUSTER_DNS, DNS_REPLICAS" in found.warnings[1]
    assert "MY_OWN" not in found.warnings[1]


def test_the_releases_spelling_does_as_well() -> None:
    found = reading(
        THREE + "roles='ai i i'\nNUM_NODES=3\nSERVICE_CLUSTER_IP_RANGE=10.9.0.0/16\n"
        "ADMISSION_CONTROL=NamespaceLifecycle,ServiceAccount\n"
    )
    assert found.spec is not None
    assert found.spec.portal_net == "10.9.0.0/16"
    assert found.spec.admission_control == ("NamespaceLifecycle",)
    assert "ServiceAccount is left out" in found.warnings[0]


def test_a_node_without_a_user_is_logged_in_to_as_ssh_would() -> None:
    assert node_of("192.168.0.12").login == "192.168.0.12"


# --- hosts -----------------------------------------------------------------------------------

SPEC = ClusterSpec(
    (
        NodeSpec("core", "192.168.0.10", "ai"),
        NodeSpec("core", "192.168.0.11", "i"),
        NodeSpec("core", "192.168.0.12", "i"),
    )
)
NEEDS = Needs("x86_64", "2.34", unpacked=200 << 20, digest="abc")


def sound(address: str) -> HostFacts:
    return HostFacts(
        uid=0, now=1e9, arch="x86_64", libc="2.36", dockerd="20.10.24", docker="20.10.24",
        routes=(Route("192.168.0.0/24", "eth0"), Route("172.17.0.0/16", "docker0")),
        default_route=True, addresses=(address, "172.17.0.1"),
        free={"/opt": 9 << 30, "/var/lib": 9 << 30},
    )  # fmt: skip


SOUND = {node.address: sound(node.address) for node in SPEC.nodes}
RECORD = Record("id-of-ours", ("192.168.0.10",))


def findings(hosts: dict[str, HostFacts], skews: dict[str, float] | None = None) -> Findings:
    skews = skews or {}
    seen = {address: Seen(facts, skews.get(address, 0.0)) for address, facts in hosts.items()}
    return check(SPEC, seen, NEEDS)


def test_sound_hosts_pass() -> None:
    assert findings(SOUND) == Findings((), ())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arch": "aarch64"}, "is aarch64 and this machine x86_64"),
        ({"libc": "2.31"}, "its C library is 2.31 and what travels needs 2.34"),
        ({"libc": "", "libc_said": "musl libc (x86_64)"}, "musl"),
        ({"missing_tools": ("tar",)}, "lacks tar"),
        ({"docker": "", "dockerd": ""}, "has no Docker"),
        ({"docker": "", "docker_said": "Cannot connect"}, "does not answer: Cannot connect"),
        ({"docker": "1.13.1"}, "its Docker is 1.13.1: 18.09 or later"),
        ({"addresses": ("10.0.0.9",)}, "leads to a host that has other addresses"),
        ({"routes": (Route("192.168.0.0/16", "eth0"),)}, "PORTAL_NET 192.168.3.0/24 clashes"),
        ({"routes": (Route("172.16.9.0/24", "br0"),)}, "FLANNEL_NET 172.16.0.0/16 clashes"),
        ({"free": {"/opt": 1 << 20}}, "/opt has 1 MiB free and needs 264"),
        ({"free": {"/var/lib": 1 << 20}}, "/var/lib has 1 MiB free"),
        (
            {"listeners": (Listener("tcp", 10250, "0.0.0.0", "kubelet (pid 7)"),)},
            "port 10250 (the node's own API) is taken by kubelet (pid 7)",
        ),
        ({"listeners": (Listener("udp", 8472),)}, "port 8472/udp"),
        ({"record": Record("x" * 32, ("10.0.0.1",))}, "another cluster (xxxxxxxx, whose masters"),
        ({"record": replace(RECORD, id="other")}, "another cluster (other"),
        ({"record_damaged": True}, "cluster.json cannot be read"),
        ({"data": ("store.db",)}, "a cluster of that machine alone"),
    ],
)
def test_every_fault_of_a_host_is_named_with_the_node(
    change: dict[str, object], named: str
) -> None:
    hosts = dict(SOUND)
    hosts["192.168.0.10"] = replace(sound("192.168.0.10"), record=RECORD)
    hosts["192.168.0.12"] = replace(sound("192.168.0.12"), **change)  # type: ignore[arg-type]
    found = findings(hosts).problems
    assert any("192.168.0.12" in text and named in text for text in found), found
    assert all("192.168.0.11" not in text for text in found)


def test_what_addresses_for_the_outside_need_of_a_host() -> None:
    node = SPEC.nodes[1]
    bare = replace(
        SOUND[node.address],
        missing_tools=("exabgp",),
        listeners=(Listener("udp", 10247, who="other (pid 7)"),),
    )

    def problems(outside: Outside) -> tuple[str, ...]:
        spec = replace(SPEC, outside=outside)
        return check(spec, {node.address: Seen(bare)}, NEEDS).problems

    assert problems(Outside()) == ()
    (taken,) = problems(Outside(("10.9.0.0/28",)))
    assert "port 10247/udp (the nodes' way to settle who announces an address) is taken" in taken
    (lacks,) = problems(Outside(("10.9.0.0/28",), "bgp", 64512, ("192.168.0.1",)))
    assert "lacks exabgp, with which ANNOUNCE=bgp tells routers: apt-get install exabgp" in lacks


def test_masters_need_more_ports_than_minions() -> None:
    taken = tuple(Listener("tcp", port, "0.0.0.0", "x (pid 1)") for port in (8080, 2379, 6443))
    hosts = {address: replace(facts, listeners=taken) for address, facts in SOUND.items()}
    found = findings(hosts).problems
    assert len(found) == 3
    assert all(text.startswith("core@192.168.0.10: port") for text in found)


def test_a_cluster_that_stands_is_in_nobodys_way() -> None:
    standing = replace(
        sound("192.168.0.10"),
        record=RECORD,
        data=("pki", "etcd"),
        listeners=(
            Listener("tcp", 8080, "0.0.0.0", "python (pid 9)", ours=True),
            Listener("udp", 8472),
        ),
        routes=(
            Route("172.16.0.0/24", "k8slite0"),
            Route("172.16.1.0/24", "k8slite-vx"),
            Route("172.16.2.0/24", "eth0"),
        ),
    )
    assert findings({**SOUND, "192.168.0.10": standing}) == Findings((), ())


def test_clocks_that_differ_are_named_by_the_one_that_is_off() -> None:
    (problem,) = findings(SOUND, {"192.168.0.11": -90.0}).problems
    assert problem.startswith("192.168.0.11: its clock is 90 s behind")
    # All three agree: it is this machine's clock that is off, and that matters to nobody.
    assert findings(SOUND, dict.fromkeys(SOUND, 90.0)).problems == ()


def test_everything_is_told_at_once() -> None:
    bad = {
        address: replace(facts, docker="", dockerd="", free={"/opt": 0}, arch="riscv64")
        for address, facts in SOUND.items()
    }
    assert len(findings(bad).problems) == 9


def test_what_cannot_be_changed_in_a_cluster_that_stands_is_told() -> None:
    nodes = tuple({"address": node.address, "roles": "ai"} for node in SPEC.nodes[:2])
    networks = (("PORTAL_NET", "10.1.0.0/24"), ("FLANNEL_NET", SPEC.flannel_net))
    record = Record("id-of-ours", ("192.168.0.10",), nodes, networks)
    standing = replace(sound("192.168.0.10"), record=record, data=("store.db",))
    found = findings({**SOUND, "192.168.0.10": standing}).problems
    assert [text.split(" and ")[0] for text in found] == [
        "PORTAL_NET is 192.168.3.0/24",
        "192.168.0.11 is 'ai' in the cluster that stands",
        "192.168.0.10: the cluster keeps its objects in sqlite",
    ]


def test_no_default_route_is_a_warning() -> None:
    hosts = {**SOUND, "192.168.0.11": replace(sound("192.168.0.11"), default_route=False)}
    found = findings(hosts)
    assert found.problems == ()
    assert "no default route" in found.warnings[0]


def test_the_cluster_is_known_again_by_any_of_its_hosts() -> None:
    assert identity(SPEC, SOUND) == ""
    later = {**SOUND, "192.168.0.12": replace(sound("192.168.0.12"), record=RECORD)}
    assert identity(SPEC, later) == "id-of-ours"
    stranger = Record("z", ("10.0.0.1",))
    assert identity(SPEC, {"192.168.0.10": replace(sound(""), record=stranger)}) == ""
