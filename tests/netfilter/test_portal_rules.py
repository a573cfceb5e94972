"""Portal rules, pure: the article's form, and changes that cost what they change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from k8slite.decide.balancing import Endpoint
from k8slite.netfilter.portals import EVERY_IPV6, Claim, DesiredRules, Portal, difference
from k8slite.netfilter.rules import CONTAINER, HOST, NODEPORT_HOST, Rule, parse

ARTICLE = (
    '-A KUBE-PORTALS-CONTAINER -d 10.0.0.2/32 -p tcp -m comment --comment "default/kubernetes:" '
    "-m tcp --dport 443 -j REDIRECT --to-ports 46041",
    '-A KUBE-PORTALS-CONTAINER -d 10.0.0.1/32 -p tcp -m comment --comment "default/kubernetes-ro:" '
    "-m tcp --dport 80 -j REDIRECT --to-ports 58340",
    '-A KUBE-PORTALS-HOST -d 10.0.0.2/32 -p tcp -m comment --comment "default/kubernetes:" '
    "-m tcp --dport 443 -j DNAT --to-destination 172.16.67.69:46041",
    '-A KUBE-PORTALS-HOST -d 10.0.0.1/32 -p tcp -m comment --comment "default/kubernetes-ro:" '
    "-m tcp --dport 80 -j DNAT --to-destination 172.16.67.69:58340",
)

addresses = st.sampled_from(("10.0.0.1", "10.0.0.2", "10.0.0.3"))
endpoints = st.lists(
    st.builds(Endpoint, addresses, st.sampled_from((80, 81))), max_size=2, unique=True
).map(tuple)
portals = st.builds(
    Portal,
    name=st.sampled_from(("default/a:", "default/b:http", "other/c:", "other/d:dns")),
    protocol=st.sampled_from(("tcp", "udp")),
    addresses=st.lists(addresses, max_size=3).map(tuple),
    port=st.sampled_from((53, 80)),
    listener=st.integers(30000, 30003),
)
#: Portals that may also be the kernel's to serve, or have an IPv6 address.
any_portals = st.builds(
    Portal,
    name=st.sampled_from(("default/a:", "default/b:http", "other/c:", "other/d:dns")),
    protocol=st.sampled_from(("tcp", "udp")),
    addresses=st.lists(st.one_of(addresses, st.just("2001:db8::1")), max_size=3).map(tuple),
    port=st.sampled_from((53, 80)),
    listener=st.sampled_from((0, 30000, 30001)),
    node_port=st.sampled_from((0, 30080)),
    inside=endpoints,
)
any_edits = st.lists(st.one_of(any_portals, any_portals.map(lambda p: p.name)), max_size=20)
edits = st.lists(st.one_of(portals, portals.map(lambda portal: portal.name)), max_size=20)


def edit(desired: DesiredRules, step: Portal | str) -> None:
    if isinstance(step, Portal):
        desired.put(step)
    else:
        desired.remove(step)


def test_the_articles_services_give_the_articles_rules() -> None:
    desired = DesiredRules("172.16.67.69")
    desired.put(Portal("default/kubernetes:", "tcp", ("10.0.0.2",), 443, 46041))
    desired.put(Portal("default/kubernetes-ro:", "tcp", ("10.0.0.1",), 80, 58340))
    rules = desired.all().chains
    assert tuple(map(str, (*rules[CONTAINER], *rules[HOST]))) == ARTICLE


def test_every_address_has_its_pair() -> None:
    desired = DesiredRules("192.168.0.10")
    desired.put(Portal("default/nginx:http", "tcp", ("192.168.3.214", "12.0.0.5"), 80, 40000))
    assert [rule.address for rule in desired.all().chains[HOST]] == ["192.168.3.214", "12.0.0.5"]
    assert len(desired) == 4


@given(portals, addresses)
def test_a_listed_rule_is_understood(portal: Portal, node: str) -> None:
    desired = DesiredRules(node)
    desired.put(portal)
    for rules in desired.all().chains.values():
        assert [parse(str(rule)) for rule in rules] == list(rules)


def test_a_foreign_rule_is_not_taken_for_ours() -> None:
    assert parse(ARTICLE[0].replace("KUBE-PORTALS-CONTAINER", "DOCKER")) is None
    assert parse(ARTICLE[0].replace("-d 10.0.0.2/32", "-d 10.0.0.0/24")) is None
    assert parse(ARTICLE[0] + " --random") is None
    assert parse('-A KUBE-PORTALS-HOST -m comment --comment "unbalanced') is None


@given(edits, edits)
def test_changes_lead_from_any_state_to_any_other(first: list, second: list) -> None:
    desired = DesiredRules("192.168.0.10")
    for step in first:
        edit(desired, step)
    desired.take()
    before = {rule for rules in desired.all().chains.values() for rule in rules}
    for step in second:
        edit(desired, step)
    change = desired.take()
    after = {rule for rules in desired.all().chains.values() for rule in rules}
    assert before - after == set(change.remove)
    assert after - before == set(change.add)
    assert not desired.take()


@given(any_edits, any_edits, st.sampled_from((0, 1, 2, 9)))
def test_changes_of_chains_and_table_lead_from_any_state_to_any_other(
    first: list, second: list, room: int
) -> None:
    desired = DesiredRules("192.168.0.10", room)
    for step in first:
        edit(desired, step)
    desired.take()
    before = desired.all()
    for step in second:
        edit(desired, step)
    change, after = desired.take(), desired.all()
    rules = {rule for part in before.chains.values() for rule in part}
    rules = rules - set(change.remove) | set(change.add)
    assert rules == {rule for part in after.chains.values() for rule in part}
    assert before.doors - set(change.table.closed) | set(change.table.opened) == after.doors
    backings = {k: v for k, v in before.backings.items() if k not in change.table.bare}
    backings |= {backing.portal: backing for backing in change.table.backed}
    assert backings == after.backings
    assert {door.portal for door in after.doors} == after.backings.keys()
    assert len(after.chains[HOST]) + len(after.chains[NODEPORT_HOST]) <= room
    assert len(desired) == len(rules) + len(after.doors) + len(backings)


@given(any_edits)
def test_what_no_chain_can_hold_is_said_where_there_is_no_table(steps: list) -> None:
    desired = DesiredRules("192.168.0.10")
    for step in steps:
        edit(desired, step)
    assert not desired.all().doors
    lost = desired.put(Portal("default/e:", "tcp", ("2001:db8::9", "10.9.9.9"), 80, 40000))
    assert lost == {Claim("2001:db8::9", "tcp", 80): ""}


def test_a_node_port_of_the_chains_has_a_door_for_ipv6_where_there_is_a_table() -> None:
    portal = Portal("default/a:", "tcp", ("10.0.0.1",), 80, 40000, node_port=30080)
    desired = DesiredRules("192.168.0.10", 9)
    assert desired.put(portal) == {}
    [rule] = desired.all().chains[NODEPORT_HOST]
    assert (rule.address, rule.port) == ("", 30080)
    assert {door.claim for door in desired.all().doors} == {Claim(EVERY_IPV6, "tcp", 30080)}
    alone = DesiredRules("192.168.0.10")
    assert alone.put(portal) == {}
    assert not alone.all().doors


def test_what_stands_in_a_chain_stays_there_when_others_come() -> None:
    desired = DesiredRules("192.168.0.10", 1)
    desired.put(Portal("default/a:", "tcp", ("10.0.0.1",), 80, 40000))
    desired.put(Portal("default/b:", "tcp", ("10.0.0.2",), 80, 40001))
    desired.put(Portal("default/a:", "tcp", ("10.0.0.1",), 80, 40002))
    assert [rule.comment for rule in desired.all().chains[HOST]] == ["default/a:"]
    assert [door.portal for door in desired.all().doors] == ["default/b:"]
    assert desired.all().backings["default/b:"].listener == "192.168.0.10:40001"


@given(edits)
def test_no_two_portals_hold_one_claim(steps: list) -> None:
    desired = DesiredRules("192.168.0.10")
    for step in steps:
        edit(desired, step)
    for rules in desired.all().chains.values():
        claims = [(rule.address, rule.protocol, rule.port) for rule in rules]
        assert len(claims) == len(set(claims))


def test_a_public_address_stays_with_the_first_and_passes_on_when_it_goes() -> None:
    desired = DesiredRules("192.168.0.10")
    first = Portal("default/a:", "tcp", ("10.0.0.1", "12.0.0.5"), 80, 40000)
    second = Portal("default/b:", "tcp", ("10.0.0.2", "12.0.0.5"), 80, 40001)
    assert desired.put(first) == {}
    assert desired.put(second) == {Claim("12.0.0.5", "tcp", 80): "default/a:"}
    desired.take()
    desired.remove("default/a:")
    change = desired.take()
    assert {(rule.address, rule.comment) for rule in change.add} == {("12.0.0.5", "default/b:")}
    assert {rule.comment for rule in change.remove} == {"default/a:"}


def test_a_change_names_only_what_it_changes() -> None:
    desired = DesiredRules("192.168.0.10")
    for number in range(1000):
        address = f"10.0.{number // 250}.{number % 250 + 1}"
        desired.put(Portal(f"default/s{number}:", "tcp", (address,), 80, 30000 + number))
    desired.take()
    desired.put(Portal("default/s7:", "tcp", ("10.0.0.8",), 80, 29999))
    change = desired.take()
    assert len(change.add) == len(change.remove) == 2


rule_lists = st.lists(
    st.builds(
        Rule,
        chain=st.just(HOST),
        address=addresses,
        protocol=st.just("tcp"),
        comment=st.just("default/a:"),
        port=st.sampled_from((80, 443)),
        to=st.just("1.1.1.1:1"),
    ),
    max_size=8,
)


@given(rule_lists, rule_lists)
def test_difference_leaves_each_wanted_rule_exactly_once(desired: list, present: list) -> None:
    change = difference(desired, present)
    left = list(present)
    for rule in change.remove:
        left.remove(rule)
    assert sorted([*left, *change.add]) == sorted(set(desired))
