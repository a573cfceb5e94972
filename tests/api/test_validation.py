"""What is refused, and which field is named. Everything here is one change to a good object."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from k8slite.api import codec
from k8slite.api.errors import FieldError
from k8slite.api.kinds import SCHEME

BIG = "x" * 1_100_000

GOOD: dict[str, dict[str, Any]] = {
    "Pod": {
        "spec": {
            "containers": [
                {
                    "name": "web",
                    "image": "nginx",
                    "ports": [{"containerPort": 80, "name": "http"}],
                    "env": [{"name": "A", "value": "1"}],
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    "livenessProbe": {"tcpSocket": {"port": "http"}},
                    "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
                },
                {"name": "side", "image": "busybox:1", "ports": [{"containerPort": 81}]},
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "tolerations": [{"key": "a", "operator": "Exists"}],
        }
    },
    "ReplicationController": {
        "spec": {
            "replicas": 2,
            "selector": {"app": "web"},
            "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}},
                "spec": {"containers": [{"name": "web", "image": "nginx"}]},
            },
        }
    },
    "PodTemplate": {"template": {"spec": {"containers": [{"name": "web", "image": "nginx"}]}}},
    "Service": {
        "spec": {
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http"},
                {"name": "https", "port": 443, "targetPort": 8443},
            ],
            "selector": {"app": "web"},
            "clusterIP": "10.0.0.1",
            "externalIPs": ["12.0.0.5"],
        }
    },
    "Endpoints": {"subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]},
    "Event": {"involvedObject": {"kind": "Pod", "name": "web", "namespace": "default"}},
    "Secret": {"data": {"a": "YQ=="}},
    "ConfigMap": {"data": {"a": "text"}, "binaryData": {"b": "YQ=="}},
    "Namespace": {},
    "Node": {
        "spec": {"podCIDR": "10.1.0.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "2"}},
    },
    "LimitRange": {
        "spec": {"limits": [{"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}}]}
    },
    "ResourceQuota": {"spec": {"hard": {"pods": "10"}, "scopes": ["BestEffort"]}},
    "ServiceAccount": {"imagePullSecrets": [{"name": "a"}]},
    "Binding": {"target": {"kind": "Node", "name": "10.0.0.1"}},
}
ROOT = ("Namespace", "Node")


def document(kind: str) -> dict[str, Any]:
    meta = {"name": "web"} if kind in ROOT else {"name": "web", "namespace": "default"}
    head = {"kind": kind, "apiVersion": "v1", "metadata": meta}
    return {**head, **copy.deepcopy(GOOD[kind])}


def changed(kind: str, path: str, value: Any) -> dict[str, Any]:
    """A good document with one field set: ``spec/ports/0/port``; None takes it out."""
    raw = document(kind)
    *way, last = path.split("/")
    place: Any = raw
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    if isinstance(place, list):
        key: Any = int(last)
        place[key : key + 1] = [value]
    elif value is None:
        del place[last]
    else:
        place[last] = value
    return raw


def read(raw: dict[str, Any]) -> Any:
    decoded = codec.from_raw(raw)
    assert decoded.warnings == []
    return decoded.kind.strategy.default(decoded.object)


def errors(raw: dict[str, Any], old: Any = None) -> list[FieldError]:
    obj = read(raw)
    return SCHEME.of(obj).strategy.validate(obj, old)


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_objects_are_good(kind: str) -> None:
    obj = read(document(kind))
    assert SCHEME.of(obj).strategy.validate(obj, None) == []
    assert SCHEME.of(obj).strategy.validate(obj, obj) == []


C = "spec/containers/0/"
T = "spec/template/"
REFUSED: list[tuple[str, str, Any, str]] = [
    # names and metadata, by the example of one kind or another
    ("Pod", "metadata/name", "Web", "metadata.name"),
    ("Pod", "metadata/name", "a" * 254, "metadata.name"),
    ("Pod", "metadata/name", "a..b", "metadata.name"),
    ("Service", "metadata/name", "a.b", "metadata.name"),
    ("Service", "metadata/name", "1a", "metadata.name"),
    ("Service", "metadata/name", "a" * 64, "metadata.name"),
    ("Namespace", "metadata/name", "a.b", "metadata.name"),
    ("Pod", "metadata", {"namespace": "default"}, "metadata.name"),
    ("Pod", "metadata", {"generateName": "A-"}, "metadata.generateName"),
    ("Pod", "metadata/labels", {"a b": "c"}, "metadata.labels"),
    ("Pod", "metadata/labels", {"a/b/c": "c"}, "metadata.labels"),
    ("Pod", "metadata/labels", {"a": "-"}, "metadata.labels[a]"),
    ("Pod", "metadata/labels", {"a": "b" * 64}, "metadata.labels[a]"),
    ("Pod", "metadata/annotations", {"a b": "c"}, "metadata.annotations"),
    ("Pod", "metadata/annotations", {"a": "b" * 300_000}, "metadata.annotations"),
    ("Pod", "metadata/finalizers", ["a b"], "metadata.finalizers[0]"),
    ("Pod", "metadata/ownerReferences", [{"kind": "Pod", "name": "a"}],
     "metadata.ownerReferences[0].uid"),
    ("Pod", "metadata/ownerReferences",
     [{"kind": "A", "name": "a", "uid": "1", "controller": True}] * 2, "metadata.ownerReferences"),
    # pods
    ("Pod", "spec/containers", [], "spec.containers"),
    ("Pod", C + "name", None, "spec.containers[0].name"),
    ("Pod", C + "name", "Web", "spec.containers[0].name"),
    ("Pod", C + "name", "side", "spec.containers[1].name"),
    ("Pod", C + "image", None, "spec.containers[0].image"),
    ("Pod", C + "image", " nginx", "spec.containers[0].image"),
    ("Pod", C + "imagePullPolicy", "Sometimes", "spec.containers[0].imagePullPolicy"),
    ("Pod", C + "ports/0/containerPort", None, "spec.containers[0].ports[0].containerPort"),
    ("Pod", C + "ports/0/containerPort", 65536, "spec.containers[0].ports[0].containerPort"),
    ("Pod", C + "ports/0/hostPort", -1, "spec.containers[0].ports[0].hostPort"),
    ("Pod", C + "ports/0/protocol", "tcp", "spec.containers[0].ports[0].protocol"),
    ("Pod", C + "ports/0/name", "HTTP", "spec.containers[0].ports[0].name"),
    ("Pod", C + "ports/0/name", "80", "spec.containers[0].ports[0].name"),
    ("Pod", C + "ports/0/name", "a" * 16, "spec.containers[0].ports[0].name"),
    ("Pod", C + "ports/0/hostIP", "here", "spec.containers[0].ports[0].hostIP"),
    ("Pod", C + "ports", [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}],
     "spec.containers[0].ports[1].name"),
    ("Pod", C + "ports", [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}],
     "spec.containers[0].ports[1].hostPort"),
    ("Pod", C + "env/0/name", "1A", "spec.containers[0].env[0].name"),
    ("Pod", C + "env/0/name", "A=B", "spec.containers[0].env[0].name"),
    ("Pod", C + "env/0/valueFrom", {}, "spec.containers[0].env[0].valueFrom"),
    ("Pod", C + "env/0", {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}},
     "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath"),
    ("Pod", C + "env/0", {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}},
     "spec.containers[0].env[0].valueFrom.secretKeyRef.key"),
    ("Pod", C + "envFrom", [{}], "spec.containers[0].envFrom[0]"),
    ("Pod", C + "volumeMounts/0/name", "other", "spec.containers[0].volumeMounts[0].name"),
    ("Pod", C + "volumeMounts/0/mountPath", None, "spec.containers[0].volumeMounts[0].mountPath"),
    ("Pod", C + "volumeMounts/0/subPath", "../a", "spec.containers[0].volumeMounts[0].subPath"),
    ("Pod", C + "volumeMounts", [{"name": "data", "mountPath": "/a"}] * 2,
     "spec.containers[0].volumeMounts[1].mountPath"),
    ("Pod", C + "resources/requests/cpu", "2", "spec.containers[0].resources.requests[cpu]"),
    ("Pod", C + "resources/limits", {"cpu": "-1"}, "spec.containers[0].resources.limits[cpu]"),
    ("Pod", C + "resources/limits", {"cpu": "much"}, "spec.containers[0].resources.limits[cpu]"),
    ("Pod", C + "resources/limits", {"a b": "1"}, "spec.containers[0].resources.limits[a b]"),
    ("Pod", C + "livenessProbe", {}, "spec.containers[0].livenessProbe"),
    ("Pod", C + "livenessProbe", {"exec": {"command": ["a"]}, "httpGet": {"port": 1}},
     "spec.containers[0].livenessProbe"),
    ("Pod", C + "livenessProbe", {"exec": {}}, "spec.containers[0].livenessProbe.exec.command"),
    ("Pod", C + "livenessProbe/periodSeconds", -1,
     "spec.containers[0].livenessProbe.periodSeconds"),
    ("Pod", C + "livenessProbe/successThreshold", 2,
     "spec.containers[0].livenessProbe.successThreshold"),
    ("Pod", C + "livenessProbe/tcpSocket/port", 0,
     "spec.containers[0].livenessProbe.tcpSocket.port"),
    ("Pod", C + "lifecycle/preStop", {}, "spec.containers[0].lifecycle.preStop"),
    ("Pod", "spec/volumes/0/name", "data.x", "spec.volumes[0].name"),
    ("Pod", "spec/volumes", [{"name": "data"}, {"name": "data"}], "spec.volumes[1].name"),
    ("Pod", "spec/volumes/0/hostPath", {"path": "/"}, "spec.volumes[0]"),
    ("Pod", "spec/volumes/0", {"name": "data", "hostPath": {}}, "spec.volumes[0].hostPath.path"),
    ("Pod", "spec/volumes/0", {"name": "data", "secret": {}},
     "spec.volumes[0].secret.secretName"),
    ("Pod", "spec/volumes/0", {"name": "data", "configMap": {}}, "spec.volumes[0].configMap.name"),
    ("Pod", "spec/volumes/0/emptyDir", {"medium": "Tape"}, "spec.volumes[0].emptyDir.medium"),
    ("Pod", "spec/volumes/0/emptyDir", {"sizeLimit": "-1"}, "spec.volumes[0].emptyDir.sizeLimit"),
    ("Pod", "spec/volumes/0",
     {"name": "data", "secret": {"secretName": "s", "items": [{"key": "a", "path": "/a"}]}},
     "spec.volumes[0].secret.items[0].path"),
    ("Pod", "spec/volumes/0",
     {"name": "data", "configMap": {"name": "s", "defaultMode": 0o1000}},
     "spec.volumes[0].configMap.defaultMode"),
    ("Pod", "spec/restartPolicy", "Perhaps", "spec.restartPolicy"),
    ("Pod", "spec/dnsPolicy", "None", "spec.dnsConfig.nameservers"),
    ("Pod", "spec/dnsPolicy", "Any", "spec.dnsPolicy"),
    ("Pod", "spec/terminationGracePeriodSeconds", -1, "spec.terminationGracePeriodSeconds"),
    ("Pod", "spec/activeDeadlineSeconds", 0, "spec.activeDeadlineSeconds"),
    ("Pod", "spec/nodeSelector", {"a": "b c"}, "spec.nodeSelector[a]"),
    ("Pod", "spec/nodeName", "a b", "spec.nodeName"),
    ("Pod", "spec/hostname", "a.b", "spec.hostname"),
    ("Pod", "spec/imagePullSecrets", [{}], "spec.imagePullSecrets[0].name"),
    ("Pod", "spec/hostAliases", [{"ip": "x"}], "spec.hostAliases[0].ip"),
    ("Pod", "spec/tolerations", [{"operator": "Equal"}], "spec.tolerations[0].operator"),
    ("Pod", "spec/tolerations", [{"key": "a", "effect": "Never"}], "spec.tolerations[0].effect"),
    ("Pod", "spec/tolerations", [{"key": "a", "tolerationSeconds": 1}],
     "spec.tolerations[0].effect"),
    ("Pod", "spec/ephemeralContainers", [{"name": "a"}], "spec.ephemeralContainers"),
    # replication controllers and templates
    ("ReplicationController", "spec/replicas", -1, "spec.replicas"),
    ("ReplicationController", "spec/replicas", 2**31, "spec.replicas"),
    ("ReplicationController", "spec/template", None, "spec.template"),
    ("ReplicationController", T + "metadata/labels", None, "spec.template.metadata.labels"),
    ("ReplicationController", "spec/selector/app", "other", "spec.template.metadata.labels"),
    ("ReplicationController", T + "spec/restartPolicy", "Never",
     "spec.template.spec.restartPolicy"),
    ("ReplicationController", T + "spec/containers/0/image", None,
     "spec.template.spec.containers[0].image"),
    ("PodTemplate", "template/spec/containers", [], "template.spec.containers"),
    # services and endpoints
    ("Service", "spec/ports", [], "spec.ports"),
    ("Service", "spec/ports/0/name", None, "spec.ports[0].name"),
    ("Service", "spec/ports/0/name", "https", "spec.ports[1].name"),
    ("Service", "spec/ports/0/port", None, "spec.ports[0].port"),
    ("Service", "spec/ports/0/port", 70000, "spec.ports[0].port"),
    ("Service", "spec/ports/0/port", 443, "spec.ports[1].port"),
    ("Service", "spec/ports/0/protocol", "ICMP", "spec.ports[0].protocol"),
    ("Service", "spec/ports/0/targetPort", "80 порт", "spec.ports[0].targetPort"),
    ("Service", "spec/ports/0/targetPort", "80", "spec.ports[0].targetPort"),
    ("Service", "spec/ports/0/targetPort", -1, "spec.ports[0].targetPort"),
    ("Service", "spec/ports/0/nodePort", 30080, "spec.ports[0].nodePort"),
    ("Service", "spec/clusterIP", "none", "spec.clusterIP"),
    ("Service", "spec/clusterIP", "10.0.0.256", "spec.clusterIP"),
    ("Service", "spec/externalIPs", ["0.0.0.0"], "spec.externalIPs[0]"),
    ("Service", "spec/externalIPs", ["127.0.0.1"], "spec.externalIPs[0]"),
    ("Service", "spec/externalIPs", ["169.254.1.1"], "spec.externalIPs[0]"),
    ("Service", "spec/externalIPs", ["224.0.0.1"], "spec.externalIPs[0]"),
    ("Service", "spec/externalIPs", ["host"], "spec.externalIPs[0]"),
    ("Service", "spec/sessionAffinity", "Cookie", "spec.sessionAffinity"),
    ("Service", "spec/sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 5}},
     "spec.sessionAffinityConfig"),
    ("Service", "spec/type", "Portal", "spec.type"),
    ("Service", "spec/type", "ExternalName", "spec.externalName"),
    ("Service", "spec/selector", {"a": "b c"}, "spec.selector[a]"),
    ("Service", "metadata/annotations", {"k8slite.io/client-address": "proxy-v3"},
     "metadata.annotations[k8slite.io/client-address]"),
    ("Service", "metadata/annotations", {"k8slite.io/warm-up": "soon"},
     "metadata.annotations[k8slite.io/warm-up]"),
    ("Service", "metadata/annotations", {"k8slite.io/warm-up": "3601s"},
     "metadata.annotations[k8slite.io/warm-up]"),
    ("Service", "status/loadBalancer", {"ingress": [{"ip": "::"}]},
     "status.loadBalancer.ingress[0].ip"),
    ("Service", "status/loadBalancer", {"ingress": [{"hostname": "a"}, {"ip": "127.0.0.1"}]},
     "status.loadBalancer.ingress[1].ip"),
    ("Endpoints", "subsets/0/addresses/0/ip", "127.0.0.1", "subsets[0].addresses[0].ip"),
    ("Endpoints", "subsets/0/addresses/0/ip", "web", "subsets[0].addresses[0].ip"),
    ("Endpoints", "subsets/0/addresses", None, "subsets[0]"),
    ("Endpoints", "subsets/0/ports/0/port", 0, "subsets[0].ports[0].port"),
    # data
    ("Secret", "data", {"a b": "YQ=="}, "data[a b]"),
    ("Secret", "data", {"a": "not base64!"}, "data[a]"),
    ("Secret", "data", {"a": "YQ"}, "data[a]"),
    ("Secret", "stringData", {"b": BIG}, "data"),
    ("Secret", "type", "kubernetes.io/tls", "data[tls.crt]"),
    ("Secret", "type", "kubernetes.io/dockerconfigjson", "data[.dockerconfigjson]"),
    ("ConfigMap", "data", {"..": "a"}, "data[..]"),
    ("ConfigMap", "data", {"b": "a"}, "binaryData[b]"),
    ("ConfigMap", "binaryData", {"b": "%"}, "binaryData[b]"),
    ("ConfigMap", "data", {"a": BIG}, "data and binaryData"),
    # the rest
    ("Namespace", "spec", {"finalizers": ["a b"]}, "spec.finalizers[0]"),
    ("Node", "spec/taints/0/effect", None, "spec.taints[0].effect"),
    ("Node", "spec/taints/0/key", "a b", "spec.taints[0].key"),
    ("Node", "spec/taints", [{"key": "a", "effect": "NoExecute"}] * 2, "spec.taints[1]"),
    ("Node", "spec/podCIDR", "10.1.0.1/24", "spec.podCIDRs[0]"),
    ("Node", "status/capacity/cpu", "-1", "status.capacity[cpu]"),
    ("Node", "status/allocatable", {"cpu": "3"}, "status.allocatable[cpu]"),
    ("LimitRange", "spec/limits/0/type", None, "spec.limits[0].type"),
    ("LimitRange", "spec/limits/0/min", {"cpu": "3"}, "spec.limits[0].min[cpu]"),
    ("LimitRange", "spec/limits/0/default", {"cpu": "3"}, "spec.limits[0].default[cpu]"),
    ("LimitRange", "spec/limits/0/defaultRequest", {"cpu": "3"},
     "spec.limits[0].defaultRequest[cpu]"),
    ("LimitRange", "spec/limits/0/max", {"cpu": "x"}, "spec.limits[0].max[cpu]"),
    ("LimitRange", "spec/limits/0", {"type": "Pod", "default": {"cpu": "1"}},
     "spec.limits[0].default"),
    ("ResourceQuota", "spec/hard", {"pods": "-1"}, "spec.hard[pods]"),
    ("ResourceQuota", "spec/scopes", ["Best"], "spec.scopes[0]"),
    ("ResourceQuota", "spec/scopes", ["BestEffort", "NotBestEffort"], "spec.scopes"),
    ("Event", "type", "Odd", "type"),
    ("Event", "involvedObject/namespace", "other", "involvedObject.namespace"),
    ("ServiceAccount", "imagePullSecrets", [{}], "imagePullSecrets[0].name"),
    ("Binding", "target/name", None, "target.name"),
    ("Binding", "target/kind", "Pod", "target.kind"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "value", "field"), REFUSED)
def test_the_wrong_field_is_named(kind: str, path: str, value: Any, field: str) -> None:
    found = errors(changed(kind, path, value))
    assert field in [error.path for error in found]
    assert all(error.message and len(error.message) < 400 for error in found)


ALLOWED: list[tuple[str, str, Any]] = [
    ("Pod", "metadata", {"generateName": "web-", "namespace": "default"}),
    ("Pod", "metadata/name", "a.b-c"),
    ("Pod", "metadata/annotations", {"Any.Example.com/Thing": "строка\n"}),
    ("Pod", "metadata/labels", {"example.com/a_b.c": ""}),
    ("Pod", C + "env/0/name", "a.b-c_D"),
    ("Pod", C + "env/0",
     {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}),
    ("Pod", C + "ports/0/protocol", "SCTP"),
    ("Pod", C + "resources/limits", {"cpu": "1", "example.com/gpu": "2"}),
    ("Pod", "spec/tolerations", [{"operator": "Exists"}]),
    ("Service", "spec/clusterIP", "None"),
    ("Service", "spec/ports", [{"port": 53, "protocol": "UDP"}]),
    ("Service", "spec/ports", [{"name": "a", "port": 53}, {"name": "b", "port": 53,
                                                           "protocol": "UDP"}]),
    ("Secret", "data", {}),
    ("Event", "involvedObject", {"kind": "Node", "name": "a"}),
    ("Binding", "target/kind", None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "value"), ALLOWED)
def test_unusual_is_not_wrong(kind: str, path: str, value: Any) -> None:
    assert errors(changed(kind, path, value)) == []


class TestUpdates:
    def update(self, kind: str, path: str, value: Any, **old: Any) -> list[str]:
        raw = document(kind)
        for where, what in old.items():
            raw = msgspec.convert({**raw, where: what}, dict)
        return [error.path for error in errors(changed(kind, path, value), read(raw))]

    @pytest.mark.parametrize("field", ["name", "namespace"])
    @pytest.mark.parametrize("kind", [kind for kind in GOOD if kind not in (*ROOT, "Binding")])
    def test_identity_stays(self, kind: str, field: str) -> None:
        assert f"metadata.{field}" in self.update(kind, f"metadata/{field}", "other")

    def test_uid_and_birthday_stay(self) -> None:
        meta = {"name": "web", "namespace": "default", "uid": "1"}
        meta["creationTimestamp"] = "2026-01-02T03:04:05Z"
        old = read({**document("Pod"), "metadata": meta})
        for field, value in (("uid", "2"), ("creationTimestamp", "2027-01-02T03:04:05Z")):
            new = read({**document("Pod"), "metadata": {**meta, field: value}})
            found = SCHEME.of(new).strategy.validate(new, old)
            assert [error.path for error in found] == [f"metadata.{field}"]
        silent = read(document("Pod"))
        assert SCHEME.of(silent).strategy.validate(silent, old) == []

    def test_images_of_a_pod_may_change(self) -> None:
        assert self.update("Pod", "spec/containers/1/image", "busybox:2") == []

    def test_labels_of_a_pod_may_change(self) -> None:
        assert self.update("Pod", "metadata/labels", {"a": "b"}) == []

    def test_tolerations_may_be_added(self) -> None:
        more = [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]
        assert self.update("Pod", "spec/tolerations", more) == []
        assert self.update("Pod", "spec/tolerations", []) == ["spec.tolerations"]

    def test_a_deadline_may_be_set_and_only_shortened(self) -> None:
        assert self.update("Pod", "spec/activeDeadlineSeconds", 9) == []
        old = read(changed("Pod", "spec/activeDeadlineSeconds", 5))
        found = errors(changed("Pod", "spec/activeDeadlineSeconds", 9), old)
        assert [error.path for error in found] == ["spec.activeDeadlineSeconds"]

    @pytest.mark.parametrize(
        ("path", "value", "field"),
        [
            (C + "command", ["sh"], "spec.containers[0].command"),
            (C + "env/0/value", "2", "spec.containers[0].env[0].value"),
            ("spec/nodeName", "other", "spec.nodeName"),
            ("spec/restartPolicy", "Never", "spec.restartPolicy"),
            ("spec/containers/1", {"name": "new", "image": "a"}, "spec.containers[1].name"),
            ("spec/containers", [{"name": "web", "image": "nginx"}], "spec.containers"),
        ],
    )
    def test_nothing_else_of_a_pod_may(self, path: str, value: Any, field: str) -> None:
        assert self.update("Pod", path, value) == [field]

    def test_a_portal_address_stays(self) -> None:
        assert self.update("Service", "spec/clusterIP", "10.0.0.2") == ["spec.clusterIP"]

    def test_a_portal_address_left_out_is_kept(self) -> None:
        old = read(document("Service"))
        new = read(changed("Service", "spec/clusterIP", None))
        strategy = SCHEME.of(new).strategy
        kept = strategy.prepare_update(new, old)
        assert kept.spec.cluster_ip == "10.0.0.1"
        assert strategy.validate(kept, old) == []

    def test_a_status_that_is_wrong_already_keeps_nobody_from_changing_the_rest(self) -> None:
        spoilt = {"loadBalancer": {"ingress": [{"ip": "gone"}]}}
        old = read({**document("Service"), "status": spoilt})
        new = read({**changed("Service", "metadata/labels", {"a": "b"}), "status": spoilt})
        assert SCHEME.of(new).strategy.validate(new, old) == []

    def test_what_is_immutable_stays(self) -> None:
        for kind in ("Secret", "ConfigMap"):
            assert self.update(kind, "immutable", True) == []
            path, value = "data", {"a": "Yg=="}
            found = self.update(kind, path, value, immutable=True)
            assert found == ["immutable", "data"]
        assert self.update("Secret", "type", "example.com/other") == ["type"]

    def test_no_finalizer_joins_a_deletion(self) -> None:
        leaving = {"name": "web", "namespace": "default", "finalizers": ["a/b"]}
        leaving["deletionTimestamp"] = "2026-01-02T03:04:05Z"
        old = read({**document("Secret"), "metadata": leaving})
        new = read({**document("Secret"), "metadata": {**leaving, "finalizers": ["a/b", "c/d"]}})
        found = SCHEME.of(new).strategy.validate(new, old)
        assert [error.path for error in found] == ["metadata.finalizers"]


class TestStatus:
    def test_only_the_status_is_written(self) -> None:
        old = read(document("Pod"))
        new = read(changed("Pod", C + "image", "other"))
        new = msgspec.structs.replace(
            new, status=read(changed("Pod", "status/phase", "Running")).status
        )
        kept = SCHEME.of(new).strategy.prepare_status(new, old)
        assert kept.spec == old.spec
        assert kept.status.phase == "Running"

    def test_the_body_does_not_write_the_status(self) -> None:
        for kind in ("Pod", "ReplicationController", "Service", "Namespace", "ResourceQuota"):
            old = read(document(kind))
            new = msgspec.structs.replace(old, status=None)
            assert SCHEME.of(old).strategy.prepare_update(new, old).status == old.status

    def test_users_do_not_create_a_status(self) -> None:
        pod = read(changed("Pod", "status/phase", "Running"))
        assert SCHEME.of(pod).strategy.prepare_create(pod).status.phase == "Pending"

    @pytest.mark.parametrize(
        ("kind", "status", "field"),
        [
            ("Pod", {"phase": "Odd"}, "status.phase"),
            ("Pod", {"podIP": "x"}, "status.podIP"),
            ("ReplicationController", {"replicas": -1}, "status.replicas"),
            ("ReplicationController", {"readyReplicas": 1}, "status.readyReplicas"),
            ("Namespace", {"phase": "Terminating"}, "status.phase"),
            ("Node", {"capacity": {"cpu": "-1"}}, "status.capacity[cpu]"),
            ("ResourceQuota", {"used": {"pods": "x"}}, "status.used[pods]"),
        ],
    )
    def test_wrong_statuses_are_refused(
        self, kind: str, status: dict[str, Any], field: str
    ) -> None:
        obj = read({**document(kind), "status": status})
        found = SCHEME.of(obj).strategy.validate_status(obj, None)
        assert field in [error.path for error in found]


class TestFieldSelectors:
    @pytest.mark.parametrize(
        ("kind", "raw", "expected"),
        [
            ("Pod", {"spec": {"nodeName": "n"}}, {"spec.nodeName": "n", "spec.host": "n"}),
            ("Pod", {"status": {"phase": "Failed", "podIP": "1.2.3.4"}},
             {"status.phase": "Failed", "status.podIP": "1.2.3.4"}),
            ("Node", {"spec": {"unschedulable": True}}, {"spec.unschedulable": "true"}),
            ("Event", {"reason": "Killing", "source": {"component": "kubelet"}},
             {"reason": "Killing", "source": "kubelet"}),
            ("Event", {"involvedObject": {"name": "web"}}, {"involvedObject.name": "web"}),
            ("Secret", {"type": "a/b"}, {"type": "a/b"}),
            ("Namespace", {"status": {"phase": "Active"}}, {"status.phase": "Active"}),
            ("ReplicationController", {"status": {"replicas": 3}}, {"status.replicas": "3"}),
        ],
    )  # fmt: skip
    def test_fields_that_selectors_see(
        self, kind: str, raw: dict[str, Any], expected: dict[str, str]
    ) -> None:
        decoded = codec.from_raw({"kind": kind, "apiVersion": "v1", **raw})
        seen = decoded.kind.fields(decoded.object)
        assert expected.items() <= seen.items()
        assert seen.keys() == decoded.kind.fields(decoded.kind.new()).keys()
