"""A host's plan is the same whenever it is made; it says all, and nothing to whom it must not."""

from __future__ import annotations

from dataclasses import replace

from k8slite.config import Settings
from k8slite.decide.outside import Outside
from k8slite.deploy import credentials, plan
from k8slite.deploy.cluster import ClusterSpec, NodeSpec
from k8slite.deploy.local import agent_words, settings_of
from k8slite.deploy.plan import HostPlan, Ingredients, plans
from k8slite.kit.clock import Clock

MASTERS = ("192.168.0.10", "192.168.0.11", "192.168.0.12")
NODES = tuple(NodeSpec("core", address, "ai") for address in MASTERS)
MINION = NodeSpec("core", "192.168.0.13", "i")
SPEC = ClusterSpec((*NODES, MINION), docker_options={"debug": True})
SHARED = credentials.make(Clock())
MADE = Ingredients(
    cluster="c0ffee",
    runtime="abc",
    etcd="etcd-abc",
    shared=SHARED,
    token=credentials.join_token(SHARED, Clock()),
    installer=dict.fromkeys((*MASTERS, MINION.address), "192.168.0.100"),
)


def words(one: HostPlan) -> list[str]:
    return agent_words(settings_of(one.settings))


def test_the_same_ingredients_make_the_same_plan_and_it_travels_whole() -> None:
    first, again = plans(SPEC, MADE), plans(SPEC, MADE)
    for address, one in first.items():
        assert one.digest == again[address].digest
        assert plan.decode(one.encoded()) == one
    assert len({one.digest for one in first.values()}) == 4


def test_a_change_of_anything_is_a_change_of_the_plan() -> None:
    before = plans(SPEC, MADE)[MASTERS[0]].digest
    for spec, made in (
        (replace(SPEC, portal_net="10.0.0.0/24"), MADE),
        (replace(SPEC, overlay="host-gw"), MADE),
        (replace(SPEC, docker_options={}), MADE),
        (replace(SPEC, admission_control=("LimitRanger",)), MADE),
        (SPEC, replace(MADE, runtime="def")),
        (SPEC, replace(MADE, etcd="etcd-def")),
        (SPEC, replace(MADE, recorded=[NodeSpec("core", "192.168.0.14")])),
    ):
        assert plans(spec, made)[MASTERS[0]].digest != before


def test_every_host_is_told_of_the_addresses_for_the_outside() -> None:
    asked = Outside(("192.168.0.240/28",), "bgp", 64600, ("192.168.0.1=64513", "192.168.0.2"))
    spec = replace(SPEC, outside=asked, proxy_mode="nft")
    wanted = [
        *("--proxy-mode", "nft", "--address-pool", "192.168.0.240/28", "--announce", "bgp"),
        *("--bgp-as", "64600", "--bgp-peer", "192.168.0.1=64513", "--bgp-peer", "192.168.0.2"),
    ]
    for one in plans(spec, MADE).values():
        line = words(one)
        start = line.index("--proxy-mode")
        assert line[start : start + len(wanted)] == wanted
    assert "--announce" not in words(plans(SPEC, MADE)[MASTERS[0]])


def test_masters_share_an_etcd_and_their_own_member_comes_first() -> None:
    one = plans(SPEC, MADE)[MASTERS[1]]
    line = words(one)
    endpoints = [line[place + 1] for place, word in enumerate(line) if word == "--etcd"]
    assert endpoints[0] == "https://192.168.0.11:2379"
    assert sorted(endpoints) == [f"https://{address}:2379" for address in MASTERS]
    peers = ",".join(f"{address}=https://{address}:2380" for address in MASTERS)
    assert f"--initial-cluster={peers}" in one.etcd_first
    assert "--initial-cluster-state=new" in one.etcd_first
    for flag in ("--client-cert-auth=true", "--peer-client-cert-auth=true", "--max-txn-ops=10000"):
        assert flag in one.etcd_flags
    assert not [flag for flag in one.etcd_flags if "http://" in flag]


def test_a_master_that_joins_an_etcd_that_runs_says_so() -> None:
    made = replace(MADE, joining=frozenset([MASTERS[2]]))
    joining, old = plans(SPEC, made)[MASTERS[2]], plans(SPEC, made)[MASTERS[0]]
    assert "--initial-cluster-state=existing" in joining.etcd_first
    assert f"{MASTERS[2]}=" in joining.etcd_first[0]
    assert f"{MASTERS[2]}=" not in old.etcd_first[0]


def test_a_minion_gets_the_token_and_none_of_the_masters_keys() -> None:
    one = plans(SPEC, MADE)[MINION.address]
    assert one.shared is None
    assert (one.etcd, one.etcd_flags) == ("", [])
    assert b"PRIVATE KEY" not in one.encoded()
    line = words(one)
    assert "--token" not in line
    assert MADE.token not in line
    assert line[line.index("--token-file") + 1] == "/etc/k8slite/join.token"
    servers = [line[place + 1] for place, word in enumerate(line) if word == "--server"]
    assert servers == [f"https://{address}:6443" for address in MASTERS]
    assert "--insecure-allow" not in line


def test_no_secret_is_in_a_command_line() -> None:
    for one in plans(SPEC, MADE).values():
        line = " ".join([*words(one), *one.etcd_flags, *one.etcd_first])
        assert MADE.token.partition(".")[2] not in line
        assert "PRIVATE" not in line


def test_the_plain_port_serves_the_machine_that_installed() -> None:
    assert settings_of(plans(SPEC, MADE)[MASTERS[0]].settings).insecure_allow == (
        "192.168.0.100/32",
    )
    made = plans(SPEC, replace(MADE, installer={}))[MASTERS[0]]
    assert settings_of(made.settings).insecure_allow == ()
    assert made.installer == ""


def test_the_embedded_store_needs_no_etcd() -> None:
    spec = ClusterSpec((NodeSpec("", "192.168.0.10", "ai"),), store="sqlite")
    one = plans(spec, replace(MADE, etcd=""))["192.168.0.10"]
    assert one.etcd == ""
    assert settings_of(one.settings).store == Settings().store == "sqlite"


def test_a_node_that_left_is_forgotten() -> None:
    one = plans(SPEC, MADE)[MASTERS[0]].without(MINION.address)
    assert [node["address"] for node in one.nodes] == list(MASTERS)


def test_what_masters_share_is_found_again_on_any_of_them() -> None:
    clock = Clock()
    authority = credentials.authority_of(SHARED, clock)
    answer = "".join(
        f"@@{name}\n{text.strip()}\n"
        for name, text in {
            "ca.crt": authority.certificate_pem.decode(),
            "ca.key": authority.key_pem.decode(),
            "service-account.key": authority.key_pem.decode(),
            "admin.token": "a-token",
            "join.token": "j-token",
            "etcd-ca.crt": SHARED.etcd_certificate,
            "etcd-ca.key": SHARED.etcd_key,
        }.items()
    )
    found = credentials.parse(answer, clock)
    assert found is not None
    assert found.etcd_certificate == SHARED.etcd_certificate
    assert credentials.join_token(found, clock) == f"{authority.fingerprint}.j-token"
    assert credentials.parse(answer.replace("@@ca.key", "@@other"), clock) is None
    assert credentials.parse("", clock) is None
