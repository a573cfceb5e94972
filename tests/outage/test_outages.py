"""Whatever dies, what was acknowledged is there and the cluster goes on.

Each test holds a witness (see ``Cluster.witnessed``): it fails when an acknowledged write is lost,
a deleted object comes back, or the watch misses, repeats or disorders anything.
"""

from __future__ import annotations

import time

import pytest
from tests.lab.host import Host
from tests.outage.cluster import (
    API_BACK,
    API_WATCHED,
    ETCD_DISK,
    EVICTION,
    GRACE,
    SCHEDULING_BACK,
    Cluster,
)
from tests.outage.history import longest_silence

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

FREEZE = 60.0
#: Seconds for what the settings let take GRACE + EVICTION.
REPLACED = GRACE + EVICTION + 85


def test_the_leading_master_is_killed(cluster: Cluster) -> None:
    leader = cluster.leader()
    assert leader is not None
    with cluster.witnessed() as witness:
        died = time.monotonic()
        leader.kill("agent")
        cluster.make_pod(witness.namespace, "probe")
        cluster.until(lambda: cluster.is_bound(witness.namespace, "probe"), "scheduling is back")
        assert time.monotonic() - died <= 2 * SCHEDULING_BACK
        assert cluster.leader() not in (None, leader)
        until = max(time.monotonic(), died + API_WATCHED)
        cluster.until(lambda: time.monotonic() > until, "the API had its time")
        assert longest_silence(witness.history, died, until) <= 2 * API_BACK
        leader.start("agent")
        cluster.wait_whole()


def test_a_member_of_etcd_is_killed_and_comes_back(cluster: Cluster) -> None:
    member = next(node for node in cluster.nodes if cluster.etcd_leads(node))  # the worst one
    with cluster.witnessed() as witness:
        died = time.monotonic()
        member.kill("etcd")
        until = died + API_WATCHED
        cluster.until(lambda: time.monotonic() > until, "the others had their time")
        assert longest_silence(witness.history, died, until) <= 2 * API_BACK
        assert not cluster.etcd_healthy(member)
        member.start("etcd")
        cluster.wait_whole()


def test_a_master_that_is_frozen_for_a_minute_is_replaced_and_does_no_harm_when_it_thaws(
    cluster: Cluster,
) -> None:
    leader = cluster.leader()
    assert leader is not None
    with cluster.witnessed() as witness:
        space = witness.namespace
        cluster.until(lambda: bool(cluster.pods_on(leader, space)), "pods run on the leader")
        before = cluster.pods_on(leader, space)
        leader.freeze("agent")
        frozen = time.monotonic()
        cluster.until(lambda: cluster.leader() not in (None, leader), "another master leads", 30)
        cluster.until(lambda: not cluster.ready()[leader.address], "its node is not ready")
        # The pods there cannot end, for nobody is there to end them; others run in their place.
        cluster.until(lambda: cluster.running(space, off=leader), "pods are replaced", REPLACED)
        assert before <= cluster.pods_on(leader, space)
        cluster.until(lambda: time.monotonic() > frozen + FREEZE, "the minute is over", FREEZE)
        leader.thaw("agent")
        cluster.wait_whole()
        cluster.until(lambda: cluster.runs_each_pod_once(space), "every pod runs once")
        assert not before & set(cluster.containers(space))


def test_a_node_that_is_cut_off_is_replaced_and_runs_no_pod_twice_when_healed(
    cluster: Cluster,
) -> None:
    with cluster.witnessed() as witness:
        space = witness.namespace
        node = _with_pods(cluster, space)
        before = cluster.pods_on(node, space)
        node.cut()
        cluster.until(lambda: not cluster.ready()[node.address], "its node is not ready")
        cluster.until(lambda: cluster.running(space, off=node), "pods are replaced", REPLACED)
        # Cut off, it goes on with what it has.
        assert before <= cluster.pods_on(node, space)
        node.heal()
        cluster.wait_whole()
        cluster.until(lambda: cluster.runs_each_pod_once(space), "every pod runs once")
        assert not before & set(cluster.containers(space))


def test_docker_restarts_on_a_node(cluster: Cluster) -> None:
    with cluster.witnessed() as witness:
        space = witness.namespace
        node = _with_pods(cluster, space)
        node.restart_docker()
        cluster.until(lambda: cluster.running(space), "all pods run again")
        cluster.until(lambda: cluster.runs_each_pod_once(space), "every pod runs once")


def test_a_node_is_rebooted(cluster: Cluster) -> None:
    with cluster.witnessed() as witness:
        space = witness.namespace
        node = _with_pods(cluster, space)
        node.reboot()
        cluster.wait_whole()
        cluster.until(lambda: cluster.running(space), "all pods run again")
        cluster.until(lambda: cluster.runs_each_pod_once(space), "every pod runs once")


def test_the_disk_of_a_member_of_etcd_is_full(cluster: Cluster) -> None:
    member = next(node for node in cluster.nodes if ETCD_DISK in node.disks)
    with cluster.witnessed() as witness:
        member.fill_disk(ETCD_DISK)
        filled = time.monotonic()
        cluster.write_until(lambda: not member.pids("etcd"), witness.namespace)
        cluster.until(lambda: time.monotonic() > filled + API_WATCHED, "the API had its time")
        assert longest_silence(witness.history, filled, time.monotonic()) <= 2 * API_BACK
        member.free_disk(ETCD_DISK)
        member.start("etcd")
        cluster.wait_whole()


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_the_clock_of_the_leading_master_jumps(cluster: Cluster, seconds: float) -> None:
    leader = cluster.leader()
    assert leader is not None
    with cluster.witnessed() as witness:
        space = witness.namespace
        pods = set(cluster.pods(space))
        leader.jump_clock(seconds)
        jumped = time.monotonic()
        while time.monotonic() < jumped + GRACE + 4:
            assert all(cluster.ready().values()), "a node was given up for a clock"
            time.sleep(0.5)
        assert pods & set(cluster.pods(space)), "all pods were replaced for a clock"
        cluster.make_pod(space, "probe")
        cluster.until(lambda: cluster.is_bound(space, "probe"), "it schedules", 2 * SCHEDULING_BACK)
        assert longest_silence(witness.history, jumped, time.monotonic()) <= 2 * API_BACK
        leader.jump_clock(0)
        cluster.wait_whole()


def _with_pods(cluster: Cluster, namespace: str) -> Host:
    """A node on which pods run, and which does not lead, if there is such a one."""
    leader = cluster.leader()
    busy = {name for where in cluster.containers(namespace).values() for name in where}
    nodes = [node for node in cluster.nodes if node.name in busy]
    return next((node for node in nodes if node is not leader), nodes[0])
