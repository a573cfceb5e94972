"""What objects get where their authors said nothing."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from k8slite.api import codec
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.pod.defaults import pull_policy
from k8slite.api.kinds.pod.rules import qos_class


def default(kind: str, **body: Any) -> Any:
    """The object as its kind completes it."""
    decoded = codec.from_raw({"kind": kind, "apiVersion": "v1", **body})
    assert decoded.warnings == []
    return decoded.kind.strategy.default(decoded.object)


def container(**more: Any) -> dict[str, Any]:
    return {"name": "web", "image": "nginx", **more}


def default_container(**more: Any) -> Any:
    return default("Pod", spec={"containers": [container(**more)]}).spec.containers[0]


class TestPods:
    def test_the_spec(self) -> None:
        spec = default("Pod", spec={"containers": [container()]}).spec
        assert spec.restart_policy == "Always"
        assert spec.dns_policy == "ClusterFirst"
        assert spec.scheduler_name == "default-scheduler"
        assert spec.termination_grace_period_seconds == 30
        assert spec.enable_service_links is True

    def test_what_is_given_stays(self) -> None:
        given = {"restartPolicy": "Never", "dnsPolicy": "Default", "schedulerName": "mine"}
        spec = default("Pod", spec={**given, "terminationGracePeriodSeconds": 0}).spec
        assert (spec.restart_policy, spec.dns_policy, spec.scheduler_name) == tuple(given.values())
        assert spec.termination_grace_period_seconds == 0

    def test_containers(self) -> None:
        web = default_container(ports=[{"containerPort": 80}])
        assert web.termination_message_path == "/dev/termination-log"
        assert web.termination_message_policy == "File"
        assert web.ports[0].protocol == "TCP"

    @pytest.mark.parametrize(
        ("image", "policy"),
        [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("nginx:latest@sha256:0123", "IfNotPresent"),
        ],
    )
    def test_images_that_may_change_under_their_name_are_pulled(
        self, image: str, policy: str
    ) -> None:
        assert pull_policy(image) == policy
        assert default_container(image=image).image_pull_policy == policy

    def test_probes(self) -> None:
        probe = default_container(livenessProbe={"httpGet": {"port": 80}}).liveness_probe
        assert (probe.timeout_seconds, probe.period_seconds) == (1, 10)
        assert (probe.success_threshold, probe.failure_threshold) == (1, 3)
        assert (probe.http_get.path, probe.http_get.scheme) == ("/", "HTTP")

    def test_lifecycle_handlers(self) -> None:
        lifecycle = default_container(lifecycle={"preStop": {"httpGet": {"port": 80}}}).lifecycle
        assert lifecycle.pre_stop.http_get.path == "/"

    def test_quantities_are_canonical_and_limits_are_requested(self) -> None:
        resources = default_container(
            resources={"limits": {"cpu": 0.5, "memory": "1024Ki"}, "requests": {"cpu": "0.1"}}
        ).resources
        assert resources.limits == {"cpu": "500m", "memory": "1Mi"}
        assert resources.requests == {"cpu": "100m", "memory": "1Mi"}

    def test_fields_of_the_pod_are_named_in_v1(self) -> None:
        variable = {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        source = default_container(env=[variable]).env[0].value_from
        assert source.field_ref.api_version == "v1"

    def test_a_volume_without_source_is_an_empty_directory(self) -> None:
        first, second = default(
            "Pod", spec={"volumes": [{"name": "a"}, {"name": "b", "secret": {"secretName": "s"}}]}
        ).spec.volumes
        assert first.empty_dir is not None
        assert second.empty_dir is None
        assert second.secret.default_mode == 0o644

    def test_on_the_hosts_network_ports_are_the_hosts(self) -> None:
        ports = [{"containerPort": 80}]
        spec = {"hostNetwork": True, "containers": [container(ports=ports)]}
        assert default("Pod", spec=spec).spec.containers[0].ports[0].host_port == 80

    @pytest.mark.parametrize("field", ["serviceAccount", "serviceAccountName"])
    def test_both_names_of_the_service_account_are_one(self, field: str) -> None:
        spec = default("Pod", spec={field: "robot"}).spec
        assert spec.service_account == spec.service_account_name == "robot"

    def test_a_complete_pod_is_left_alone(self) -> None:
        pod = default("Pod", spec={"containers": [container(resources={"limits": {"cpu": "1"}})]})
        assert SCHEME.of(pod).strategy.default(pod) is pod

    @pytest.mark.parametrize(
        ("resources", "qos"),
        [
            ({}, "BestEffort"),
            ({"requests": {"cpu": "1"}}, "Burstable"),
            ({"limits": {"cpu": "1"}}, "Burstable"),
            ({"limits": {"cpu": "1", "memory": "1Mi"}}, "Guaranteed"),
            (
                {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "500m"}},
                "Burstable",
            ),
            ({"limits": {"cpu": "0", "memory": "0"}}, "BestEffort"),
        ],
    )
    def test_quality_of_service(self, resources: dict[str, Any], qos: str) -> None:
        pod = default("Pod", spec={"containers": [container(resources=resources)]})
        assert qos_class(pod.spec) == qos


class TestReplicationControllers:
    def test_one_replica_selected_and_labelled_as_the_template(self) -> None:
        template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container()]}}
        controller = default("ReplicationController", spec={"template": template})
        assert controller.spec.replicas == 1
        assert controller.spec.selector == {"app": "web"}
        assert controller.metadata.labels == {"app": "web"}
        assert controller.spec.template.spec.restart_policy == "Always"

    def test_no_replicas_are_no_replicas(self) -> None:
        assert default("ReplicationController", spec={"replicas": 0}).spec.replicas == 0

    def test_templates_of_their_own_are_completed_too(self) -> None:
        body = default("PodTemplate", template={"spec": {"containers": [container()]}})
        assert body.template.spec.containers[0].image_pull_policy == "Always"


class TestServices:
    def test_the_spec(self) -> None:
        spec = default("Service", spec={"ports": [{"port": 80}]}).spec
        assert (spec.type, spec.session_affinity) == ("ClusterIP", "None")
        assert (spec.ports[0].protocol, spec.ports[0].target_port) == ("TCP", 80)

    @pytest.mark.parametrize("target", [8080, "http"])
    def test_a_given_target_stays(self, target: int | str) -> None:
        ports = [{"port": 80, "targetPort": target}]
        assert default("Service", spec={"ports": ports}).spec.ports[0].target_port == target

    @pytest.mark.parametrize("target", [0, ""])
    def test_an_empty_target_is_the_port(self, target: int | str) -> None:
        ports = [{"port": 80, "targetPort": target}]
        assert default("Service", spec={"ports": ports}).spec.ports[0].target_port == 80

    def test_affinity_lasts_three_hours(self) -> None:
        config = default("Service", spec={"sessionAffinity": "ClientIP"}).spec
        assert config.session_affinity_config.client_ip.timeout_seconds == 10800

    def test_endpoints_are_tcp(self) -> None:
        subset = {"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}
        assert default("Endpoints", subsets=[subset]).subsets[0].ports[0].protocol == "TCP"


class TestTheRest:
    def test_secrets_are_opaque_and_their_text_is_coded(self) -> None:
        secret = default("Secret", data={"a": "YQ==\n", "b": "Yg=="}, stringData={"b": "text"})
        assert secret.type == "Opaque"
        assert secret.data == {"a": "YQ==", "b": base64.b64encode(b"text").decode()}
        assert secret.string_data is None

    def test_namespaces_are_active_named_and_finalized(self) -> None:
        namespace = default("Namespace", metadata={"name": "dev"})
        assert namespace.status.phase == "Active"
        assert namespace.metadata.labels == {"kubernetes.io/metadata.name": "dev"}
        prepared = SCHEME.of(namespace).strategy.prepare_create(namespace)
        assert prepared.spec.finalizers == ("kubernetes",)

    def test_a_node_offers_what_it_has(self) -> None:
        node = default("Node", status={"capacity": {"memory": "2048Ki", "cpu": 2}})
        assert node.status.allocatable == node.status.capacity == {"memory": "2Mi", "cpu": "2"}

    def test_limits_of_containers_follow_from_each_other(self) -> None:
        item = {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "64Mi"}}
        (limit,) = default("LimitRange", spec={"limits": [item]}).spec.limits
        assert limit.default == {"cpu": "2"}
        assert limit.default_request == {"cpu": "2", "memory": "64Mi"}

    def test_quotas_are_canonical(self) -> None:
        quota = default("ResourceQuota", spec={"hard": {"cpu": "1000m", "pods": 10}})
        assert quota.spec.hard == {"cpu": "1", "pods": "10"}

    def test_events_are_normal(self) -> None:
        assert default("Event").type == "Normal"
