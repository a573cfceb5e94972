"""Describe: an object in sections, whatever it holds, then what happened to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from k8slite.api.describe import Surroundings, describe
from k8slite.api.kinds import (
    ENDPOINTS,
    EVENT,
    LIMIT_RANGE,
    POD,
    REPLICATION_CONTROLLER,
    RESOURCE_QUOTA,
    SCHEME,
    SECRET,
    SERVICE,
)
from k8slite.api.scheme import Kind
from k8slite.kit.clock import parse_rfc3339

NOW = parse_rfc3339("2015-06-01T12:05:00Z")
CREATED = "2015-06-01T12:00:00Z"


def made(kind: Kind[Any], raw: dict[str, Any]) -> Any:
    return msgspec.convert(raw, kind.type)


def told(kind: Kind[Any], raw: dict[str, Any], **around: Any) -> list[str]:
    page = describe(kind, made(kind, raw), Surroundings(NOW, **around))
    return [" ".join(line.split()) for line in page.splitlines()]


@pytest.mark.parametrize("kind", list(SCHEME), ids=lambda kind: kind.plural)
def test_an_empty_object_of_every_kind_can_be_described(kind: Kind[Any]) -> None:
    page = describe(kind, kind.new(), Surroundings(NOW))
    assert page.startswith("Name: ")
    assert page.rstrip().endswith("<none>")


def test_a_pod_with_its_containers_controller_and_events() -> None:
    raw = {
        "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "uid": "u",
                     "creationTimestamp": CREATED},
        "spec": {
            "containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}],
                            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
                            "volumeMounts": [{"name": "v", "mountPath": "/d"}]}],
            "volumes": [{"name": "v", "hostPath": {"path": "/x"}}],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "c", "restartCount": 2, "ready": True,
                 "state": {"running": {"startedAt": CREATED}},
                 "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}
            ],
        },
    }  # fmt: skip
    rc = made(
        REPLICATION_CONTROLLER,
        {"metadata": {"name": "rc"}, "spec": {"replicas": 3, "selector": {"a": "b"}},
         "status": {"replicas": 2}},
    )  # fmt: skip
    event = made(
        EVENT,
        {"involvedObject": {"kind": "Pod", "name": "p"}, "reason": "scheduled", "count": 3,
         "source": {"component": "scheduler"}, "message": "bound\x1b[2J",
         "firstTimestamp": CREATED},
    )  # fmt: skip
    lines = told(POD, raw, controllers=(rc,), events=(event,))
    for line in (
        "Image(s): i:1", "Labels: a=b", "Created: 5 minutes ago", "Status: Running",
        "Replication Controllers: rc (2/3 replicas created)", "Port(s): 80/TCP",
        "Limits: cpu=1, memory=64Mi", "State: Running for 5 minutes", "Restart Count: 2",
        "Last State: Terminated with exit code 1: Error", "Mount: /d from v (rw)",
        "v hostPath path=/x",
        "5 minutes 5 minutes 3 scheduler scheduled bound^[[2J",
    ):  # fmt: skip
        assert line in lines


def test_a_service_and_its_endpoints() -> None:
    endpoints = made(
        ENDPOINTS,
        {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "h", "port": 8080}]}]},
    )
    ports = [{"name": "h", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    raw = {"metadata": {"name": "s"}, "spec": {"clusterIP": "1.2.3.4", "ports": ports}}
    lines = told(SERVICE, raw, endpoints=endpoints)
    assert "Port: h 80/TCP to 8080" in lines
    assert "Endpoints: 10.0.0.1:8080" in lines
    assert not any("Conditions" in line for line in lines)
    taken = {"type": "Served", "status": "False", "reason": "PortTaken", "message": "by sshd"}
    assert "Served False PortTaken by sshd" in told(
        SERVICE, {**raw, "status": {"conditions": [taken]}}
    )


def test_how_a_service_is_reached_from_outside() -> None:
    ports = [{"port": 80, "targetPort": 80, "protocol": "TCP", "nodePort": 30080}]
    spec = {"type": "LoadBalancer", "ports": ports, "externalTrafficPolicy": "Local"}
    lines = told(SERVICE, {"spec": spec})
    assert "Pool Address: <pending>" in lines
    assert "Node Port: 30080" in lines
    assert "Traffic from Outside: pods of the same node alone" in lines
    given = {"loadBalancer": {"ingress": [{"ip": "192.168.0.240"}]}}
    assert "Pool Address: 192.168.0.240" in told(SERVICE, {"spec": spec, "status": given})


def test_amounts_are_tables_and_secrets_stay_secret() -> None:
    quota = {"status": {"hard": {"pods": "10"}, "used": {"pods": "3"}}}
    assert "pods 3 10" in told(RESOURCE_QUOTA, quota)
    limits = {"spec": {"limits": [{"type": "Pod", "max": {"cpu": "2"}, "min": {"cpu": "100m"}}]}}
    assert "Pod cpu 100m 2 - -" in told(LIMIT_RANGE, limits)
    secret = told(SECRET, {"type": "Opaque", "data": {"key": "c2VjcmV0"}})
    assert "key 6 bytes" in secret
    assert not any("c2VjcmV0" in line for line in secret)
