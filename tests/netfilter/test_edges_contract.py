"""One contract, two edges: the kernel's nat table becomes what is desired and nothing else.

Each test has a network namespace of its own with Docker-like rules in it that must not change.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.netfilter.sites import Site
from tests.netfilter.test_portal_rules import ARTICLE

from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import ChosenEdge
from k8slite.netfilter.edge import Drifted, Edge, Locked, Unsupported
from k8slite.netfilter.iptables import LegacyEdge
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

    def want(self, number: int, listener: int = 20000) -> None:
        address = f"10.1.{number // 250}.{number % 250 + 1}"
        self.desired.put(Portal(f"default/s{number}:", "udp", (address,), 53, listener))


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


def test_a_second_sync_changes_nothing(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    assert not kernel.site.do(kernel.edge.sync(kernel.desired.all()))


def test_a_new_process_adopts_what_is_right_and_removes_what_is_stale(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.want(1)
    kernel.sync()
    kernel.site.do(kernel.edge.close())
    kernel.edge = kernel.new_edge()
    kernel.desired.remove("default/s1:")
    kernel.want(2)
    change = kernel.site.do(kernel.edge.sync(kernel.desired.all()))
    assert {rule.comment for rule in change.remove} == {"default/s1:"}
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
    ],
)
def test_foreign_changes_are_seen_and_repaired(kernel: Kernel, harm: tuple[str, ...]) -> None:
    kernel.want_the_article()
    kernel.sync()
    kernel.iptables(*harm)
    assert not kernel.site.do(kernel.edge.intact())
    kernel.sync()
    assert kernel.site.do(kernel.edge.intact())
    ours = [line for line in kernel.rules() if "KUBE-PORTALS" in line]
    assert sorted(ours) == sorted((JUMPS[0], JUMPS[2], *ARTICLE))


def test_a_change_over_foreign_changes_is_refused(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    kernel.iptables("-F", "KUBE-PORTALS-HOST")
    kernel.want(1)
    with pytest.raises(Drifted):
        kernel.site.do(kernel.edge.change(kernel.desired.take()))
    kernel.sync()
    assert len(kernel.rules()) == len(JUMPS) + 6


def test_a_doubled_jump_is_made_single(kernel: Kernel) -> None:
    kernel.want_the_article()
    kernel.sync()
    kernel.iptables("-A", "PREROUTING", "-j", "KUBE-PORTALS-CONTAINER")
    kernel.sync()
    assert tuple(kernel.rules()) == (*JUMPS, *ARTICLE)


def test_removal_leaves_the_listing_as_it_was(kernel: Kernel) -> None:
    before = kernel.listing()
    kernel.want_the_article()
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
