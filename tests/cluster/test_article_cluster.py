"""The article from end to end: three machines, one file, one command; and back without a trace."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from tests.article.article_tables import golden, tables
from tests.cluster.article_site import ARTICLE, CONFIG, Conf, containers, lasting
from tests.cluster.article_site import views as views_of
from tests.lab.lab import Lab, lab
from tests.lab.registry import Registry

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

WELCOME = "<h1>Welcome to nginx!</h1>"
ADDRESSES = ["192.168.0.10", "192.168.0.11", "192.168.0.12"]

REBOOTED = "node2"

# These tests follow one another, as one reads the article.


@pytest.fixture(scope="module")
def site() -> Iterator[Lab]:
    with lab(sudo_asks=("node2",)) as made:
        yield made


@pytest.fixture(scope="module")
def conf(site: Lab) -> Conf:
    return Conf(site)


@pytest.fixture(scope="module")
def before(site: Lab) -> dict[str, dict[str, str]]:
    return {node.name: views_of(node) for node in site.nodes}


@pytest.fixture(scope="module")
def screen(conf: Conf, before: dict[str, dict[str, str]]) -> str:
    return conf.k8slite("up", "-c", CONFIG)


@pytest.fixture(scope="module")
def portal(conf: Conf, screen: str) -> str:
    """Six nginx behind one service; its address."""
    conf.ctl("run-container", "nginx", "--port=80", "--port=443", "--image=nginx", "--replicas=6")
    conf.ctl("expose", "rc", "nginx", "--port=80", "--target-port=80", "--service-name=nginx-http")
    conf.until(lambda: phases(conf) == ["Running"] * 6, "runs six nginx")
    address = "jsonpath={.spec.clusterIP}"
    return conf.ctl("get", "service", "nginx-http", "-o", address).strip()


def phases(conf: Conf) -> list[str]:
    return conf.ctl("get", "pods", "-o", "jsonpath={.items[*].status.phase}").split()


def spread(conf: Conf) -> dict[str, int]:
    """Node → number of its pods."""
    hosts = conf.ctl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}").split()
    return {host: hosts.count(host) for host in hosts}


def test_validate_before_there_is_anything_changes_nothing(
    site: Lab, conf: Conf, before: dict[str, dict[str, str]]
) -> None:
    said = conf.k8slite("validate", "-c", CONFIG)
    assert "3 hosts are fit for their parts" in said
    assert "There is no cluster on them yet" in said
    assert {node.name: views_of(node) for node in site.nodes} == before


def test_up_prints_the_articles_lines_in_their_order(screen: str) -> None:
    expected = [
        "Starting cluster using provider: ubuntu",
        "... calling verify-prereqs",
        "... calling kube-up",
        "Deploying master and minion on machine 192.168.0.10",
        "Deploying minion on machine 192.168.0.11",
        "Deploying minion on machine 192.168.0.12",
        "Validating master",
        "Validating core@192.168.0.10",
        "Validating core@192.168.0.11",
        "Validating core@192.168.0.12",
        "Kubernetes cluster is running.  The master is running at:",
        "  http://192.168.0.10",
        "... calling validate-cluster",
        "Found 3 nodes.",
        "     1\tNAME           LABELS    STATUS",
        "     2\t192.168.0.10   <none>    Ready",
        "     3\t192.168.0.11   <none>    Ready",
        "     4\t192.168.0.12   <none>    Ready",
        "Validate output:",
        "Cluster validation succeeded",
        "Done, listing cluster services:",
        "Kubernetes master is running at http://192.168.0.10:8080",
    ]
    lines = screen.splitlines()
    places = [lines.index(line) for line in expected]
    assert places == sorted(places)
    (components,) = tables("\n".join(lines[places[18] + 1 : places[19]]))
    assert components.titles == ("NAME", "STATUS", "MESSAGE", "ERROR")
    assert components.column("NAME") == ["etcd-0", "controller-manager", "scheduler"]
    assert components.column("STATUS") == ["Healthy"] * 3


def test_the_articles_first_tables(conf: Conf, screen: str) -> None:
    ours = tables(conf.ctl("get", "services,minions"))
    articles = golden("services_minions")
    assert [table.titles for table in ours] == [table.titles for table in articles]
    assert [table.kinds_of_rows for table in ours] == [table.kinds_of_rows for table in articles]
    assert ours[1].column("NAME") == ADDRESSES


def test_six_nginx_run_on_three_nodes(conf: Conf, portal: str) -> None:
    assert spread(conf) == dict.fromkeys(ADDRESSES, 2)


def test_the_portal_answers_on_every_node(site: Lab, portal: str) -> None:
    for node in site.nodes:
        for _ in range(6):  # each of the six, wherever it runs
            assert WELCOME in node.run("curl", "-fsS", "--max-time", "5", f"http://{portal}/")


def test_pods_reach_pods_on_other_nodes(site: Lab, conf: Conf, portal: str) -> None:
    addresses = conf.ctl("get", "pods", "-o", "jsonpath={.items[*].status.podIP}").split()
    assert len(set(addresses)) == 6
    assert len({address.rpartition(".")[0] for address in addresses}) == 3
    for node in site.nodes:
        (first, *_) = containers(node)
        for address in (*addresses, portal):
            page = node.docker("exec", first, "wget", "-q", "-O-", f"http://{address}/")
            assert WELCOME in page


def test_docker_opts_let_nodes_pull_from_the_sites_registry(
    site: Lab, conf: Conf, portal: str
) -> None:
    registry = Registry(site.conf)
    registry.start()
    image = registry.push(site.nodes[0], "busybox:latest")
    for number, node in enumerate(site.nodes):
        node.docker("pull", image)
        assert node.docker("inspect", "--format", "{{len .RootFS.Layers}}", image) == "1", number
        node.docker("rmi", image)


def test_the_kubeconfig_opens_the_door_that_needs_a_credential(conf: Conf, screen: str) -> None:
    assert "The context k8slite was written to /root/.kube/config" in screen
    assert conf.k8slite("ctl", "get", "nodes", "-o", "name").split() == [
        f"node/{address}" for address in ADDRESSES
    ]
    server = conf.k8slite("ctl", "config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
    assert server.strip() == "https://192.168.0.10:6443"
    answer = conf.host.run("curl", "-ksS", "https://192.168.0.10:6443/api/v1/nodes")
    assert "Unauthorized" in answer


def test_up_again_finds_nothing_to_do(site: Lab, conf: Conf, portal: str) -> None:
    running = {node.name: (containers(node), node.pids("agent")) for node in site.nodes}
    said = conf.k8slite("up", "-c", CONFIG)
    assert "every host is as it shall be already: nothing to change" in said
    assert "Cluster validation succeeded" in said
    assert {n.name: (containers(n), n.pids("agent")) for n in site.nodes} == running


def test_a_node_can_take_the_place_of_conf(site: Lab, conf: Conf, portal: str) -> None:
    """What travelled there travels on, the same to the byte: so there is nothing to do."""
    node = site["node1"]
    node.path("/root/.ssh").mkdir(exist_ok=True)
    for name in (".ssh/id_ed25519", ".ssh/known_hosts", "config-default.sh"):
        shutil.copy(conf.host.path(f"/root/{name}"), node.path(f"/root/{name}"))
    up = "env K8SLITE_SUDO_PASSWORD=core /opt/k8slite/bin/k8slite up -c /root/config-default.sh"
    assert "nothing to change" in node.sh(up)
    node.sh("rm -r /root/.cache /root/.kube /root/.ssh /root/config-default.sh")


def test_validate_of_a_cluster_that_stands(conf: Conf, portal: str) -> None:
    assert "Cluster validation succeeded" in conf.k8slite("validate", "-c", CONFIG)


def test_a_node_that_reboots_comes_back_by_itself(site: Lab, conf: Conf, portal: str) -> None:
    node = site[REBOOTED]
    node.reboot()
    conf.until(lambda: bool(node.pids("agent")), "starts the agent when it boots")
    conf.until(lambda: len(containers(node)) == 2, "runs its pods again")


def test_an_upgrade_renews_every_node_and_leaves_pods_running(
    site: Lab, conf: Conf, portal: str
) -> None:
    running = {node.name: containers(node) for node in site.nodes}
    agents = {node.name: node.pids("agent") for node in site.nodes}
    said = conf.k8slite("upgrade", "-c", CONFIG, PYTHONPATH=conf.next_version())
    lines = [line for line in said.splitlines() if line.endswith("agent started again")]
    assert [re.findall(r"[\d.]{9,}\d", line)[0] for line in lines] == ADDRESSES
    assert "Cluster validation succeeded" in said
    assert {node.name: containers(node) for node in site.nodes} == running
    assert not any(set(node.pids("agent")) & set(agents[node.name]) for node in site.nodes)
    for node in site.nodes:
        assert node.sh("ls /opt/k8slite | grep -cE '^[0-9a-f]{16}$'").strip() == "1"


def test_a_node_leaves_without_a_trace_and_its_pods_go_on_elsewhere(
    site: Lab, conf: Conf, portal: str, before: dict[str, dict[str, str]]
) -> None:
    said = conf.k8slite("remove-node", "192.168.0.12", "-c", CONFIG)
    assert "2 pods moved away" in said
    assert views_of(site["node3"]) == before["node3"]
    conf.until(lambda: phases(conf) == ["Running"] * 6, "runs six nginx")
    assert sorted(spread(conf)) == ADDRESSES[:2]
    assert len(conf.ctl("get", "nodes", "-o", "name").split()) == 2


def test_a_node_joins_a_cluster_that_stands(site: Lab, conf: Conf, portal: str) -> None:
    two = ARTICLE.replace(" core@192.168.0.12", "").replace('"i" "i"', '"i"').replace("-3", "-2")
    conf.write("/root/two.sh", two)
    said = conf.k8slite("add-node", "core@192.168.0.12", "--roles=i", "-c", "/root/two.sh")
    assert "Found 3 nodes." in said
    assert "In /root/two.sh, add it to nodes and i to roles." in said
    assert WELCOME in site["node3"].run("curl", "-fsS", "--max-time", "5", f"http://{portal}/")


def test_down_leaves_every_host_as_it_was(
    site: Lab, conf: Conf, portal: str, before: dict[str, dict[str, str]]
) -> None:
    # node3 is not in this file: the master knows of it.
    said = conf.k8slite("down", "-c", "/root/two.sh")
    assert "Done: every host is as it was found." in said
    for node in site.nodes:
        now, was = views_of(node), before[node.name]
        if node.name == REBOOTED:
            now, was = lasting(now), lasting(was)
        assert now == was
    assert "context k8slite removed" in said
    assert "k8slite" not in conf.host.sh("cat /root/.kube/config")
