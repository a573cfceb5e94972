"""The overlay beside real Docker engines, with their FORWARD policy and isolation chains."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.lab.docker_host import DockerHost
from tests.lab.network import Switch
from tests.netfilter.sites import Site
from tests.network.hosts import Host, until

from k8slite.network.routes import pod_mtu
from k8slite.network.uplink import NoUplink, find_uplink
from k8slite.roles.kubelet.docker import network
from k8slite.roles.kubelet.docker.engine import connected
from k8slite.roles.kubelet.runtime import RuntimeFailure

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
MTU = "com.docker.network.driver.mtu"


@dataclass
class Granted:
    """The cluster's part: it grants what it has decided."""

    cidr: str

    async def claim(self, have: str, taken: Iterable[str]) -> str:
        return self.cidr


class Dockered(Host):
    """A host whose bridge is Docker's."""

    docker: DockerHost

    def bridge(self) -> None:
        self.ensure(self.cidr, pod_mtu(self.settings.overlay, 1500))

    def ensure(self, cidr: str, mtu: int) -> str:
        async def ensure() -> str:
            async with connected(self.docker.url) as docker:
                version = await docker.version()
                options = network.options(version["ApiVersion"], mtu)
                return await network.ensure(docker, "k8slite", Granted(cidr), options)

        return asyncio.run(ensure())

    def inspect(self) -> dict[str, str]:
        found = json.loads(self.docker.docker("network", "inspect", "k8slite"))[0]
        return {**found["Options"], "cidr": found["IPAM"]["Config"][0]["Subnet"], "id": found["Id"]}

    def run(self, name: str) -> None:
        serve = "echo here > /tmp/index.html; httpd -f -p 80 -h /tmp"
        self.docker.docker("run", "-d", "--rm", "--name", name, "--network", "k8slite",
                           "busybox:1", "sh", "-c", serve)  # fmt: skip

    def fetch(self, name: str, address: str) -> bool:
        """Whether the container gets a page from ``address``."""
        try:
            self.docker.docker("exec", name, "ping", "-c", "1", "-W", "1", address)
            page = self.docker.docker("exec", name, "wget", "-O", "-", f"http://{address}/")
        except AssertionError:
            return False
        return page == "here"


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Dockered]]:
    directory = Path(tempfile.mkdtemp(prefix="k8slite-"))  # a short path, for sockets
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        switch = stack.enter_context(Switch())
        made = []
        for number in range(2):
            site = stack.enter_context(Site(f"n{number}"))
            host = Dockered(number, site, directory, "vxlan")
            switch.connect(site, f"{host.address}/24")
            host.docker = stack.enter_context(DockerHost(site, directory / f"d{number}"))
            host.docker.import_busybox("busybox:1")
            made.append(host)
        yield made


def test_containers_reach_each_other_through_dockers_rules_and_its_restart(
    hosts: list[Dockered],
) -> None:
    one, two = hosts
    for host in hosts:
        # Docker's rules of isolation stand between this network and k8slite's.
        host.docker.docker("network", "create", "other")
        host.bridge()
        host.run("web")
    assert ":FORWARD DROP" in one.site.run("iptables-save")
    try:
        for host in hosts:
            host.start()
            for other in hosts:
                host.tell(other, other.node())
        until(lambda: one.fetch("web", "172.16.1.2"))
        until(lambda: two.fetch("web", "172.16.0.2"))
        one.docker.docker("network", "create", "third")  # Docker puts its rules first again
        one.docker.stop()
        one.docker.start()
        one.run("again")
        until(lambda: one.fetch("again", "172.16.1.2"), 30)
        until(lambda: two.fetch("web", _address(one, "again")), 30)
        first = next(
            line
            for line in one.site.run("iptables-save", "-t", "filter").splitlines()
            if line.startswith("-A FORWARD")
        )
        assert first == "-A FORWARD -j K8SLITE-FORWARD"
        assert two.overlay.trouble == one.overlay.trouble == ""
    finally:
        for host in hosts:
            host.stop()
            host.remove()
            containers = host.docker.docker("ps", "-aq").split()
            if containers:
                host.docker.docker("rm", "-f", *containers)
            assert "K8SLITE" not in host.site.run("iptables-save")


def _address(host: Dockered, name: str) -> str:
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return host.docker.docker("inspect", "-f", template, name)


def test_only_the_node_masquerades(hosts: list[Dockered]) -> None:
    host = hosts[0]
    assert host.ensure(host.cidr, 1450) == host.cidr
    assert host.inspect()[MASQUERADE] == "false"
    assert host.inspect()[MTU] == "1450"
    assert "172.16.0.0/24 ! -o k8slite0 -j MASQUERADE" not in host.site.run("iptables-save")


def test_a_network_with_wrong_options_or_address_is_replaced_once_no_pod_uses_it(
    hosts: list[Dockered],
) -> None:
    host = hosts[0]
    docker = host.docker
    docker.docker("network", "rm", "k8slite")
    docker.docker(
        "network", "create", "k8slite", "--subnet", "172.16.0.0/24", "--label",
        "io.k8slite.kind=network", "-o", "com.docker.network.bridge.name=k8slite0",
    )  # fmt: skip
    before = host.inspect()
    host.run("web")
    assert host.ensure("172.16.0.0/24", 1450) == "172.16.0.0/24"
    assert host.inspect() == before  # it is in use: the pod is worth more than the options
    with pytest.raises(RuntimeFailure, match=r"pods are to have 172\.16\.5\.0/24.* web is in it"):
        host.ensure("172.16.5.0/24", 1450)
    assert host.inspect() == before
    docker.docker("rm", "-f", "web")
    docker.docker("run", "-d", "--name", "k8s_POD.warm_0badcafe", "--network", "k8slite",
                  "busybox:1", "sleep", "1000")  # fmt: skip
    assert host.ensure("172.16.0.0/24", 1450) == "172.16.0.0/24"
    assert host.inspect()[MASQUERADE] == "false"
    kept = host.inspect()["id"]
    assert host.ensure("172.16.0.0/24", 1450) == "172.16.0.0/24"
    assert host.inspect()["id"] == kept  # right: left alone
    assert host.ensure("172.16.5.0/24", 1450) == "172.16.5.0/24"
    assert host.inspect()["cidr"] == "172.16.5.0/24"
    assert docker.docker("ps", "-aq") == ""


def test_an_engine_that_guards_its_containers_is_told_that_pods_are_routed_to() -> None:
    mode = "com.docker.network.bridge.gateway_mode_ipv4"
    assert mode not in network.options("1.41", 1450)
    assert mode not in network.options("1.47", 1450)
    assert network.options("1.48", 1450)[mode] == "nat-unprotected"
    assert network.options("1.51", 0).keys() & {MTU} == set()


def test_the_uplink_is_the_interface_that_has_the_nodes_address(hosts: list[Dockered]) -> None:
    site = hosts[0].site
    site.ip("addr", "add", "10.44.0.1/28", "dev", "eth0")
    site.ip("link", "set", "eth0", "mtu", "1400")
    try:

        async def find(address: str) -> tuple[str, str, int]:
            return find_uplink(address)

        assert site.do(find("10.44.0.1")) == ("eth0", "10.44.0.1/28", 1400)
        assert site.do(find("192.168.0.10")) == ("eth0", "192.168.0.10/24", 1400)
        with pytest.raises(NoUplink, match=r"no interface has the node's address 10\.44\.0\.9"):
            site.do(find("10.44.0.9"))
    finally:
        site.ip("link", "set", "eth0", "mtu", "1500")
        site.ip("addr", "del", "10.44.0.1/28", "dev", "eth0")
