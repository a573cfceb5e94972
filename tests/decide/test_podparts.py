"""The smaller decisions of a node: probes, variables, files, pulls, admission, garbage."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.node.types import Node, NodeStatus
from k8slite.api.kinds.pod.types import (
    ConfigMapVolumeSource,
    Container,
    ContainerPort,
    KeyToPath,
    Pod,
    PodSpec,
    Probe,
    ResourceRequirements,
    Volume,
)
from k8slite.api.kinds.secret.types import Secret
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.decide.pods.admission import admit
from k8slite.decide.pods.env import ConfigError, PodContext, expand, service_variables
from k8slite.decide.pods.files import volume_files
from k8slite.decide.pods.garbage import StoredImage, dead_containers, unused_images
from k8slite.decide.pods.network import first_free
from k8slite.decide.pods.probe import ProbeKind, ProbeState, health, observe
from k8slite.decide.pods.pull import PullHistory, credentials, obstacle, policy_of
from k8slite.decide.pods.spec import cpu_quota, cpu_shares
from k8slite.decide.pods.state import Health, ObservedContainer, ObservedPod, PodRef, Run

PROBE = Probe(success_threshold=2, failure_threshold=3)


def after(*results: bool) -> ProbeState:
    state = ProbeState()
    for result in results:
        state = observe(state, PROBE, result)
    return state


def test_a_verdict_turns_at_its_threshold() -> None:
    assert after(True).ok is None
    assert after(True, True).ok is True
    assert after(True, True, False, False).ok is True
    assert after(True, True, False, False, False).ok is False
    assert after(False, False, True, False, False).ok is None


def test_readiness_waits_for_the_startup_probe() -> None:
    container = Container(name="a", startup_probe=PROBE, readiness_probe=PROBE)
    ready = ProbeState(ok=True)
    assert health(container, {ProbeKind.READINESS: ready}) == Health(False, False)
    both = {ProbeKind.STARTUP: ready, ProbeKind.READINESS: ready}
    assert health(container, both) == Health(True, True)
    assert health(Container(name="a"), {}) == Health(True, True)


@pytest.mark.parametrize("kind", [ProbeKind.STARTUP, ProbeKind.LIVENESS])
def test_startup_and_liveness_probes_kill(kind: ProbeKind) -> None:
    container = Container(name="a", startup_probe=PROBE, liveness_probe=PROBE)
    states = {ProbeKind.STARTUP: ProbeState(ok=True), kind: ProbeState(ok=False)}
    assert kind.value in health(container, states).kill


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"), ("x$(A)y$(B)", "x1y2"), ("$$(A)", "$(A)"), ("$(NO)", "$(NO)"),
        ("$A", "$A"), ("$", "$"), ("$(A", "$(A"), ("$$$(A)", "$1"), ("", ""),
    ],
)  # fmt: skip
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


@given(st.text(alphabet="$()AB x", max_size=12))
def test_expansion_of_text_without_dollars_changes_nothing(text: str) -> None:
    plain = text.replace("$", "")
    assert expand(plain, {"A": "1"}) == plain


def service(name: str, namespace: str, ip: str = "192.168.3.9") -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace=namespace),
        spec=ServiceSpec(cluster_ip=ip, ports=(ServicePort(name="web", port=80),)),
    )


def test_service_variables_of_ones_own_namespace_and_the_masters() -> None:
    pod = Pod(metadata=ObjectMeta(name="p", namespace="blue"))
    services = (
        service("my-app", "blue"), service("other", "red"), service("kubernetes", "default"),
        service("headless", "blue", "None"), service("app", "default"),
    )  # fmt: skip
    values = service_variables(PodContext(pod, services=services))
    assert values["MY_APP_SERVICE_HOST"] == "192.168.3.9"
    assert values["MY_APP_PORT"] == "tcp://192.168.3.9:80"
    assert values["MY_APP_SERVICE_PORT_WEB"] == "80"
    assert values["KUBERNETES_SERVICE_PORT"] == "80"
    assert not any(name.startswith(("OTHER", "HEADLESS", "APP_")) for name in values)


def test_files_may_not_leave_their_volume() -> None:
    config = ConfigMap(metadata=ObjectMeta(name="c"), data={"k": "v"})
    pod = Pod(metadata=ObjectMeta(name="p"))
    context = PodContext(pod, config_maps={"c": config})
    for path in ("../x", "/x", "a/../../x", "..x", ""):
        source = ConfigMapVolumeSource(name="c", items=(KeyToPath(key="k", path=path),))
        with pytest.raises(ConfigError):
            volume_files(Volume(name="v", config_map=source), context)


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1", "IfNotPresent"),
        ("host:5000/nginx", "Always"), ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
    ],
)  # fmt: skip
def test_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    assert policy_of(Container(name="a", image=image)) == policy
    assert policy_of(Container(name="a", image=image, image_pull_policy="Never")) == "Never"


def test_a_failed_pull_says_why_and_then_backs_off() -> None:
    history = PullHistory(2, 100.0, "no such host")
    first, then = obstacle("x:1", history, 100.5), obstacle("x:1", history, 110.0)
    assert first is not None
    assert (first.reason, first.message) == ("ErrImagePull", "no such host")
    assert then is not None
    assert then.reason == "ImagePullBackOff"
    assert obstacle("x:1", history, 120.0) is None
    assert obstacle("x:1", None, 0.0) is None


def test_credentials_go_to_their_own_registry_alone() -> None:
    auth = base64.b64encode(b"me:secret").decode()
    modern = {"auths": {"https://reg.local:5000/v1/": {"auth": auth}, "other": {"auth": auth}}}
    secrets = [
        Secret(data={".dockerconfigjson": base64.b64encode(json.dumps(modern).encode()).decode()}),
        Secret(
            data={
                ".dockercfg": base64.b64encode(
                    json.dumps({"https://index.docker.io/v1/": {"auth": auth}}).encode()
                ).decode()
            }
        ),
        Secret(data={".dockerconfigjson": "broken"}),
    ]
    assert credentials("reg.local:5000/team/app:1", secrets) == [("me", "secret")]
    assert credentials("nginx", secrets) == [("me", "secret")]
    assert credentials("elsewhere.io/app", secrets) == []


def room(**amounts: str) -> Node:
    return Node(metadata=ObjectMeta(name="n"), status=NodeStatus(capacity=dict(amounts)))


def wanting(uid: str, cpu: str = "", port: int = 0) -> Pod:
    requests = {"cpu": cpu} if cpu else None
    ports = (ContainerPort(container_port=80, host_port=port),) if port else ()
    container = Container(name="a", resources=ResourceRequirements(requests=requests), ports=ports)
    meta = ObjectMeta(name=uid, namespace="default", uid=uid)
    return Pod(metadata=meta, spec=PodSpec(containers=(container,)))


def test_admission_counts_what_runs_already() -> None:
    node = room(cpu="1", pods="2")
    assert admit(wanting("a", "600m"), node, []) is None
    refusal = admit(wanting("b", "600m"), node, [wanting("a", "600m")])
    assert refusal is not None
    assert refusal.reason == "OutOfcpu"
    refusal = admit(wanting("c"), node, [wanting("a"), wanting("b")])
    assert refusal is not None
    assert refusal.reason == "OutOfpods"
    refusal = admit(wanting("d", port=80), node, [wanting("a", port=80)])
    assert refusal is not None
    assert refusal.reason == "HostPortConflict"
    assert admit(wanting("a", port=80), node, [wanting("a", port=80)]) is None


def test_the_newest_dead_are_kept_and_the_young_too() -> None:
    ref = PodRef("default", "web", "u")
    dead = [
        ObservedContainer(f"c{n}", "main", ref, "h", Run.EXITED, attempt=n, finished_at=10.0 * n)
        for n in range(6)
    ]
    pod = ObservedPod(ref, (), tuple(reversed(dead)))
    assert [c.id for c in dead_containers(pod, 90.0)] == ["c3", "c2", "c1", "c0"]
    assert [c.id for c in dead_containers(pod, 75.0)] == ["c1", "c0"]


def test_images_go_least_recently_used_first_and_only_when_the_disk_is_full() -> None:
    images = [StoredImage("a", 10, 3.0), StoredImage("b", 10, 1.0), StoredImage("c", 10, 2.0)]
    assert unused_images(images, {"c"}, 89, 100) == []
    assert unused_images(images, {"c"}, 90, 100) == ["b"]
    assert unused_images(images, {"c"}, 100, 100) == ["b", "a"]


def test_the_first_free_piece_of_the_network() -> None:
    assert first_free("172.16.0.0/16", []) == "172.16.0.0/24"
    assert first_free("172.16.0.0/16", ["172.16.0.0/24", "172.16.1.0/25"]) == "172.16.2.0/24"
    with pytest.raises(ValueError, match="no free"):
        first_free("172.16.0.0/16", ["172.16.0.0/12"])


def test_cpu_shares_and_quota() -> None:
    assert [cpu_shares(m) for m in (0, 1, 250, 1000)] == [2, 2, 256, 1024]
    assert [cpu_quota(m) for m in (0, 5, 500, 2000)] == [0, 1000, 50_000, 200_000]
