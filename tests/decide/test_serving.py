"""The condition with which a node says that it cannot serve a service."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from k8slite.api.kinds.service.types import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServiceSpec,
    ServiceStatus,
)
from k8slite.api.meta import Condition, ObjectMeta
from k8slite.decide.admission.nodes import UPDATE, refuse
from k8slite.decide.loadbalancer import CONFLICT
from k8slite.decide.serving import (
    LONGEST,
    NOT_WRITTEN,
    PORT_TAKEN,
    PORTAL_CONFLICT,
    Trouble,
    condition_of,
    kind_of,
    told,
)

NOW, LATER = "2026-11-27T16:00:00Z", "2026-11-27T17:00:00Z"
TAKEN = Trouble(PORT_TAKEN, "node port 30080/tcp: something else uses it")
LOCKED = Trouble(NOT_WRITTEN, "another tool holds the tables")


SOMEBODYS = Condition(type="Somebodys", status="True")


def service(*conditions: Condition, **meta: Any) -> Service:
    return Service(
        metadata=ObjectMeta(name="web", namespace="default", **meta),
        spec=ServiceSpec(cluster_ip="192.168.3.9"),
        status=ServiceStatus(conditions=conditions),
    )


def after(obj: Service, *troubles: Trouble, node: str = "n1", now: str = NOW) -> Service:
    status = told(obj, node, troubles, now)
    return obj if status is None else replace(obj, status=status)


def test_trouble_is_a_condition_with_the_worst_reason_and_every_message() -> None:
    said = condition_of(after(service(generation=3), TAKEN, LOCKED), "n1")
    assert said == Condition(
        type="k8slite.io/Served-on-n1",
        status="False",
        reason=NOT_WRITTEN,
        message=f"{LOCKED.message}; {TAKEN.message}",
        last_transition_time=NOW,
        observed_generation=3,
    )


def test_what_stands_already_is_not_written_again() -> None:
    standing = after(service(), TAKEN, LOCKED)
    assert told(standing, "n1", [LOCKED, TAKEN], LATER) is None
    assert told(service(), "n1", [], NOW) is None


def test_a_further_trouble_changes_the_words_and_not_since_when() -> None:
    said = condition_of(after(after(service(), TAKEN), TAKEN, LOCKED, now=LATER), "n1")
    assert said is not None
    assert (said.reason, said.last_transition_time) == (NOT_WRITTEN, NOW)


def test_what_somebody_spoilt_is_mended_by_what_the_node_may_write() -> None:
    own = condition_of(after(service(), TAKEN), "n1")
    assert own is not None
    spoilt = service(replace(own, last_transition_time="x" * 5000, message=""))
    mended = after(spoilt, TAKEN, now=LATER)
    assert condition_of(mended, "n1") == replace(own, last_transition_time=LATER)
    assert refuse("n1", UPDATE, "Service", "status", mended, spoilt) == ""


def test_when_it_is_over_nothing_is_left_and_others_are_untouched() -> None:
    other = after(service(SOMEBODYS), TAKEN, node="n2")
    assert after(after(other, TAKEN)) == other


def test_a_conflict_that_the_cluster_said_is_not_said_by_every_node() -> None:
    conflict = Trouble(PORTAL_CONFLICT, "12.0.0.5 port 80/tcp belongs to default/a:")
    assert condition_of(after(service(), conflict), "n1")
    said = service(Condition(type=CONFLICT, status="True", message="…"))
    assert after(said, conflict) == said
    assert condition_of(after(said, conflict, TAKEN), "n1") is not None


def test_a_message_is_bounded() -> None:
    many = [Trouble(PORT_TAKEN, f"port {n}" * 100) for n in range(100)]
    said = condition_of(after(service(), *many), "n1")
    assert said is not None
    assert len(said.message) == LONGEST


def test_a_node_may_write_its_condition() -> None:
    old = service(SOMEBODYS)
    new = after(old, TAKEN)
    assert refuse("n1", UPDATE, "Service", "status", new, old) == ""
    assert refuse("n1", UPDATE, "Service", "status", old, new) == ""


_BASE = after(service(SOMEBODYS), TAKEN)
_OWN = condition_of(_BASE, "n1") or Condition()


@pytest.mark.parametrize(
    "new",
    [
        after(_BASE, TAKEN, node="n2"),
        replace(_BASE, metadata=ObjectMeta(name="web", namespace="default", labels={"a": "b"})),
        replace(_BASE, spec=ServiceSpec(cluster_ip="192.168.3.10")),
        replace(
            _BASE,
            status=replace(
                _BASE.status,
                load_balancer=LoadBalancerStatus(ingress=(LoadBalancerIngress(ip="1.2.3.4"),)),
            ),
        ),
        service(_OWN),
        service(replace(SOMEBODYS, status="False"), _OWN),
        service(SOMEBODYS, _OWN, _OWN),
        service(SOMEBODYS, replace(_OWN, status="True")),
        service(SOMEBODYS, replace(_OWN, message="x" * 5000)),
        service(SOMEBODYS, replace(_OWN, reason="x" * 5000)),
        service(SOMEBODYS, Condition(type=kind_of("n2"), status="False")),
    ],
)
def test_a_node_writes_nothing_else_of_a_service(new: Service) -> None:
    assert refuse("n1", UPDATE, "Service", "status", new, _BASE).startswith("node n1 may")
    assert refuse("n1", UPDATE, "Service", "", _BASE, _BASE).startswith("node n1 may")
