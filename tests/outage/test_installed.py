"""Three masters as `k8slite up -c` installs them: what dies is back without anybody's help."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from tests.cluster.article_site import ARTICLE, CONFIG, Conf
from tests.lab.host import Host
from tests.lab.lab import lab
from tests.outage.cluster import API_BACK, API_WATCHED, SCHEDULING_BACK, Cluster
from tests.outage.history import longest_silence

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

MASTERS = ARTICLE.replace('("ai" "i" "i")', '("ai" "ai" "ai")')
_LEADS = re.compile(r"^timestamp=(\S+) .*role=election event=leads ", re.MULTILINE)


class Installed(Cluster):
    """etcd with certificates, agents under a loop that starts them again."""

    def start(self) -> None:
        conf = Conf(self.lab)
        conf.write(CONFIG, MASTERS)
        conf.k8slite("up", "-c", CONFIG)
        self.wait_whole()

    def leader(self) -> Host | None:
        """Who said last, in its log, that it leads."""
        found = {}
        for node in self.nodes:
            log = node.path("/var/log/k8slite/k8slite.log").read_text(errors="replace")
            if said := _LEADS.findall(log):
                found[said[-1]] = node
        return found[max(found)] if found else None

    def wait_whole(self) -> None:
        self.until(lambda: self.healthy() == 5, "three members of etcd and both managers are well")
        names = {node.address for node in self.nodes}
        self.until(lambda: self.ready() == dict.fromkeys(names, True), "all nodes are ready")
        for node in self.nodes:
            self.until(lambda node=node: self.serves(node), f"{node.name} serves the API")

    def healthy(self) -> int:
        """How many components are."""
        items = self.ask("GET", "/api/v1/componentstatuses")["items"]
        states = [c["status"] for item in items for c in item["conditions"]]
        return states.count("True") if set(states) == {"True"} else 0


@pytest.fixture(scope="module")
def masters() -> Iterator[Cluster]:
    with lab() as machines:
        made = Installed(machines)
        made.start()
        yield made


def test_the_leading_master_is_killed_and_back_by_itself(cluster: Cluster) -> None:
    leader = cluster.leader()
    assert leader is not None
    with cluster.witnessed() as witness:
        died = time.monotonic()
        leader.kill("agent")
        cluster.make_pod(witness.namespace, "probe")
        cluster.until(lambda: cluster.is_bound(witness.namespace, "probe"), "scheduling is back")
        assert time.monotonic() - died <= 2 * SCHEDULING_BACK
        until = max(time.monotonic(), died + API_WATCHED)
        cluster.until(lambda: time.monotonic() > until, "the API had its time")
        assert longest_silence(witness.history, died, until) <= 2 * API_BACK
        cluster.wait_whole()


def test_a_member_of_etcd_is_killed_and_back_by_itself(cluster: Cluster) -> None:
    with cluster.witnessed() as witness:
        died = time.monotonic()
        cluster.nodes[0].kill("etcd")
        until = died + API_WATCHED
        cluster.until(lambda: time.monotonic() > until, "the others had their time")
        assert longest_silence(witness.history, died, until) <= 2 * API_BACK
        cluster.wait_whole()


def test_the_leading_machine_is_rebooted_and_back_by_itself(cluster: Cluster) -> None:
    leader = cluster.leader()
    assert leader is not None
    with cluster.witnessed() as witness:
        leader.reboot()
        cluster.wait_whole()
        cluster.until(lambda: cluster.running(witness.namespace), "all pods run again")
        cluster.until(lambda: cluster.runs_each_pod_once(witness.namespace), "every pod runs once")
