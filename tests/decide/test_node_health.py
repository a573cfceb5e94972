"""Silence, and what follows from it: conditions, pods, evictions, their pace."""

from __future__ import annotations

import msgspec
import pytest
from cluster_objects import node, pod

from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import Pod, Toleration
from k8slite.decide import nodehealth
from k8slite.kit.clock import rfc3339

NOW = 1_700_000_000.0


def silent(since: float = NOW) -> Node:
    return nodehealth.silenced(node("a"), since)


def test_a_silent_node_is_unknown_from_now_on() -> None:
    ready = nodehealth.condition(silent(), "Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.message, ready.last_transition_time) == (
        "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.", rfc3339(NOW),
    )  # fmt: skip
    assert nodehealth.unhealthy_since(silent()) == NOW


def test_saying_it_twice_changes_nothing() -> None:
    once = silent()
    assert nodehealth.silenced(once, NOW + 100) is once


def test_a_node_that_never_spoke_gets_the_condition() -> None:
    mute = msgspec.structs.replace(
        node("a"), status=msgspec.structs.replace(node("a").status, conditions=())
    )
    ready = nodehealth.condition(nodehealth.silenced(mute, NOW), "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("Unknown", "NodeStatusNeverUpdated")


def test_pods_of_a_silent_node_are_not_ready() -> None:
    marked = nodehealth.not_ready(pod("p", ready=True), NOW)
    assert marked.status.conditions[0].status == "False"
    assert nodehealth.not_ready(marked, NOW + 1) is marked


def test_pods_are_evicted_after_the_time_out_and_not_before() -> None:
    pods = [pod("p")]
    assert nodehealth.evictions(silent(), pods, NOW + 299, 300) == ([], 1)
    assert nodehealth.evictions(silent(), pods, NOW + 300, 300) == (pods, None)
    assert nodehealth.evictions(node("a"), pods, NOW + 300, 300) == ([], None)


def tolerant(seconds: int | None, key: str = "node.kubernetes.io/unreachable") -> Pod:
    toleration = Toleration(
        key=key, operator="Exists", effect="NoExecute", toleration_seconds=seconds
    )
    return pod("p", tolerations=(toleration,))


@pytest.mark.parametrize(
    ("wanted", "delay"),
    [
        (pod("p"), 300.0),
        (tolerant(10), 10),
        (tolerant(-1), 0),
        (tolerant(None), None),
        (tolerant(10, "node.kubernetes.io/not-ready"), 300.0),
    ],
)
def test_tolerations_say_how_long_a_pod_stays(wanted: Pod, delay: float | None) -> None:
    assert nodehealth.eviction_delay(wanted, silent(), 300) == delay


def test_mirrors_of_manifests_and_pods_that_leave_already_are_left_alone() -> None:
    leaving = pod("leaving", deleted=rfc3339(NOW))
    meta = msgspec.structs.replace(pod("mirror").metadata, annotations={nodehealth.MIRROR: "x"})
    mirror = msgspec.structs.replace(pod("mirror"), metadata=meta)
    assert nodehealth.evictions(silent(), [leaving, mirror], NOW + 1000, 300) == ([], None)


@pytest.mark.parametrize(
    ("nodes", "unhealthy", "rate"),
    [
        (10, 1, 0.1),
        (3, 2, 0.1),  # two of three: small numbers prove nothing
        (10, 6, 0.0),  # most of a small cluster
        (100, 60, 0.01),  # most of a large one
        (100, 100, 0.0),  # all: it is rather us
        (1, 1, 0.0),
    ],
)
def test_the_pace_slows_when_most_nodes_vanish(nodes: int, unhealthy: int, rate: float) -> None:
    assert nodehealth.eviction_rate(nodes, unhealthy) == rate


def test_a_burst_of_ten_then_one_in_ten_seconds() -> None:
    pace = nodehealth.Pace(at=NOW)
    for _ in range(10):
        pace, wait = pace.take(NOW, 0.1)
        assert wait == 0
    pace, wait = pace.take(NOW, 0.1)
    assert wait == pytest.approx(10)
    pace, wait = pace.take(NOW + 10, 0.1)
    assert wait == 0


def test_at_rate_zero_nobody_goes_and_nothing_is_saved_up() -> None:
    pace, wait = nodehealth.Pace(0.0, NOW).take(NOW + 1000, 0)
    assert wait is None
    assert pace.take(NOW + 1000, 0.1)[1] == pytest.approx(10)
