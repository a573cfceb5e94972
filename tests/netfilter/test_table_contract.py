"""The table of our own in nftables: it becomes what is desired and nothing else, and what others do
to it is heard. Each test has a network namespace of its own, with somebody else's table in it."""

from __future__ import annotations

import ctypes
import queue
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netfilter.sites import Site

from k8slite.decide.balancing import Endpoint
from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import choose_edge
from k8slite.netfilter.edge import Drifted, NotPermitted, Unsupported
from k8slite.netfilter.nft import edge as table_edge
from k8slite.netfilter.nft.edge import TableEdge
from k8slite.netfilter.nft.layout import IP, TABLE
from k8slite.netfilter.nft.netlink import Link, News
from k8slite.netfilter.nft.services import Edits, ServiceChain, Wanted
from k8slite.netfilter.portals import Desired, DesiredRules, Portal

DOCS = Path(__file__).parents[2] / "docs" / "proxy.md"


def new_edge() -> TableEdge:
    return TableEdge("172.16.0.0/16", "k8slite0")


def endpoints(*numbers: int, port: int = 8080) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"172.16.{number}.2", port) for number in numbers)


class Kernel:
    """A site, the edge under test, and the tool that shows what it did."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.edge = new_edge()
        self.desired = DesiredRules("192.168.0.10", chain_room=0)

    def nft(self, *words: str) -> str:
        return self.site.run("nft", *words)

    def listing(self) -> str:
        """The whole ruleset without what was counted and remembered; elements in order."""
        text = re.sub(r"packets \d+ bytes \d+", "packets 0 bytes 0", self.nft("list", "ruleset"))
        return re.sub(
            r"elements = \{(.*?)\}",
            lambda found: f"elements = {sorted(map(str.strip, found[1].split(',')))}",
            text, flags=re.DOTALL,
        )  # fmt: skip

    def sync(self) -> bool:
        self.desired.take()
        return bool(self.site.do(self.edge.sync(self.desired.all())))

    def change(self) -> None:
        self.site.do(self.edge.change(self.desired.take()))

    def intact(self) -> bool:
        return self.site.do(self.edge.intact())

    def is_what_a_new_process_wants(self) -> bool:
        """Another process finds nothing to do, and the first one hears nothing."""
        other = new_edge()
        change = self.site.do(other.sync(self.desired.all()))
        self.site.do(other.close())
        if change:
            print("found to do:", change.table)
        return not change and self.intact()

    def want_some(self) -> None:
        """A service of the kernel's, one of a listener's, one with affinity, one of IPv6 where
        clients from outside have other endpoints, one that lets only some clients in."""
        self.want("web", "10.0.0.7", endpoints(1, 2), port_name="http", node_port=30080)
        self.desired.put(Portal("default/old:", "udp", ("10.0.0.8", "fd00::8"), 53, 40053))
        self.want("kept", "10.0.0.9", endpoints(3, 4, 5), affinity=60.0)
        six = Endpoint("fd00::2:1", 80)
        self.want("six", "fd00::7", (six,), outside=())
        few = ("10.0.0.0/8", "0.0.0.0/0", "fd00::/64", "fd00::1/128")
        doors = ("10.0.0.11", "fd00::11")
        found = (*endpoints(6), six)
        self.desired.put(
            Portal("default/few:", "tcp", doors, 80, 0, 30081, found, (six,), 60.0, few, doors[:1])
        )

    def want(
        self,
        name: str,
        address: str,
        inside: tuple[Endpoint, ...],
        *,
        outside: tuple[Endpoint, ...] | None = None,
        port_name: str = "",
        node_port: int = 0,
        affinity: float | None = None,
    ) -> None:
        self.desired.put(
            Portal(
                f"default/{name}:{port_name}", "tcp", (address,), 80, 0, node_port,
                inside, inside if outside is None else outside, affinity,
            )
        )  # fmt: skip


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Site("table") as site:
        site.run("nft", "-f", "-", input="table ip nat { chain DOCKER { return; }; }")
        made = Kernel(site)
        yield made
        site.do(made.edge.close())


def test_the_listing_is_the_documentations(kernel: Kernel) -> None:
    kernel.want("web", "10.0.0.7", endpoints(1, 2), port_name="http", node_port=30080)
    kernel.sync()
    listing = kernel.nft("list", "table", "ip", "k8slite")
    section = DOCS.read_text().partition("## The kernel's table\n")[2]
    shown = section.split("```")[1].strip()
    for block in re.split(r"(?<=^})\n", shown, flags=re.MULTILINE):
        assert block in re.sub("^\t", "", listing, flags=re.MULTILINE)


def test_a_second_sync_changes_nothing(kernel: Kernel) -> None:
    kernel.want_some()
    assert kernel.sync()
    assert not kernel.sync()
    assert kernel.is_what_a_new_process_wants()


def test_a_new_process_adopts_what_is_right_and_removes_what_is_stale(kernel: Kernel) -> None:
    kernel.want_some()
    kernel.want("stale", "10.0.0.77", endpoints(8))
    kernel.sync()
    kernel.site.do(kernel.edge.close())
    before = set(kernel.nft("-a", "list", "ruleset").splitlines())
    kernel.edge = new_edge()
    kernel.desired.remove("default/stale:")
    kernel.want("fresh", "10.0.0.78", endpoints(9))
    change = kernel.site.do(kernel.edge.sync(kernel.desired.all()))
    assert change.table.bare == ("default/stale:",)
    assert [backing.portal for backing in change.table.backed] == ["default/fresh:"]
    assert [door.portal for door in change.table.closed] == ["default/stale:"]
    assert [door.portal for door in change.table.opened] == ["default/fresh:"]
    # Chains and rules of the others are the same objects as before.
    after = kernel.nft("-a", "list", "ruleset").splitlines()
    lost = {line for line in before.difference(after) if "elements" not in line and ":" not in line}
    assert all("stale" in line or "numgen" in line or "goto pick" in line for line in lost)
    assert kernel.is_what_a_new_process_wants()


def test_a_change_touches_nothing_but_what_it_changes(kernel: Kernel) -> None:
    kernel.want_some()
    kernel.sync()
    before = kernel.nft("-a", "list", "ruleset").splitlines()
    kernel.want("kept", "10.0.0.9", endpoints(3, 5, 6, 7), affinity=60.0)
    kernel.want("web", "10.0.0.7", endpoints(2, 3), port_name="http", node_port=30080)
    kernel.change()
    after = kernel.nft("-a", "list", "ruleset").splitlines()
    handles = [line for line in before if "handle" in line and "mod 3" not in line]
    assert set(handles) <= set(after)
    assert kernel.is_what_a_new_process_wants()


def test_a_door_changes_hands_in_one_transaction(kernel: Kernel) -> None:
    kernel.want("first", "10.0.0.7", endpoints(1))
    kernel.want("second", "10.0.0.7", endpoints(2))
    kernel.sync()
    assert "goto service-default/first" in kernel.nft("list", "map", "ip", "k8slite", "doors")
    kernel.desired.remove("default/first:")
    kernel.change()
    assert "goto service-default/second" in kernel.nft("list", "map", "ip", "k8slite", "doors")
    assert kernel.is_what_a_new_process_wants()


@pytest.mark.parametrize("seed", range(3))
def test_any_row_of_changes_ends_where_a_fresh_start_would(kernel: Kernel, seed: int) -> None:
    rng = random.Random(seed)
    kernel.sync()
    for _ in range(60):
        for _ in range(rng.randrange(1, 4)):
            name = f"s{rng.randrange(6)}"
            if rng.random() < 0.2:
                kernel.desired.remove(f"default/{name}:")
                continue
            inside = endpoints(*rng.sample(range(1, 30), rng.randrange(12)))
            inside += tuple(Endpoint(f"fd00::{n}", 80) for n in range(rng.randrange(4)))
            kernel.want(
                name, rng.choice(("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")), inside,
                outside=rng.choice((None, (), inside[:2])), node_port=rng.choice((0, 30001)),
                affinity=rng.choice((None, None, 60.0)),
            )  # fmt: skip
        kernel.change()
    assert kernel.is_what_a_new_process_wants()
    for number in range(6):
        kernel.desired.remove(f"default/s{number}:")
    kernel.change()
    assert "elements" not in kernel.nft("list", "ruleset")


def test_more_refusals_than_can_be_heard_are_a_foreign_change(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple(Endpoint(f"10.1.{n >> 8}.{n & 255}", 80) for n in range(16_000))
    kernel.want("web", "10.0.0.7", many)
    kernel.sync()
    kernel.nft("flush", "map", "ip", "k8slite", "endpoints")
    kernel.desired.remove("default/web:")
    with monkeypatch.context() as patch:
        patch.setattr(News, "of", lambda *_: False)  # it came between the look and the write
        with pytest.raises(Drifted):
            kernel.change()
    kernel.sync()
    assert kernel.is_what_a_new_process_wants()


@pytest.mark.parametrize(
    "harm",
    [
        "flush ruleset",
        "delete table ip k8slite",
        "flush map ip k8slite doors",
        "delete element ip k8slite doors { 10.0.0.7 . tcp . 80 }",
        "add element ip k8slite doors { 10.9.9.9 . tcp . 80 : accept }",
        "add element ip k8slite doors-outside { 10.0.0.7 . tcp . 80 : goto service-default/old }",
        "delete element ip k8slite endpoints { 0x80004000 }",
        "add element ip k8slite endpoints { 0x80004007 : 9.9.9.9 . 80 }",
        "add element ip k8slite endpoints { 0x7 : 9.9.9.9 . 80 }",
        "flush map ip k8slite ring",
        "flush chain ip k8slite prerouting",
        "flush chain ip k8slite service-default/kept",
        "insert rule ip k8slite service-default/web/http accept",
        "add rule ip k8slite output ip daddr 10.0.0.7 drop",
        "add chain ip k8slite more { type filter hook input priority 0; }",
        "add set ip k8slite more { type ipv4_addr; }",
        "add table ip k8slite { flags dormant; }",
        "add chain ip k8slite alien; add map ip k8slite alien { type inet_service : verdict; "
        "elements = { 80 : jump alien }; }",
        "add map ip k8slite alien { type inet_service : verdict; "
        "elements = { 80 : jump service-default/web/http }; }",
        "add element ip k8slite doors { * : drop }",
        "delete table ip6 k8slite",
    ],
)
def test_foreign_changes_are_heard_and_repaired(kernel: Kernel, harm: str) -> None:
    kernel.want_some()
    kernel.sync()
    before = kernel.listing()
    kernel.nft(harm)
    assert not kernel.intact()
    kernel.want("web", "10.0.0.7", endpoints(1), port_name="http", node_port=30080)
    with pytest.raises(Drifted):
        kernel.change()
    kernel.want("web", "10.0.0.7", endpoints(1, 2), port_name="http", node_port=30080)
    kernel.sync()
    assert kernel.is_what_a_new_process_wants()
    if harm != "flush ruleset":  # what is made anew may get another number
        assert _without_numbers(kernel.listing()) == _without_numbers(before)


def _without_numbers(listing: str) -> list[str]:
    return sorted(re.sub(r"0x8000[0-9a-f]{4}|offset \d+", "", listing).splitlines())


def test_the_tables_of_others_may_change(kernel: Kernel) -> None:
    kernel.want_some()
    kernel.sync()
    kernel.nft("add", "rule", "ip", "nat", "DOCKER", "accept")
    kernel.nft("add", "table", "ip", "k8slite-too")
    kernel.nft("add", "table", "inet", "k8slite")
    kernel.nft("delete", "table", "ip", "nat")
    assert kernel.intact()
    kernel.want("more", "10.0.0.10", endpoints(1))
    kernel.change()
    assert kernel.is_what_a_new_process_wants()


def test_news_are_heard_again_after_a_change_of_our_own(kernel: Kernel) -> None:
    heard: queue.SimpleQueue[None] = queue.SimpleQueue()
    kernel.edge.heed(lambda: heard.put(None))
    kernel.sync()
    for number in range(3):
        kernel.nft("add", "rule", "ip", "nat", "DOCKER", "accept")
        heard.get(timeout=20)
        kernel.want("more", "10.0.0.10", endpoints(*range(1, number + 2)))
        kernel.change()


def test_news_that_did_not_fit_count_as_a_change(kernel: Kernel) -> None:
    async def listen() -> News:
        return News(0)

    news = kernel.site.do(listen())
    with socket.socket(fileno=socket.dup(news.fileno())) as tap:  # type: ignore[attr-defined]
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(40):
        kernel.nft("add", "chain", "ip", "nat", f"c{number}")
    assert news.of(frozenset({(IP.number, TABLE)}))
    assert not news.of(frozenset({(IP.number, TABLE)}))
    news.close()


def test_a_change_that_cannot_be_made_changes_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.want_some()
    kernel.sync()
    before = kernel.listing()

    def refuse(*_: object) -> None:
        raise Drifted("something is not there")

    kernel.want("more", "10.0.0.10", endpoints(1))
    with monkeypatch.context() as patch:
        patch.setattr(Link, "commit", refuse)
        with pytest.raises(Drifted):
            kernel.change()
    assert kernel.listing() == before
    assert not kernel.intact()
    kernel.sync()
    assert kernel.is_what_a_new_process_wants()


def test_removal_leaves_the_listing_as_it_was(kernel: Kernel) -> None:
    before = kernel.nft("list", "ruleset")
    kernel.want_some()
    kernel.sync()
    assert kernel.nft("list", "ruleset") != before
    kernel.site.do(kernel.edge.close())
    kernel.edge = new_edge()  # one that never wrote
    kernel.site.do(kernel.edge.remove())
    assert kernel.nft("list", "ruleset") == before
    kernel.site.do(kernel.edge.remove())
    assert kernel.nft("list", "ruleset") == before


def test_trying_out_leaves_nothing(kernel: Kernel) -> None:
    before = kernel.nft("list", "ruleset")
    kernel.site.do(kernel.edge.probe())
    assert kernel.nft("list", "ruleset") == before


def test_without_the_capability_it_says_what_is_needed(kernel: Kernel) -> None:
    kernel.site.do(kernel.edge._thread.run(_give_up_net_admin))
    with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
        kernel.site.do(kernel.edge.sync(kernel.desired.all()))


def _give_up_net_admin() -> None:
    """Of this thread alone (capset(2), version 3)."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(head, sets) == 0
    sets[0] &= ~(1 << 12)
    assert libc.capset(head, sets) == 0


def test_without_nftables_everything_stays_in_the_chains(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nowhere(Link):
        def __init__(self) -> None:
            raise Unsupported("no netfilter netlink here")

    monkeypatch.setattr(table_edge, "Link", Nowhere)
    edge = choose_edge(Clock(), pod_network="172.16.0.0/16", bridge="k8slite0")
    assert edge.chain_room is None
    assert "no netfilter netlink" in edge.table_trouble
    desired = DesiredRules("192.168.0.10", edge.chain_room)
    desired.put(Portal("default/web:", "tcp", ("10.0.0.7",), 80, 40080))
    kernel.site.do(edge.sync(desired.all()))
    assert kernel.site.do(edge.intact())
    kernel.site.do(edge.remove())
    kernel.site.do(edge.close())


def test_the_chains_take_some_and_the_table_the_others(kernel: Kernel) -> None:
    edge = choose_edge(Clock(), pod_network="172.16.0.0/16", bridge="k8slite0")

    async def room() -> int | None:
        return edge.chain_room

    chain_room = kernel.site.do(room())
    assert chain_room == 256
    desired = DesiredRules("192.168.0.10", chain_room)
    for number in range(300):
        address = f"10.1.{number // 250}.{number % 250 + 1}"
        desired.put(Portal(f"default/s{number}:", "tcp", (address,), 80, 40000 + number))
    desired.take()
    kernel.site.do(edge.sync(desired.all()))
    assert len(re.findall("goto service-default/s", kernel.nft("list", "ruleset"))) == 44
    assert kernel.site.do(edge.intact())
    assert not kernel.site.do(edge.sync(desired.all()))
    desired.remove("default/s1:")
    desired.remove("default/s299:")
    kernel.site.do(edge.change(desired.take()))
    assert len(re.findall("goto service-default/s", kernel.nft("list", "ruleset"))) == 43
    kernel.nft("delete", "table", "ip", "k8slite")
    assert not kernel.site.do(edge.intact())
    kernel.site.do(edge.sync(desired.all()))
    assert kernel.site.do(edge.intact())
    kernel.site.do(edge.remove())
    assert "k8slite" not in kernel.nft("list", "ruleset")
    kernel.site.do(edge.close())


def test_a_table_is_made_when_something_stands_in_it(kernel: Kernel) -> None:
    before = kernel.nft("list", "ruleset")
    kernel.site.do(kernel.edge.sync(Desired()))
    assert kernel.nft("list", "ruleset") == before
    assert kernel.intact()
    kernel.want("six", "fd00::7", ())
    kernel.change()
    assert "table ip6 k8slite" in kernel.nft("list", "tables")
    assert "table ip k8slite" not in kernel.nft("list", "tables")
    assert kernel.is_what_a_new_process_wants()


# -- numbering, without a kernel -------------------------------------------------------------------


def numbered(affinity: float | None = None) -> ServiceChain:
    chain = ServiceChain(IP, "service-default/web", 1, Wanted(affinity=affinity))
    chain.serve(endpoints(1, 2, 3, 4, 5), Edits())
    return chain


def test_numbers_stay_without_gaps_and_little_moves() -> None:
    chain, edits = numbered(), Edits()
    assert not chain.serve(endpoints(1, 3, 4, 5, 7), edits)
    assert chain.ring == list(endpoints(1, 7, 3, 4, 5))
    assert (len(edits.gone["endpoints"]), len(edits.new["endpoints"])) == (1, 1)
    assert chain.serve(endpoints(1, 3, 5, 7), Edits())
    assert sorted(chain.ring) == sorted(endpoints(1, 3, 5, 7))
    assert not chain.serve(endpoints(7, 5, 3, 1), unchanged := Edits())
    assert not unchanged.gone
    assert not unchanged.new


def test_a_service_that_changes_all_the_time_does_not_begin_with_the_same_one() -> None:
    chain = numbered()
    first = []
    for turn in range(40):
        chain.serve(endpoints(1, 2, 3, 4, 5, *((6,) if turn % 2 else ())), Edits())
        first.append(chain.ring[0])
    assert {first.count(endpoint) > 3 for endpoint in endpoints(1, 2, 3, 4, 5)} == {True}


def test_with_affinity_an_endpoint_keeps_its_number_for_good() -> None:
    chain = numbered(60.0)
    before = dict(chain.slots)
    chain.serve(endpoints(5, 4, 3, 9), Edits())
    assert {e: n for e, n in chain.slots.items() if e in before} == {
        e: n for e, n in before.items() if e in endpoints(3, 4, 5)
    }
    assert chain.slots[endpoints(9)[0]] not in before.values()
