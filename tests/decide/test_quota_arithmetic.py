"""Counting against quotas is exact, whichever way it is done."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec, PodStatus, ResourceRequirements
from k8slite.api.kinds.resourcequota.types import ResourceQuota, ResourceQuotaSpec
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.decide import quota as arithmetic


def quota(scopes: tuple[str, ...] = (), **hard: str) -> ResourceQuota:
    return ResourceQuota(
        metadata=ObjectMeta(name="room", namespace="default"),
        spec=ResourceQuotaSpec(
            hard={name.replace("_", "."): amount for name, amount in hard.items()}, scopes=scopes
        ),
    )


def pod(
    *limits: dict[str, str], phase: str = "Pending", init: tuple[dict[str, str], ...] = ()
) -> Pod:
    def container(limit: dict[str, str]) -> Container:
        return Container(name="c", resources=ResourceRequirements(limits=limit or None))

    return Pod(
        spec=PodSpec(
            containers=tuple(map(container, limits)), init_containers=tuple(map(container, init))
        ),
        status=PodStatus(phase=phase),
    )


def test_a_pod_takes_what_its_containers_take_together() -> None:
    usage = arithmetic.usage_of(pod({"cpu": "100m"}, {"cpu": "250m", "memory": "1Gi"}))
    assert usage["cpu"] == usage["requests.cpu"] == usage["limits.cpu"] == Fraction(350, 1000)
    assert usage["memory"] == 2**30
    assert usage["pods"] == usage["count/pods"] == 1


def test_an_init_container_counts_when_it_alone_takes_more() -> None:
    assert arithmetic.usage_of(pod({"cpu": "1"}, init=({"cpu": "3"}, {"cpu": "2"})))["cpu"] == 3
    assert arithmetic.usage_of(pod({"cpu": "2"}, {"cpu": "2"}, init=({"cpu": "3"},)))["cpu"] == 4


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_finished_pod_takes_nothing(phase: str) -> None:
    assert arithmetic.usage_of(pod({"cpu": "1"}, phase=phase)) == {}


def test_services_take_node_ports_and_load_balancers_by_type() -> None:
    ports = (ServicePort(port=80), ServicePort(port=81))
    plain = arithmetic.usage_of(Service(spec=ServiceSpec(ports=ports, type="ClusterIP")))
    assert plain == {"services": 1, "count/services": 1}
    balanced = arithmetic.usage_of(Service(spec=ServiceSpec(ports=ports, type="LoadBalancer")))
    assert balanced["services.nodeports"] == 2
    assert balanced["services.loadbalancers"] == 1


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("pods", "pods"),
        ("cpu", "pods"),
        ("limits.memory", "pods"),
        ("requests.ephemeral-storage", "pods"),
        ("services.nodeports", "services"),
        ("configmaps", "configmaps"),
        ("count/endpoints", "endpoints"),
    ],
)
def test_a_quota_counts_the_kinds_it_names(name: str, plural: str) -> None:
    spec = ResourceQuotaSpec(hard={name: "1"})
    assert arithmetic.plurals_counted(ResourceQuota(spec=spec)) == {plural}


@pytest.mark.parametrize(
    ("scope", "limits", "deadline", "counted"),
    [
        ("BestEffort", {}, None, True),
        ("BestEffort", {"cpu": "1"}, None, False),
        ("NotBestEffort", {"cpu": "1"}, None, True),
        ("Terminating", {}, 30, True),
        ("Terminating", {}, None, False),
        ("NotTerminating", {}, None, True),
        ("PriorityClass", {}, None, False),
    ],
)
def test_scopes_choose_the_pods(
    scope: str, limits: dict[str, str], deadline: int | None, counted: bool
) -> None:
    container = Container(name="c", resources=ResourceRequirements(limits=limits or None))
    body = Pod(spec=PodSpec(containers=(container,), active_deadline_seconds=deadline))
    assert bool(arithmetic.charge_of(quota((scope,), pods="1"), body)) is counted
    assert not arithmetic.charge_of(quota((scope,), configmaps="1"), ConfigMap())


def test_what_is_under_quota_must_be_stated() -> None:
    limited = quota(cpu="1", limits_memory="1Gi", pods="3")
    assert arithmetic.unstated(limited, pod({})) == ["cpu", "limits.memory"]
    assert arithmetic.unstated(limited, pod({"cpu": "1", "memory": "1Mi"})) == []
    assert arithmetic.unstated(limited, pod({"cpu": "1", "memory": "1Mi"}, {"cpu": "1"})) == [
        "limits.memory"
    ]


def test_a_quota_is_unknown_until_every_limit_is_counted() -> None:
    fresh = quota(pods="3", cpu="2")
    assert arithmetic.used(fresh) is None
    counted = arithmetic.with_used(fresh, {"pods": Fraction(1), "cpu": Fraction(1, 2)})
    assert counted.status.used == {"pods": "1", "cpu": "500m"}
    assert counted.status.hard == {"pods": "3", "cpu": "2"}
    assert arithmetic.used(counted) == {"pods": 1, "cpu": Fraction(1, 2)}
    assert arithmetic.with_used(counted, {"pods": Fraction(1), "cpu": Fraction(1, 2)}) is counted


def test_a_refusal_names_only_what_is_exceeded() -> None:
    limited = quota(pods="5", memory="1Gi")
    asked = {"pods": Fraction(1), "memory": Fraction(2**29)}
    taken = {"pods": Fraction(1), "memory": Fraction(2**29 + 1024)}
    assert arithmetic.refusal(limited, taken, asked) == (
        "exceeded quota: room, requested: memory=512Mi, used: memory=524289Ki, limited: memory=1Gi"
    )
    assert arithmetic.refusal(limited, {}, asked) is None


_limits = st.dictionaries(
    st.sampled_from(["cpu", "memory"]), st.sampled_from(["0", "1m", "250m", "1", "64Mi", "1500M"])
)
_pods = st.builds(
    lambda limits, phase: pod(*limits, phase=phase),
    st.lists(_limits, min_size=1, max_size=3),
    st.sampled_from(["Pending", "Running", "Failed"]),
)


@given(st.lists(_pods, max_size=8))
def test_charging_one_by_one_is_counting_all_at_once(pods: list[Pod]) -> None:
    limited = quota(pods="1000", cpu="1000", limits_memory="1Ti")
    taken = arithmetic.total(limited, [])
    for body in pods:
        taken = arithmetic.add(taken, arithmetic.charge_of(limited, body))
    assert taken == arithmetic.total(limited, pods)
    # What is written into the status says exactly that.
    assert arithmetic.used(arithmetic.with_used(limited, taken)) == taken


@given(st.lists(_pods, min_size=2, max_size=2))
def test_an_increase_is_never_negative_and_covers_the_new(pods: list[Pod]) -> None:
    old, new = map(arithmetic.usage_of, pods)
    increase = arithmetic.increase(new, old)
    assert all(amount > 0 for amount in increase.values())
    assert all(old.get(n, 0) + increase.get(n, 0) >= amount for n, amount in new.items())
