"""Flags that cannot be honoured: one line that names flag and mend, before anything began."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8slite.cli.main import run
from k8slite.config import Settings
from k8slite.network.routes import Uplink
from k8slite.preflight import BadSettings, HostTaken, host_claim, host_holder, resolve

ADDRESS = "192.168.0.10"


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for a host at the article's address, whatever those of this machine are."""
    monkeypatch.setattr("k8slite.preflight.is_own", lambda address: address == ADDRESS)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return Settings(data_dir=tmp_path / "data", node_ip=ADDRESS)


def test_the_node_is_named_by_its_address_unless_said_otherwise(good: Settings) -> None:
    assert resolve(good).node_name == ADDRESS
    assert resolve(replace(good, node_name="first")).node_name == "first"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roles": "x"}, "--roles x"),
        ({"roles": "i"}, "--roles i"),
        ({"roles": "i", "server": ("http://h:6443",)}, "--server 'http://h:6443': write it as"),
        ({"roles": "i", "server": ("https://h:6443",)}, "to join, this node needs a token"),
        (
            {"roles": "i", "server": ("https://h:6443",), "token_file": Path("/nowhere")},
            "--token-file /nowhere cannot be read",
        ),
        ({"server": ("https://h:6443",)}, "only a node alone (--roles i) joins a master"),
        ({"store": "floppy"}, "--store floppy: sqlite, memory or etcd"),
        ({"store": "etcd"}, "--store etcd: where is it?"),
        ({"etcd": ("http://h:2379",)}, "--store sqlite and --etcd: one of them"),
        ({"store": "etcd", "etcd": ("h:2379",)}, "--etcd 'h:2379': write it as"),
        ({"store": "etcd", "etcd": ("http://h:1", "https://h:2")}, "all endpoints speak http"),
        (
            {"store": "etcd", "etcd": ("https://h:1",), "etcd_cert": Path("/etc/passwd")},
            "a certificate needs its key",
        ),
        (
            {"store": "etcd", "etcd": ("https://h:1",), "etcd_ca": Path("/nowhere/ca.crt")},
            "--etcd-ca /nowhere/ca.crt cannot be read",
        ),
        (
            {"store": "etcd", "etcd": ("https://h:1",), "etcd_user": "u"},
            "give --etcd-password-file",
        ),
        ({"overlay": "carrier-pigeon"}, "--overlay carrier-pigeon: vxlan, host-gw or none"),
        ({"node_ip": "300.1.1.1"}, "--node-ip '300.1.1.1' is no IPv4 address"),
        ({"node_ip": "fe80::1"}, "--node-ip 'fe80::1' is no IPv4 address"),
        ({"node_ip": "0.0.0.0"}, "--node-ip 0.0.0.0 is no address of this machine"),
        ({"node_ip": "203.0.113.9"}, "--node-ip 203.0.113.9 is no address of this machine"),
        ({"node_ip": "127.0.0.1"}, "--node-ip 127.0.0.1: pods and portals cannot reach loopback"),
        ({"node_name": "Bad_Name"}, "--node-name 'Bad_Name' is no DNS name"),
        ({"address_pool": ("here",)}, "--address-pool 'here': "),
        ({"address_pool": ("192.168.0.8/29",)}, "holds this node's address 192.168.0.10: leave"),
        ({"address_pool": ("192.168.3.0/28",)}, "overlaps --portal-net 192.168.3.0/24"),
        ({"announce": "shout"}, "--announce 'shout': arp, bgp or none"),
        ({"bgp_as": 0}, "--bgp-as 0: an AS number is from 1 to 4294967294"),
        ({"bgp_peer": ("192.168.0.1",)}, "told nothing without --announce bgp"),
        ({"announce": "bgp", "bgp_peer": ("me",)}, "--bgp-peer 'me': write a router as"),
        ({"announce": "bgp", "bgp_peer": ("10.0.0.1=x",)}, "an AS number is from 1 to"),
        (
            {"announce": "bgp", "address_pool": ("10.9.0.0/28",)},
            "--announce bgp: to which routers? give --bgp-peer",
        ),
        ({"portal_net": "1.2.3"}, "--portal-net 1.2.3: "),
        ({"portal_net": "192.168.3.7/24"}, "--portal-net 192.168.3.7/24: "),
        ({"portal_net": "fd00::/64"}, "--portal-net fd00::/64: "),
        ({"portal_net": "192.168.3.0/31"}, "--portal-net 192.168.3.0/31: too small"),
        ({"portal_net": "172.16.9.0/24"}, "overlaps --flannel-net"),
        ({"flannel_net": "172.16.0.0/30"}, "--flannel-net 172.16.0.0/30: too small"),
        ({"insecure_allow": ("everybody",)}, "--insecure-allow 'everybody': a network"),
        ({"port": 0}, "--port 0: a port is a number from 1 to 65535"),
        ({"secure_port": 99999}, "--secure-port 99999: a port is a number"),
        ({"node_port": -1}, "--node-port -1: a port is a number"),
        ({"port": 6443}, "--secure-port 6443 is --port already"),
        ({"node_grace": -1.0}, "--node-grace -1.0: seconds, more than 0"),
        ({"eviction_timeout": float("nan")}, "--eviction-timeout nan: seconds, more than 0"),
        ({"warm_sandboxes": -5}, "--warm-sandboxes -5: from 0 to 100"),
        ({"docker_host": "/var/run/docker.sock"}, "--docker-host '/var/run/docker.sock': unix://"),
        ({"data_dir": Path("/proc/nothing")}, "--data-dir /proc/nothing cannot be made"),
        ({"data_dir": Path("/etc/passwd")}, "--data-dir /etc/passwd is no folder"),
        ({"manifests": Path("/etc/passwd")}, "--manifests /etc/passwd is no folder"),
    ],
)
def test_each_flag_that_cannot_be_is_named(
    good: Settings, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadSettings) as caught:
        resolve(replace(good, **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_nodes_own_address_is_in_no_network_of_the_cluster(good: Settings) -> None:
    for net in ({"portal_net": "192.168.0.0/24"}, {"flannel_net": "192.168.0.0/23"}):
        with pytest.raises(BadSettings, match=f"holds the node's own address {ADDRESS}"):
            resolve(replace(good, **net))


def test_a_node_is_roots_and_a_control_plane_anybodys(
    good: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(BadSettings, match=r"--roles ai: .*run with sudo, or --roles a"):
        resolve(good)
    resolve(replace(good, roles="a"))


def test_ipv6_addresses_need_ipv6_on_the_nodes_interface(
    good: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8slite.preflight.find_uplink", lambda address: Uplink("eth7", "", 1500))
    with pytest.raises(BadSettings, match=r"fd00::/124: IPv6 is off on eth7: turn it on"):
        resolve(replace(good, address_pool=("10.9.0.0/28", "fd00::/124")))
    resolve(replace(good, address_pool=("10.9.0.0/28",)))
    resolve(replace(good, address_pool=("fd00::/124",), announce="none"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("agnet",), "No such command 'agnet'. Did you mean 'agent'?"),
        (("up", "--quux"), "No such option: --quux; see `k8slite up --help`"),
        (("up", "--port"), "Option '--port' requires an argument"),
        (("up", "--port", "abc"), "Invalid value for '--port'"),
        (("agent", "extra"), "unexpected extra argument(s) (extra)"),
        (("down", "--quux"), "No such option: --quux"),
        (("up", "--portal-net", "all", "--data-dir", "DIR"), "--portal-net all: "),
        (("up", "--data-dir", "/etc/passwd"), "--data-dir /etc/passwd is no folder"),
        (("agent", "--log-level", "loud", "--data-dir", "DIR"), "log level 'loud' is none of"),
        (("down", "--data-dir", "/etc/passwd"), "/etc/passwd/host.json cannot be read"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_1(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(tmp_path) if word == "DIR" else word for word in words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def test_one_agent_has_a_host_and_the_next_is_told_which() -> None:
    if host_holder():
        pytest.fail("an agent runs on this machine: bring it down before the tests")
    with host_claim():
        holder = host_holder()
        assert holder
        with pytest.raises(HostTaken, match=f"another agent .pid {holder}. is this host's node"):
            with host_claim():
                pass
    assert host_holder() == 0
    with host_claim():
        pass
