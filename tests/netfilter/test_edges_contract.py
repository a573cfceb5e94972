"""One contract, two edges: the kernel's nat table becomes what is desired and nothing else.

Each test has a network namespace of its own with Docker-like rules in it that must not change.
"""

from __future__ import annotations

import ctypes
import fcntl
import platform
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.netfilter.sites import Site
from tests.netfilter.test_portal_rules import ARTICLE

from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import ChosenEdge
from k8slite.netfilter.edge import Drifted, Edge, Locked, NotPermitted, Unsupported
from k8slite.netfilter.iptables import LegacyEdge, _Nat
from k8slite.netfilter.nftables import Nftables
from k8slite.netfilter.portals import Desired, DesiredRules, Portal
from k8slite.netfilter.restore import NftEdge

DOCKER = """*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.0.42.0/24 ! -o docker0 -j MASQUERADE
COMMIT
"""

JUMPS = (
    "-A PREROUTING -j KUBE-PORTALS-CONTAINER",
    "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-A OUTPUT -j KUBE-PORTALS-HOST",
    "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
    "-A POSTROUTING -s 10.0.42.0/24 ! -o docker0 -j MASQUERADE",
)


class Kernel:
    """A site, the edge under test, and the tools that show what it did."""

    def __init__(self, site: Site, tool: str, new_edge: Callable[[], Edge]) -> None:
        self.site = site
        self.tool = tool
        self.edge = new_edge()
        self.new_edge = new_edge
        self.desired = DesiredRules("172.16.67.69")

    def iptables(self, *words: str) -> None:
        self.site.run(self.tool, "-w", "-t", "nat", *words)

    def listing(self) -> list[str]:
        """iptables-save without counters, comments and the time."""
        text = self.site.run(f"{self.tool}-save", "-t", "nat")
        lines = (re.sub(r" \[\d+:\d+\]", "", line) for line in text.splitlines())
        return [line for line in lines if not line.startswith("#")]

    def rules(self) -> list[str]:
        return [line for line in self.listing() if line.startswith("-A")]

    def sync(self) -> None:
        self.desired.take()
        self.site.do(self.edge.sync(self.desired.all()))

    def want_the_article(self) -> None:
        self.desired.put(Portal("default/kubernetes:", "tcp", ("10.0.0.2",), 443, 46041))
        self.desired.put(Portal("default/kubernetes-ro:", "tcp", ("10.0.0.1",), 80, 58340))

    def want_a_node_port(self) -> None:
        self.desired.put(Portal("default/web:", "tcp", (), 80, 36463, node_port=30080))

    def change(self) -> None:
        self.site.do(self.edge.change(self.desired.take()))

    def want(self, number: int, listener: int = 20000) -> None:
        address = f"10.1.{number // 250}.{number % 250 + 1}"
        self.desired.put(Portal(f"default/s{number}:", "udp", (address,), 53, listener))


#: A cluster with a node port, as kube-proxy v0.18 would list it (the jump to portals: v0.17's).
NODE_PORT_COMMENT = "handle service NodePorts; NOTE: this must be the last rule in the chain"
NODE_PORT_JUMPS = (
    *JUMPS[:2],
    f'-A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "{NODE_PORT_COMMENT}" '
    "-j KUBE-NODEPORT-CONTAINER",
    *JUMPS[2:4],
    f'-A OUTPUT -m addrtype --dst-type LOCAL -m comment --comment "{NODE_PORT_COMMENT}" '
    "-j KUBE-NODEPORT-HOST",
    *JUMPS[4:],
)
NODE_PORT_RULES = (
    '-A KUBE-NODEPORT-CONTAINER -p tcp -m comment --comment "default/web:" -m tcp --dport 30080 '
    "-j REDIRECT --to-ports 36463",
    '-A KUBE-NODEPORT-HOST -p tcp -m comment --comment "default/web:" -m tcp --dport 30080 '
    "-j DNAT --to-destination 172.16.67.69:36463",
)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site("edge") as made:
        yield made


@pytest.fixture(params=["legacy", "nft"])
def kernel(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> Iterator[Kernel]:
    if request.param == "legacy":
        lock = tmp_path / "xtables.lock"
        made = Kernel(
            site,
            "iptables-legacy",
            lambda: LegacyEdge(Clock(), lock_wait=0.1, lock_path=lock),
        )
    else:
        made = Kernel(site, "iptables-nft", NftEdge)
    site.run(f"{made.tool}-restore", input=DOCKER)
    yield made
    site.do(made.edge.close())


def test_the_listing_is_the_articles(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    assert tuple(kernel.rules()) == (*JUMPS, *ARTICLE)


def test_node_ports_stand_in_chains_of_their_own_that_come_last(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.want_a_node_port()
    kernel.sync()
    assert tuple(kernel.rules()) == (*NODE_PORT_JUMPS, *NODE_PORT_RULES, *ARTICLE)
    assert not kernel.site.do(kernel.edge.sync(kernel.desired.all()))


def test_the_chains_of_node_ports_come_with_the_first_and_go_with_the_last(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    before = kernel.listing()
    kernel.want_a_node_port()
    kernel.change()
    assert tuple(kernel.rules()) == (*NODE_PORT_JUMPS, *NODE_PORT_RULES, *ARTICLE)
    kernel.desired.put(Portal("default/dns:", "udp", (), 53, 36464, node_port=30053))
    kernel.change()
    kernel.desired.remove("default/web:")
    kernel.change()
    assert sum("default/dns:" in rule for rule in kernel.rules()) == 2
    assert kernel.site.do(kernel.edge.intact())
    kernel.desired.remove("default/dns:")
    kernel.change()
    assert kernel.listing() == before
    assert kernel.site.do(kernel.edge.intact())
    kernel.want_a_node_port()
    kernel.sync()
    kernel.desired.remove("default/web:")
    kernel.sync()
    assert kernel.listing() == before


def test_node_ports_come_last_again_when_others_were_added_behind_them(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.want_a_node_port()
    kernel.sync()
    kernel.iptables("-D", *JUMPS[1].split()[1:])
    kernel.iptables(*JUMPS[1].split())
    assert not kernel.site.do(kernel.edge.intact())
    kernel.sync()
    assert tuple(kernel.rules()) == (*NODE_PORT_JUMPS, *NODE_PORT_RULES, *ARTICLE)


def test_a_second_sync_changes_nothing(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    assert not kernel.site.do(kernel.edge.sync(kernel.desired.all()))


def test_a_new_process_adopts_what_is_right_and_removes_what_is_stale(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.want_a_node_port()
    kernel.want(1)
    kernel.sync()
    kernel.site.do(kernel.edge.close())
    kernel.edge = kernel.new_edge()
    kernel.desired.remove("default/web:")
    kernel.desired.remove("default/s1:")
    kernel.want(2)
    change = kernel.site.do(kernel.edge.sync(kernel.desired.all()))
    assert {rule.comment for rule in change.remove} == {"default/s1:", "default/web:"}
    assert {rule.comment for rule in change.add} == {"default/s2:"}
    assert sorted(kernel.rules()) == sorted(
        (*JUMPS, *(str(rule) for rules in kernel.desired.all().chains.values() for rule in rules))
    )


def test_a_change_is_applied_piece_by_piece(kernel: Kernel) -> None:
    for number in range(50):
        kernel.want(number)
    kernel.sync()
    kernel.desired.remove("default/s7:")
    kernel.want(8, listener=30000)
    kernel.want(99)
    kernel.site.do(kernel.edge.change(kernel.desired.take()))
    wanted = {str(rule) for rules in kernel.desired.all().chains.values() for rule in rules}
    assert set(kernel.rules()) == {*JUMPS, *wanted}
    assert kernel.site.do(kernel.edge.intact())


def test_large_changes_end_in_the_same_place(kernel: Kernel) -> None:
    for number in range(300):
        kernel.want(number)
    kernel.sync()
    for number in range(0, 300, 2):
        kernel.desired.remove(f"default/s{number}:")
    kernel.sync()
    wanted = {str(rule) for rules in kernel.desired.all().chains.values() for rule in rules}
    assert set(kernel.rules()) == {*JUMPS, *wanted}


@pytest.mark.parametrize(
    "harm",
    [
        ("-F",),
        ("-F", "KUBE-PORTALS-HOST"),
        ("-D", "OUTPUT", "-j", "KUBE-PORTALS-HOST"),
        ("-D", "KUBE-PORTALS-CONTAINER", "1"),
        ("-A", "KUBE-PORTALS-HOST", "-d", "9.9.9.9/32", "-j", "RETURN"),
        ("-F", "PREROUTING"),
        ("-F", "KUBE-NODEPORT-CONTAINER"),
        ("-D", "OUTPUT", *NODE_PORT_JUMPS[5].split('"')[0].split()[2:], NODE_PORT_COMMENT, "-j",
         "KUBE-NODEPORT-HOST"),
        ("-R", "KUBE-PORTALS-HOST", "1", *ARTICLE[2].replace('"', "").split()[2:-1],
         "172.16.67.69:46042"),
    ],
)  # fmt: skip
def test_foreign_changes_are_seen_and_repaired(kernel: Kernel, harm: tuple[str, ...]) -> None:
    kernel.want_the_article()
    kernel.want_a_node_port()
    kernel.sync()
    kernel.iptables(*harm)
    assert not kernel.site.do(kernel.edge.intact())
    kernel.sync()
    assert kernel.site.do(kernel.edge.intact())
    ours = [line for line in kernel.rules() if "KUBE-" in line]
    jumps = [line for line in NODE_PORT_JUMPS if "KUBE-" in line]
    assert sorted(ours) == sorted((*jumps, *NODE_PORT_RULES, *ARTICLE))


def test_an_old_file_that_is_restored_is_seen_though_it_has_the_same_size(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    elder = kernel.site.run(f"{kernel.tool}-save", "-t", "nat").replace(":46041", ":46040")
    assert kernel.site.do(kernel.edge.intact())
    kernel.site.run(f"{kernel.tool}-restore", input=elder)
    assert not kernel.site.do(kernel.edge.intact())
    kernel.sync()
    assert sorted(kernel.rules()) == sorted((*JUMPS, *ARTICLE))


class _Interrupted:
    """Others change the kernel right before or right after the edge's ``call``, once."""

    def __init__(self, kernel: Kernel, when: str, harm: Callable[[], None]) -> None:
        owner, name = (_Nat, "commit") if isinstance(kernel.edge, LegacyEdge) else (
            (Nftables, "apply") if when.startswith("change") else (NftEdge, "_restore")
        )  # fmt: skip
        self.there = owner, name, getattr(owner, name)
        self.done = False

        def call(*words: object) -> object:
            first, self.done = not self.done, True
            if first and when.endswith("before"):
                harm()
            result = self.there[2](*words)
            if first and when.endswith("after"):
                harm()
            return result

        self.call = call

    def __enter__(self) -> None:
        setattr(self.there[0], self.there[1], self.call)

    def __exit__(self, *error: object) -> None:
        setattr(*self.there)


@pytest.mark.parametrize("when", ["sync before", "sync after", "change before", "change after"])
def test_a_foreign_change_around_our_own_is_not_missed(kernel: Kernel, when: str) -> None:
    """What others do between our look, our write and the look after it."""

    def harm() -> None:
        kernel.site.run(kernel.tool, "-t", "nat", "-D", "KUBE-PORTALS-HOST", "1")

    kernel.want_the_article()
    kernel.sync()
    kernel.want(1)
    with _Interrupted(kernel, when, harm):
        try:
            if when.startswith("sync"):
                kernel.sync()
            else:
                kernel.change()
        except Drifted:
            pass
        right = kernel.site.do(kernel.edge.intact())
    wanted = {str(rule) for rules in kernel.desired.all().chains.values() for rule in rules}
    assert right == (set(kernel.rules()) == {*JUMPS, *wanted})
    kernel.sync()
    assert set(kernel.rules()) == {*JUMPS, *wanted}
    assert kernel.site.do(kernel.edge.intact())


def test_a_change_over_foreign_changes_is_refused(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    kernel.iptables("-F", "KUBE-PORTALS-HOST")
    kernel.want(1)
    with pytest.raises(Drifted):
        kernel.site.do(kernel.edge.change(kernel.desired.take()))
    kernel.sync()
    assert len(kernel.rules()) == len(JUMPS) + 6


def test_a_chain_that_somebody_elses_rule_leads_to_stays_empty_and_troubles_nobody(
    kernel: Kernel,
) -> None:
    kernel.want_the_article()
    kernel.want_a_node_port()
    kernel.sync()
    leads = [
        f"-A PREROUTING -s 10.9.0.0/16 -j {chain}"
        for chain in ("KUBE-NODEPORT-CONTAINER", "KUBE-PORTALS-CONTAINER")
    ]
    for lead in leads:
        kernel.iptables(*lead.split())
    kernel.desired.remove("default/web:")
    kernel.sync()
    assert kernel.site.do(kernel.edge.intact())
    assert not [rule for rule in kernel.rules() if rule.startswith("-A KUBE-NODEPORT")]
    kernel.want_a_node_port()
    kernel.sync()
    assert set(kernel.rules()) > {*NODE_PORT_RULES, *leads}
    for _ in range(2):
        left = kernel.site.do(kernel.edge.remove())
        assert left == ["KUBE-PORTALS-CONTAINER", "KUBE-NODEPORT-CONTAINER"]
        assert [rule for rule in kernel.rules() if "KUBE" in rule] == leads
    for lead in leads:
        kernel.iptables("-D", *lead.split()[1:])
    assert kernel.site.do(kernel.edge.remove()) == []
    assert not [line for line in kernel.listing() if "KUBE" in line]


def test_a_doubled_jump_is_made_single(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    kernel.iptables("-A", "PREROUTING", "-j", "KUBE-PORTALS-CONTAINER")
    kernel.sync()
    assert tuple(kernel.rules()) == (*JUMPS, *ARTICLE)


def test_removal_leaves_the_listing_as_it_was(kernel: Kernel) -> None:
    before = kernel.listing()
    kernel.want_the_article()
    kernel.want_a_node_port()
    kernel.sync()
    assert kernel.listing() != before
    kernel.site.do(kernel.edge.remove())
    assert kernel.listing() == before
    kernel.site.do(kernel.edge.remove())
    assert kernel.listing() == before


def test_a_process_that_never_wrote_removes_what_an_earlier_one_left(kernel: Kernel) -> None:
    before = kernel.listing()
    kernel.want_the_article()
    kernel.sync()
    kernel.site.do(kernel.edge.close())
    kernel.edge = kernel.new_edge()
    kernel.site.do(kernel.edge.remove())
    assert kernel.listing() == before


def test_the_legacy_lock_of_another_tool_is_respected(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "xtables.lock"
    edge = LegacyEdge(Clock(), lock_wait=0.05, lock_path=path)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Locked, match=re.escape(str(path))):
            site.do(edge.sync(Desired()))
    site.do(edge.sync(Desired()))
    site.do(edge.close())


def _without_capabilities() -> None:
    """Take CAP_NET_ADMIN and CAP_NET_RAW from this thread and what it runs."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    sets = ctypes.create_string_buffer(24)
    assert libc.syscall(_CAPGET, header, sets) == 0
    values = list(struct.unpack("=6I", sets.raw))
    lost = 1 << 12 | 1 << 13
    values[:3] = [value & ~lost for value in values[:3]]
    for capability in (12, 13):
        assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP: not for children either
    assert libc.syscall(_CAPSET, header, struct.pack("=6I", *values)) == 0


_CAPGET, _CAPSET = (90, 91) if platform.machine() == "aarch64" else (125, 126)


@pytest.mark.parametrize("new_edge", [lambda: LegacyEdge(Clock()), NftEdge])
def test_a_process_without_the_capability_is_told_what_it_needs(
    site: Site, new_edge: Callable[[], LegacyEdge | NftEdge]
) -> None:
    edge = new_edge()
    site.do(edge._thread.run(_without_capabilities))
    with pytest.raises(NotPermitted, match="root or CAP_NET_ADMIN"):
        site.do(edge.sync(Desired()))
    site.do(edge.close())


def test_a_host_without_the_programs_is_told_what_to_install(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8slite.netfilter.restore._RESTORE", ("no-such-program",))
    edge = ChosenEdge((_Refusing(), NftEdge()))
    with pytest.raises(Unsupported, match=r"not in this kernel; none of .* apt install iptables"):
        site.do(edge.probe())
    site.do(edge.close())


def test_the_legacy_edge_makes_no_table_but_nat(site: Site) -> None:
    edge = LegacyEdge(Clock())
    site.do(edge.remove())
    assert site.run("cat", "/proc/net/ip_tables_names") == ""
    site.do(edge.sync(Desired()))
    assert site.run("cat", "/proc/net/ip_tables_names").split() == ["nat"]
    site.do(edge.close())


def test_the_nft_edge_takes_away_the_table_that_it_made(site: Site) -> None:
    edge = NftEdge()
    desired = DesiredRules("172.16.67.69")
    desired.put(Portal("default/kubernetes:", "tcp", ("10.0.0.2",), 443, 46041))
    site.do(edge.sync(desired.all()))
    assert "nat" in site.run("nft", "list", "tables")
    site.do(edge.remove())
    assert site.run("nft", "list", "tables") == ""
    site.do(edge.close())


def test_the_nft_edge_is_not_misled_by_changes_elsewhere(site: Site) -> None:
    edge = NftEdge()
    desired = DesiredRules("172.16.67.69")
    site.do(edge.sync(Desired()))
    site.run("nft", "add", "table", "ip", "somebody-else")
    assert site.do(edge.intact())
    site.run("nft", "delete", "table", "ip", "somebody-else")
    desired.put(Portal("default/kubernetes:", "tcp", ("10.0.0.2",), 443, 46041))
    site.do(edge.change(desired.take()))
    assert "default/kubernetes:" in site.run("iptables-nft-save", "-t", "nat")
    site.do(edge.close())


class _Refusing(NftEdge):
    name = "refusing"

    async def probe(self) -> None:
        raise Unsupported("not in this kernel")


def test_the_first_edge_that_works_is_chosen(site: Site) -> None:
    edge = ChosenEdge((_Refusing(), NftEdge()))
    site.do(edge.probe())
    assert edge.name == "iptables-nft"
    site.do(edge.close())


def test_when_no_edge_works_it_says_why(site: Site) -> None:
    edge = ChosenEdge((_Refusing(), _Refusing()))
    with pytest.raises(Unsupported, match="not in this kernel"):
        site.do(edge.probe())
    site.do(edge.close())
