"""What ``run-container`` and ``expose`` make: objects that the API takes as they are."""

from __future__ import annotations

import pytest

from k8slite.api import codec, generate
from k8slite.api.errors import BadRequest


def test_the_articles_controller() -> None:
    document = generate.controller("nginx", "nginx", replicas=6, ports=[80, 443])
    rc = codec.from_raw(document).object
    assert rc.metadata.labels == rc.spec.selector == {"run-container": "nginx"}
    assert rc.spec.template.metadata.labels == {"run-container": "nginx"}
    assert rc.spec.replicas == 6
    [container] = rc.spec.template.spec.containers
    assert [port.container_port for port in container.ports] == [80, 443]


def test_a_controller_with_everything() -> None:
    document = generate.controller(
        "web", "web:1", ports=[80], host_port=8080, labels={"a": "b"}, environment=["A=b=c"],
        command=["serve"], args=["--fast"],
    )  # fmt: skip
    container = document["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "hostPort": 8080}]
    assert container["env"] == [{"name": "A", "value": "b=c"}]
    assert (container["command"], container["args"]) == (["serve"], ["--fast"])


def test_the_articles_service() -> None:
    behind = generate.controller("nginx", "nginx", ports=[80, 443])
    document = generate.service("nginx-http", generate.selector_of(behind), [80], target_port="80")
    service = codec.from_raw(document).object
    assert service.metadata.labels is None
    assert service.spec.selector == {"run-container": "nginx"}
    [port] = service.spec.ports
    assert (port.port, port.target_port, port.protocol) == (80, 80, "TCP")


def test_without_a_port_those_of_the_containers_are_exposed_each_by_a_name() -> None:
    behind = generate.controller("nginx", "nginx", ports=[80, 443])
    document = generate.service("nginx", {"a": "b"}, generate.ports_of(behind))
    assert [port["name"] for port in document["spec"]["ports"]] == ["port-80", "port-443"]
    assert generate.ports_of(document) == [80, 443]
    named = generate.service("n", {"a": "b"}, [80], target_port="http", type="LoadBalancer")
    assert named["spec"]["ports"][0]["targetPort"] == "http"


def test_who_can_be_exposed() -> None:
    pod = {"kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}}
    assert generate.selector_of(pod) == {"a": "b"}
    for document in ({"kind": "Node", "metadata": {}}, {"kind": "Pod", "metadata": {"name": "p"}}):
        with pytest.raises(BadRequest):
            generate.selector_of(document)


@pytest.mark.parametrize(
    "call",
    [
        lambda: generate.controller("a", ""),
        lambda: generate.controller("a", "i", host_port=80),
        lambda: generate.controller("a", "i", environment=["A"]),
        lambda: generate.service("a", {}, []),
        lambda: generate.service("a", {}, [80, 443], target_port="80"),
        lambda: generate.labels_of("a"),
        lambda: generate.labels_of("a=/"),
    ],
)
def test_what_is_missing_is_asked_for(call: object) -> None:
    with pytest.raises(BadRequest):
        call()  # type: ignore[operator]
