"""Each predicate refuses what it should and says so; each priority prefers what it should."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cluster_objects import WEB, node, pod

from k8slite.api.kinds.node.types import Taint
from k8slite.api.kinds.pod.types import Pod, Toleration, Volume
from k8slite.decide.scheduling import Algorithm, Decision, PluginFailed, Snapshot, node_local
from k8slite.decide.scheduling import policy as policies
from k8slite.decide.scheduling.policy import Policy


class Cluster:
    """A snapshot and an algorithm over it."""

    def __init__(self, *objects: Any, policy: Policy | None = None) -> None:
        self.snapshot = Snapshot()
        self.rng = random.Random(1)
        for obj in objects:
            if isinstance(obj, Pod):
                self.snapshot.place(obj)
            else:
                self.snapshot.set_node(obj)
        self.algorithm = Algorithm(policy or policies.default(), self.snapshot)

    def decide(self, wanted: Pod) -> Decision:
        return self.algorithm.decide(wanted, self.rng)

    def put(self, wanted: Pod) -> str:
        """Decide and place; the node."""
        decision = self.decide(wanted)
        assert decision.node, decision.message
        self.snapshot.place(wanted, decision.node, decision.demand)
        return decision.node


def refusal(wanted: Pod, *objects: Any) -> str:
    """Why the one node among ``objects`` does not take ``wanted``."""
    decision = Cluster(*objects).decide(wanted)
    assert decision.node == ""
    return decision.reasons["a"]


def takes(wanted: Pod, *objects: Any) -> bool:
    return Cluster(*objects).decide(wanted).node == "a"


def test_a_node_that_is_not_ready_or_cordoned_is_no_candidate() -> None:
    assert refusal(pod("p"), node("a", ready="False")) == "not ready"
    assert refusal(pod("p"), node("a", ready="Unknown")) == "not ready"
    assert refusal(pod("p"), node("a", unschedulable=True)) == "unschedulable"


def test_requests_must_fit_beside_those_already_there() -> None:
    there = pod("there", on="a", requests={"cpu": "3", "memory": "6Gi"})
    assert takes(pod("p", requests={"cpu": "1", "memory": "2Gi"}), node("a"), there)
    assert refusal(pod("p", requests={"cpu": "1001m"}), node("a"), there) == (
        "PodFitsResources (cpu)"
    )
    greedy = pod("p", requests={"cpu": "2", "memory": "3Gi"})
    assert refusal(greedy, node("a"), there) == "PodFitsResources (cpu, memory)"


def test_a_full_node_takes_pods_that_ask_for_nothing_up_to_its_number_of_pods() -> None:
    there = pod("there", on="a", requests={"cpu": "4", "memory": "8Gi"})
    assert takes(pod("p"), node("a"), there)
    assert refusal(pod("p"), node("a", pods="1"), there) == "PodFitsResources (pods)"


def test_resources_nobody_has_heard_of_must_be_offered_by_the_node() -> None:
    wanted = pod("p", requests={"example.com/gpu": "1"})
    assert refusal(wanted, node("a")) == "PodFitsResources (example.com/gpu)"
    assert takes(wanted, node("a", **{"example.com/gpu": "1"}))


def test_a_host_port_is_taken_once_for_each_protocol_and_address() -> None:
    there = pod("there", on="a", host_ports=(8080,))
    assert refusal(pod("p", host_ports=(8080,)), node("a"), there) == "PodFitsPorts (8080)"
    assert takes(pod("p", host_ports=(8081,)), node("a"), there)


def test_a_pod_that_left_gives_its_port_back() -> None:
    cluster = Cluster(node("a"), pod("there", on="a", host_ports=(8080,)))
    assert not cluster.decide(pod("p", host_ports=(8080,))).node
    cluster.snapshot.remove("default/there")
    assert cluster.decide(pod("p", host_ports=(8080,))).node == "a"


def test_a_node_selector_wants_every_pair() -> None:
    wanted = pod("p", node_selector={"disk": "ssd", "zone": "1"})
    assert refusal(wanted, node("a", labels={"disk": "ssd"})) == "MatchNodeSelector"
    assert takes(wanted, node("a", labels={"disk": "ssd", "zone": "1", "x": "y"}))


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [
        ("In", ["ssd", "nvme"], True),
        ("In", ["hdd"], False),
        ("NotIn", ["hdd"], True),
        ("NotIn", ["ssd"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_required_node_affinity(operator: str, values: list[str], fits: bool) -> None:
    expression = {"key": "disk", "operator": operator, "values": values}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    assert takes(pod("p", affinity=affinity), node("a", labels={"disk": "ssd"})) is fits


@pytest.mark.parametrize(
    ("operator", "bound", "fits"), [("Gt", "3", True), ("Gt", "4", False), ("Lt", "5", True)]
)
def test_node_affinity_compares_numbers(operator: str, bound: str, fits: bool) -> None:
    expression = {"key": "cores", "operator": operator, "values": [bound]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    assert takes(pod("p", affinity=affinity), node("a", labels={"cores": "4"})) is fits


def test_taints_repel_who_does_not_tolerate_them() -> None:
    tainted = node("a", taints=(Taint(key="role", value="db", effect="NoSchedule"),))
    assert refusal(pod("p"), tainted) == "taint role:NoSchedule not tolerated"
    for toleration in (
        Toleration(key="role", value="db", effect="NoSchedule"),
        Toleration(key="role", operator="Exists"),
        Toleration(operator="Exists"),
    ):
        assert takes(pod("p", tolerations=(toleration,)), tainted)
    other = Toleration(key="role", value="web", effect="NoSchedule")
    assert not takes(pod("p", tolerations=(other,)), tainted)


def test_a_taint_that_only_prefers_repels_nobody() -> None:
    assert takes(pod("p"), node("a", taints=(Taint(key="x", effect="PreferNoSchedule"),)))


def test_a_disk_is_mounted_once_unless_all_only_read() -> None:
    def mounting(name: str, read_only: bool, on: str = "") -> Pod:
        disk = {"pdName": "data", "readOnly": read_only}
        return pod(name, on=on, volumes=(Volume(name="v", gce_persistent_disk=disk),))

    assert refusal(mounting("p", True), node("a"), mounting("q", False, "a")) == (
        "NoDiskConflict (gce/data)"
    )
    assert takes(mounting("p", True), node("a"), mounting("q", True, "a"))


def test_the_message_counts_the_reasons() -> None:
    cluster = Cluster(node("a", cpu="1"), node("b", ready="False"), node("c", ready="Unknown"))
    decision = cluster.decide(pod("p", requests={"cpu": "2"}))
    assert decision.message == "0/3 nodes fit: 1 PodFitsResources (cpu), 2 not ready"
    assert Cluster().decide(pod("p")).message == "0/0 nodes fit: there are no nodes"


def test_the_emptier_node_is_preferred() -> None:
    there = pod("there", on="a", requests={"cpu": "2", "memory": "4Gi"})
    assert Cluster(node("a"), node("b"), there).put(pod("p")) == "b"


def test_the_node_on_which_cpu_and_memory_fill_up_alike_is_preferred() -> None:
    nodes = node("a", memory="4Gi"), node("b", memory="16Gi")
    there = (
        pod("x", on="a", requests={"cpu": "2", "memory": "3Gi"}),
        pod("y", on="b", requests={"cpu": "2", "memory": "8Gi"}),
    )
    assert Cluster(*nodes, *there).put(pod("p", requests={"cpu": "1", "memory": "1"})) == "a"


def test_pods_of_a_service_spread() -> None:
    cluster = Cluster(node("a"), node("b"), node("c", cpu="2", memory="4Gi"))
    cluster.snapshot.set_selector("service", "default", "web", WEB)
    assert {cluster.put(pod(f"p{n}", labels=WEB)) for n in range(3)} == {"a", "b", "c"}


def test_service_affinity_keeps_a_service_in_the_region_of_its_first_pod() -> None:
    document = {
        "predicates": [{"name": "Region", "argument": {"serviceAffinity": {"labels": ["region"]}}}]
    }
    north = [node(f"n{i}", labels={"region": "north"}) for i in range(3)]
    south = [node(f"s{i}", labels={"region": "south"}) for i in range(3)]
    cluster = Cluster(*north, *south, policy=policies.parse(document))
    cluster.snapshot.set_selector("service", "default", "web", WEB)
    assert len({cluster.put(pod(f"p{n}", labels=WEB))[0] for n in range(6)}) == 1


def test_service_anti_affinity_spreads_over_racks() -> None:
    document = {
        "priorities": [
            {"name": "Racks", "weight": 1, "argument": {"serviceAntiAffinity": {"label": "rack"}}}
        ]
    }
    crowded = [node(f"a{i}", labels={"rack": "a"}) for i in range(9)]
    cluster = Cluster(*crowded, node("b", labels={"rack": "b"}), policy=policies.parse(document))
    cluster.snapshot.set_selector("service", "default", "web", WEB)
    chosen = [cluster.put(pod(f"p{n}", labels=WEB))[0] for n in range(6)]
    assert sorted(chosen) == ["a"] * 3 + ["b"] * 3


def test_labels_can_be_required_and_preferred() -> None:
    document = {
        "predicates": [
            {"name": "SSD", "argument": {"labelsPresence": {"labels": ["ssd"], "presence": True}}}
        ],
        "priorities": [
            {
                "name": "New",
                "weight": 1,
                "argument": {"labelPreference": {"label": "new", "presence": True}},
            }
        ],
    }
    policy = policies.parse(document)
    new = node("c", labels={"ssd": "", "new": ""})
    cluster = Cluster(node("a"), node("b", labels={"ssd": ""}), new, policy=policy)
    assert cluster.decide(pod("p")).node == "c"
    cluster.snapshot.remove_node("c")
    assert cluster.decide(pod("p")).node == "b"
    cluster.snapshot.remove_node("b")
    assert cluster.decide(pod("p")).reasons == {"a": "SSD"}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "policy: expected an object"),
        ({"predicate": []}, "predicate: unknown field"),
        ({"predicates": [{"name": "Nope"}]}, "predicates[0].name: unknown 'Nope' (known: HostName"),
        ({"predicates": {}}, "predicates: expected a list"),
        (
            {"priorities": [{"name": "EqualPriority", "weight": "1"}]},
            "priorities[0].weight: expected",
        ),
        ({"priorities": [{"weight": 1}]}, "priorities[0].name: required"),
        (
            {"predicates": [{"name": "x", "argument": {"serviceAffinity": {"labels": "zone"}}}]},
            "predicates[0].argument.serviceAffinity.labels: expected a list",
        ),
        (
            {"predicates": [{"name": "x", "argument": {"other": {}}}]},
            "predicates[0].argument: expected exactly one of",
        ),
    ],
)
def test_a_wrong_policy_says_where(document: Any, complaint: str) -> None:
    with pytest.raises(policies.PolicyError) as caught:
        policies.parse(document)
    assert str(caught.value).startswith(complaint)


def test_an_empty_policy_still_minds_readiness() -> None:
    cluster = Cluster(node("a", ready="False"), policy=policies.parse({"predicates": []}))
    assert not cluster.decide(pod("p", requests={"cpu": "100"})).node


def test_plug_ins_refuse_and_prefer() -> None:
    def no_mondays(wanted: Pod, state: Any, snapshot: Any) -> str | None:
        return "it is Monday" if state.labels.get("day") == "monday" else None

    def longest_name(wanted: Pod, state: Any, snapshot: Any) -> float:
        return min(10, len(state.name))

    policy = policies.default({"calendar": no_mondays}, {"names": longest_name})
    cluster = Cluster(node("a", labels={"day": "monday"}), policy=policy)
    assert cluster.decide(pod("p")).reasons == {"a": "calendar (it is Monday)"}
    cluster.snapshot.set_node(node("bb"))
    cluster.snapshot.set_node(node("b"))
    assert cluster.decide(pod("p")).node == "bb"


def test_a_plug_in_that_looks_around_is_asked_anew_for_every_pod() -> None:
    asked: list[str] = []

    def around(wanted: Pod, state: Any, snapshot: Any) -> str | None:
        asked.append(wanted.metadata.name)
        return None

    cluster = Cluster(node("a"), policy=policies.default({"around": around}))
    cluster.decide(pod("p"))
    cluster.decide(pod("q"))
    assert asked == ["p", "q"]


def test_the_answer_of_a_node_local_plug_in_is_kept_until_the_node_changes() -> None:
    asked: list[str] = []

    @node_local
    def here(wanted: Pod, state: Any, snapshot: Any) -> str | None:
        asked.append(state.name)
        return None

    cluster = Cluster(node("a"), node("b"), policy=policies.default({"here": here}))
    cluster.decide(pod("p"))
    cluster.decide(pod("q"))
    assert sorted(asked) == ["a", "b"]
    cluster.snapshot.set_node(node("a", cpu="8"))
    cluster.decide(pod("r"))
    assert sorted(asked) == ["a", "a", "b"]


def test_a_plug_in_that_fails_is_named() -> None:
    def broken(wanted: Pod, state: Any, snapshot: Any) -> str | None:
        raise KeyError("oops")

    cluster = Cluster(node("a"), policy=policies.default({"broken": broken}))
    with pytest.raises(PluginFailed, match="predicate broken: KeyError"):
        cluster.decide(pod("p"))
    wild = Cluster(node("a"), policy=policies.default(None, {"wild": lambda p, n, s: 11}))
    with pytest.raises(PluginFailed, match="priority wild returned 11, not 0 to 10"):
        wild.decide(pod("p"))


def test_ties_are_broken_at_random() -> None:
    cluster = Cluster(*(node(f"n{i}") for i in range(5)))
    assert {cluster.decide(pod("p")).node for _ in range(60)} == {f"n{i}" for i in range(5)}
