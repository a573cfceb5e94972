"""Services of type LoadBalancer get addresses of the pool, each its own, and give them back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from k8slite.api.kinds.service.types import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from k8slite.api.meta import Condition, ObjectMeta
from k8slite.decide.addresspool import Pool
from k8slite.decide.loadbalancer import (
    CLASS,
    CONFLICT,
    PENDING,
    SHARED,
    concerned,
    ingress,
    is_ours,
    plan,
    ports,
)

FOUR = Pool.read(("192.168.0.240/30",))


class Cluster:
    """Services by name, and a clock that ticks once a plan."""

    def __init__(self, pool: Pool = FOUR, reserved: tuple[str, ...] = ()) -> None:
        self.pool = pool
        self.reserved = reserved
        self.services: dict[str, Service] = {}
        self.news: list[tuple[str, str, str]] = []
        self._time = 0

    def put(self, name: str, *, share: str = "", port: int = 80, **spec: Any) -> None:
        """Make the service, or change its spec; what was written of it stays."""
        old = self.services.get(name)
        spec.setdefault("type", "LoadBalancer")
        self._time += 1
        meta = ObjectMeta(
            name=name, namespace="default", uid=name, creation_timestamp=self._stamp(),
            annotations={SHARED: share} if share else None,
        )  # fmt: skip
        if old is not None:
            meta = replace(meta, creation_timestamp=old.metadata.creation_timestamp)
        self.services[name] = Service(
            metadata=meta,
            spec=ServiceSpec(ports=(ServicePort(port=port, protocol="TCP"),), **spec),
            status=old.status if old is not None else ServiceStatus(),
        )

    def give(self, name: str, *addresses: str) -> None:
        """Somebody else writes the status."""
        at = tuple(LoadBalancerIngress(ip=address) for address in addresses)
        status = ServiceStatus(load_balancer=LoadBalancerStatus(ingress=at))
        self.services[name] = replace(self.services[name], status=status)

    def _stamp(self) -> str:
        return f"2026-01-01T00:{self._time // 60:02}:{self._time % 60:02}Z"

    def round(self) -> int:
        """One plan, written; the number of changes."""
        self._time += 1
        found = [s for s in self.services.values() if concerned(s)]
        changes = plan(self.pool, found, self.reserved, self._stamp())
        for change in changes:
            name = change.service.metadata.name
            self.services[name] = replace(self.services[name], status=change.status)
            self.news += [(name, news.reason, news.message) for news in change.news]
        return len(changes)

    def settle(self) -> None:
        for _ in range(10):
            if not self.round():
                return
        raise AssertionError("it never settles")

    def of(self, name: str) -> str:
        return ",".join(ingress(self.services[name]))

    def why(self, name: str, kind: str = PENDING) -> str:
        conditions = self.services[name].status.conditions
        return next((c.reason for c in conditions if c.type == kind), "")

    def told(self, name: str) -> list[str]:
        return [reason for about, reason, _ in self.news if about == name]


def test_each_service_gets_an_address_of_its_own_and_keeps_it() -> None:
    cluster = Cluster(reserved=("192.168.0.240",))
    cluster.put("a")
    cluster.put("b")
    cluster.put("inner", type="ClusterIP")
    cluster.settle()
    assert (cluster.of("a"), cluster.of("b")) == ("192.168.0.241", "192.168.0.242")
    assert cluster.of("inner") == ""
    assert cluster.round() == 0
    assert cluster.news == [
        ("a", "AddressAssigned", "address 192.168.0.241"),
        ("b", "AddressAssigned", "address 192.168.0.242"),
    ]


def test_a_certain_address_is_asked_for_and_waited_for() -> None:
    cluster = Cluster()
    cluster.put("a", load_balancer_ip="192.168.0.243")
    cluster.settle()
    cluster.put("b", load_balancer_ip="192.168.0.243")
    cluster.put("c", load_balancer_ip="10.0.0.1")
    cluster.settle()
    assert cluster.of("a") == "192.168.0.243"
    assert (cluster.of("b"), cluster.why("b")) == ("", "AddressTaken")
    assert (cluster.of("c"), cluster.why("c")) == ("", "AddressOutsidePool")
    del cluster.services["a"]
    cluster.settle()
    assert (cluster.of("b"), cluster.why("b")) == ("192.168.0.243", "")
    assert cluster.told("b") == ["AddressTaken", "AddressAssigned"]
    # It asks for another one: the first is given back at once.
    cluster.put("b", load_balancer_ip="192.168.0.241")
    cluster.settle()
    assert cluster.of("b") == "192.168.0.241"
    assert cluster.told("b")[-1] == "AddressReleased"


def test_an_exhausted_pool_serves_first_who_waits_longest() -> None:
    cluster = Cluster()
    for name in "abcd":
        cluster.put(name)
    cluster.put("elder", type="ClusterIP")  # older than e, but it asks after it
    cluster.settle()
    cluster.put("e")
    cluster.settle()
    cluster.put("elder")
    cluster.settle()
    assert cluster.why("e") == cluster.why("elder") == "AddressPoolExhausted"
    cluster.put("b", type="ClusterIP")
    cluster.settle()
    assert (cluster.of("b"), cluster.of("e")) == ("", "192.168.0.241")
    assert cluster.why("elder") == "AddressPoolExhausted"
    assert cluster.told("elder") == ["AddressPoolExhausted"], "it is said once"
    del cluster.services["e"]
    cluster.settle()
    assert cluster.of("elder") == "192.168.0.241"


def test_what_one_gives_back_another_gets_only_when_that_is_written() -> None:
    cluster = Cluster()
    cluster.put("a", load_balancer_ip="192.168.0.240")
    cluster.put("b", load_balancer_ip="192.168.0.241")
    cluster.settle()
    cluster.put("a", load_balancer_ip="192.168.0.241")
    cluster.put("b", load_balancer_ip="192.168.0.240")
    cluster.round()
    assert (cluster.of("a"), cluster.of("b")) == ("", "")
    cluster.settle()
    assert (cluster.of("a"), cluster.of("b")) == ("192.168.0.241", "192.168.0.240")


def test_other_classes_are_left_alone() -> None:
    cluster = Cluster()
    cluster.put("cloud", load_balancer_class="example.com/cloud")
    cluster.put("ours", load_balancer_class=CLASS)
    cluster.give("cloud", "192.168.0.240")  # of our pool even
    cluster.settle()
    assert cluster.of("cloud") == "192.168.0.240"
    assert cluster.of("ours") == "192.168.0.241"


def test_without_a_pool_it_is_said_once_which_flag_to_give() -> None:
    cluster = Cluster(Pool())
    cluster.put("a")
    cluster.put("b")
    cluster.give("b", "203.0.113.5")  # by somebody else
    cluster.put("c", load_balancer_class="example.com/cloud")
    cluster.settle()
    assert [(name, reason) for name, reason, _ in cluster.news] == [("a", "NoAddressPool")]
    assert "--address-pool" in cluster.news[0][2]
    assert (cluster.of("a"), cluster.of("b")) == ("", "203.0.113.5")
    cluster.pool = FOUR
    cluster.settle()
    assert (cluster.of("a"), cluster.why("a")) == ("192.168.0.240", "")


def test_families() -> None:
    cluster = Cluster(Pool.read(("192.168.0.240/32", "fd00::10-fd00::11")))
    cluster.put("plain")
    cluster.put("both", ip_families=("IPv6", "IPv4"))
    cluster.put("asks", load_balancer_ip="FD00:0::11")
    cluster.settle()
    assert cluster.of("plain") == "192.168.0.240"
    assert (cluster.of("both"), cluster.why("both")) == ("fd00::10", "AddressPoolExhausted")
    assert cluster.of("asks") == "fd00::11"
    cluster.pool = Pool.read(("192.168.0.240/31",))
    cluster.settle()
    assert (cluster.of("both"), cluster.why("both")) == ("192.168.0.241", "NoAddressOfFamily")


def test_services_that_ask_for_it_share_an_address() -> None:
    cluster = Cluster()
    cluster.put("web", share="site", port=80)
    cluster.put("tls", share="site", port=443)
    cluster.put("again", share="site", port=80)
    cluster.put("local", share="site", port=25, external_traffic_policy="Local")
    cluster.settle()
    assert cluster.of("web") == cluster.of("tls") == "192.168.0.240"
    assert cluster.of("again") == "192.168.0.241"
    assert cluster.of("local") == "192.168.0.242"
    # It asks no longer: who came later moves.
    cluster.put("tls", port=443)
    cluster.settle()
    assert (cluster.of("web"), cluster.of("tls")) == ("192.168.0.240", "192.168.0.243")


def test_the_elder_of_two_that_claim_an_address_and_port_has_it() -> None:
    cluster = Cluster()
    cluster.put("a", type="ClusterIP", external_ips=("198.51.100.7",))
    cluster.put("b", type="ClusterIP", external_ips=("198.51.100.7",))
    cluster.put("other-port", type="ClusterIP", external_ips=("198.51.100.7",), port=81)
    cluster.put("pool")
    cluster.put("thief", type="ClusterIP", external_ips=("192.168.0.240",))
    cluster.round()
    assert cluster.of("pool") == "192.168.0.241", "an address that is claimed is not handed out"
    cluster.put("thief", type="ClusterIP", external_ips=("192.168.0.241",))
    cluster.settle()
    found = {name: cluster.why(name, CONFLICT) for name in cluster.services}
    wrong = {"b": "AddressConflict", "thief": "AddressConflict"}
    assert found == {"a": "", "b": "", "other-port": "", "pool": "", "thief": "", **wrong}
    assert cluster.of("pool") == "192.168.0.241"
    said = {name: message for name, reason, message in cluster.news if "Conf" in reason}
    assert "198.51.100.7 port 80/tcp belongs to default/a" in said["b"]
    del cluster.services["a"]
    cluster.settle()
    assert cluster.why("b", CONFLICT) == ""


def test_conditions_of_others_stay_where_they_are() -> None:
    cluster = Cluster(Pool())
    cluster.put("a")
    theirs = Condition(type="example.com/Checked", status="True")
    status = ServiceStatus(conditions=(theirs,))
    cluster.services["a"] = replace(cluster.services["a"], status=status)
    cluster.settle()
    assert cluster.services["a"].status.conditions[0] == theirs
    ours = cluster.services["a"].status.conditions[1]
    status = ServiceStatus(conditions=(ours, theirs))  # as somebody wrote it again
    cluster.services["a"] = replace(cluster.services["a"], status=status)
    assert cluster.round() == 0
    cluster.pool = FOUR
    cluster.settle()
    assert cluster.services["a"].status.conditions == (theirs,)


def assert_nobody_intrudes(cluster: Cluster) -> None:
    """Those who have one address together all asked for it, each on a port of its own."""
    holders: dict[str, list[Service]] = {}
    for service in cluster.services.values():
        for address in ingress(service) if is_ours(service) else ():
            holders.setdefault(address, []).append(service)
    for together in holders.values():
        if len(together) > 1:
            assert all(s.metadata.annotation(SHARED) == "x" for s in together)
            assert len(frozenset().union(*map(ports, together))) == len(together)


_NAMES = st.sampled_from("abcdef")
_SPECS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(("LoadBalancer", "LoadBalancer", "ClusterIP")),
        "load_balancer_ip": st.sampled_from(("", "", "192.168.0.241", "10.0.0.1")),
        "share": st.sampled_from(("", "x")),
        "port": st.sampled_from((80, 443)),
        "external_ips": st.sampled_from(((), ("192.168.0.242",))),
    }
)
_DEEDS = st.one_of(
    st.tuples(st.just("put"), _NAMES, _SPECS),
    st.tuples(st.just("delete"), _NAMES, st.none()),
    st.tuples(st.just("round"), _NAMES, st.none()),
)


@given(st.lists(_DEEDS, max_size=25))
def test_no_address_is_ever_handed_out_twice_and_none_is_lost(deeds: list[Any]) -> None:
    cluster = Cluster()
    for deed, name, spec in deeds:
        match deed:
            case "put":
                cluster.put(name, **spec)
            case "delete":
                cluster.services.pop(name, None)
            case _:
                cluster.round()
        if deed == "round":
            assert_nobody_intrudes(cluster)
    cluster.settle()
    ours = [s for s in cluster.services.values() if is_ours(s)]
    assert all(ingress(s) == () for s in cluster.services.values() if not is_ours(s))
    for service in ours:
        asked, name = service.spec.load_balancer_ip, service.metadata.name
        assert not asked or cluster.of(name) in ("", asked)
        assert bool(cluster.of(name)) != bool(cluster.why(name))
    held = {address for s in ours for address in ingress(s)}
    exhausted = [s for s in ours if cluster.why(s.metadata.name) == "AddressPoolExhausted"]
    claimed = {a for s in cluster.services.values() for a in s.spec.external_ips}
    assert not exhausted or set(FOUR.addresses(4)) <= held | claimed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("192.168.0.241/28", "has host bits set"),
        ("192.168.0.9-192.168.0.2", "ends before it begins"),
        ("192.168.0.9-fd00::1", "in different families"),
        ("192.168.0.9-", "'' is no address"),
        ("127.0.0.0/30", "is nothing to give to a service"),
        ("pool", "write it as 192.168.0.240/28 or"),
    ],
)
def test_a_range_that_is_none_is_refused_with_words(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pool.read((text,))


def test_a_wide_pool_costs_no_more_than_what_is_taken() -> None:
    pool = Pool.read(("fd00::/64",))
    assert "fd00::ffff:1" in pool
    assert next(pool.addresses(6)) == "fd00::"


def test_many_services_look_at_each_address_once() -> None:
    seen: list[str] = []

    class Watched(Pool):
        def addresses(self, version: int) -> Iterator[str]:
            for address in super().addresses(version):
                seen.append(address)
                yield address

    cluster = Cluster(Watched.read(("10.0.0.0/24",)))
    for number in range(300):
        cluster.put(f"s{number}")
    cluster.round()
    assert len(seen) == 256
    assert len({a for s in cluster.services.values() for a in ingress(s)}) == 256
