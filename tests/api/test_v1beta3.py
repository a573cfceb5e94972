"""The API of 2015: its words in, its words out, and nothing lost between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from document_shapes import KINDS, documents
from hypothesis import given, settings
from hypothesis import strategies as st

from k8slite.api import codec, v1beta3
from k8slite.api.errors import BadRequest
from k8slite.api.kinds import ENDPOINTS, POD, REPLICATION_CONTROLLER, SERVICE
from k8slite.api.meta import Object

ARTICLE_RC = """\
apiVersion: v1beta3
kind: ReplicationController
# Указываем имя ReplicationController
metadata:
  name: nginx-controller
spec:
  # Устанавливаем количество реплик
  replicas: 6
  selector:
    name: nginx
  template:
    metadata:
      labels:
        name: nginx
    spec:
      containers:
        #Описываем контейнер
        - name: nginx
          image: nginx
          #Пробрасываем порты
          ports:
            - containerPort: 80
            - containerPort: 443
          livenessProbe:
            # включаем проверку работоспособности
            enabled: true
            type: http
            # Время ожидания после запуска pod'ы до момента начала проверок
            initialDelaySeconds: 30
            TimeoutSeconds: 5
            # http проверка
            httpGet:
              path: /
              port: 80
      portals:
        - destination: nginx
"""

BROKEN = "80 порт контейнера на который будет производиться трансляция запросов"
ARTICLE_SERVICE = f"""\
apiVersion: v1beta3
kind: Service
metadata:
  name: nginx
spec:
  publicIPs:\x20
    - 12.0.0.5 # IP который будет присвоен сервису помимо автоматически назначенного.
  ports:
    - name: http
      port: 80 #порт на котором будет слушать сервис
      targetPort: {BROKEN}
      protocol: TCP
    - name: https
      port: 443
      targetPort: 443
      protocol: TCP
  selector:
    name: nginx # поле должно совпадать с аналогичным в конфиге ReplicationController
"""


def decode(text: str, **door: Any) -> codec.Decoded[Any]:
    return codec.decode_document(text.encode(), "application/yaml", **door)


def old_words(obj: Object) -> dict[str, Any]:
    """``obj`` as v1beta3 writes it."""
    return v1beta3.to_v1beta3(msgspec.json.decode(codec.encode(obj)))


def old(kind: str, **body: Any) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": "v1beta3", **body}


class TestTheArticle:
    def test_its_controller_decodes_and_is_valid(self) -> None:
        decoded = decode(ARTICLE_RC)
        assert decoded.warnings == [
            'unknown field "spec.template.spec.containers[0].livenessProbe.enabled"',
            'unknown field "spec.template.spec.containers[0].livenessProbe.type"',
            'unknown field "spec.template.spec.portals"',
        ]
        controller = REPLICATION_CONTROLLER.strategy.default(decoded.object)
        assert REPLICATION_CONTROLLER.strategy.validate(controller, None) == []
        container = controller.spec.template.spec.containers[0]
        assert container.liveness_probe.timeout_seconds == 5
        assert container.liveness_probe.initial_delay_seconds == 30
        assert container.image_pull_policy == "IfNotPresent"

    def test_the_broken_line_of_its_service_is_refused_by_field(self) -> None:
        service = SERVICE.strategy.default(decode(ARTICLE_SERVICE).object)
        (error,) = SERVICE.strategy.validate(service, None)
        assert error.path == "spec.ports[0].targetPort"
        assert BROKEN in error.message

    def test_its_service_with_that_line_mended_is_valid(self) -> None:
        decoded = decode(ARTICLE_SERVICE.replace(BROKEN, "80"))
        assert decoded.warnings == []
        assert decoded.object.spec.external_ips == ("12.0.0.5",)
        service = SERVICE.strategy.default(decoded.object)
        assert SERVICE.strategy.validate(service, None) == []

    def test_its_files_in_examples_are_valid(self) -> None:
        folder = Path(__file__).parents[2] / "examples" / "article"
        for file in ("nginx_rc.yaml", "nginx_service.yaml"):
            decoded = decode((folder / file).read_text())
            strategy = decoded.kind.strategy
            assert strategy.validate(strategy.default(decoded.object), None) == []


class TestWordsOf2015:
    def test_pods(self) -> None:
        raw = old(
            "Pod",
            Spec={
                "Host": "10.0.0.1",
                "containers": [
                    {"name": "a", "image": "b", "privileged": True, "capabilities": {"Add": ["X"]}},
                    {"name": "c", "image": "d:latest", "env": [
                        {"name": "N", "valueFrom": {"fieldRef": {
                            "apiVersion": "v1beta3", "fieldPath": "spec.host"}}}]},
                ],
            },
            status={
                "Condition": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "a", "state": {"termination": {"exitCode": 3}}}],
            },
        )  # fmt: skip
        decoded = codec.from_raw(raw)
        assert decoded.warnings == []
        pod = decoded.object
        first, second = pod.spec.containers
        assert pod.api_version == "v1"
        assert pod.spec.node_name == "10.0.0.1"
        assert first.security_context.privileged is True
        assert first.security_context.capabilities.add == ("X",)
        assert second.image_pull_policy == "Always"
        assert second.env[0].value_from.field_ref.field_path == "spec.nodeName"
        assert second.env[0].value_from.field_ref.api_version == "v1"
        assert pod.status.conditions[0].type == "Ready"
        assert pod.status.container_statuses[0].state.terminated.exit_code == 3
        back = old_words(pod)
        assert back["spec"]["host"] == "10.0.0.1"
        assert back["spec"]["containers"][0]["privileged"] is True
        assert back["spec"]["containers"][0]["capabilities"] == {"add": ["X"]}
        assert "securityContext" not in back["spec"]["containers"][0]
        assert back["status"]["Condition"][0]["type"] == "Ready"
        status = back["status"]["containerStatuses"][0]
        assert status["state"] == {"termination": {"exitCode": 3}}

    def test_services(self) -> None:
        spec = {"portalIP": "None", "publicIPs": ["1.2.3.4"], "createExternalLoadBalancer": True}
        service = codec.from_raw(old("Service", spec=spec)).object
        assert service.spec.cluster_ip == "None"
        assert service.spec.external_ips == ("1.2.3.4",)
        assert service.spec.type == "LoadBalancer"
        assert old_words(service)["spec"] == spec

    def test_endpoints(self) -> None:
        raw = old("Endpoints", subsets=[{"addresses": [{"IP": "1.2.3.4"}], "ports": []}])
        endpoints = codec.from_raw(raw).object
        assert endpoints.subsets[0].addresses[0].ip == "1.2.3.4"
        back = v1beta3.to_bytes(ENDPOINTS, codec.encode(endpoints))
        assert b'"addresses":[{"IP":"1.2.3.4"}]' in back

    def test_statuses(self) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "details": {"name": "web", "kind": "pods"}}
        back = v1beta3.to_v1beta3(status)
        assert back["details"] == {"id": "web", "kind": "pods"}
        assert v1beta3.from_v1beta3(back) == status

    def test_lists(self) -> None:
        pods = {"kind": "PodList", "apiVersion": "v1", "items": [{"spec": {"nodeName": "a"}}]}
        back = v1beta3.to_v1beta3(pods)
        assert back["items"] == [{"spec": {"host": "a"}}]
        assert v1beta3.from_v1beta3(back) == pods
        item = {"kind": "Service", "apiVersion": "v1", "spec": {"clusterIP": "10.0.0.1"}}
        mixed = {"kind": "List", "apiVersion": "v1", "items": [item]}
        (service,) = v1beta3.to_v1beta3(mixed)["items"]
        assert (service["apiVersion"], service["spec"]) == ("v1beta3", {"portalIP": "10.0.0.1"})

    def test_bindings_and_events_say_what_they_say_today(self) -> None:
        raw = old("Binding", metadata={"name": "web"}, target={"kind": "Node", "name": "n"})
        assert codec.from_raw(raw).object.target.name == "n"
        raw = old("Event", involvedObject={"name": "web"}, source={"component": "scheduler"})
        assert codec.from_raw(raw).object.involved_object.name == "web"

    def test_the_later_of_two_spellings_counts(self) -> None:
        raw = old("Pod", spec={"restartPolicy": "Always", "RESTARTPOLICY": "Never"})
        assert codec.from_raw(raw).object.spec.restart_policy == "Never"

    def test_labels_are_data_whatever_their_case(self) -> None:
        raw = old("Pod", metadata={"Labels": {"Name": "a", "name": "b"}})
        assert codec.from_raw(raw).object.metadata.labels == {"Name": "a", "name": "b"}

    def test_wrong_types_are_refused(self) -> None:
        raw = old("Service", spec={"createExternalLoadBalancer": "yes"})
        with pytest.raises(BadRequest, match="expected true or false"):
            codec.from_raw(raw)
        with pytest.raises(BadRequest, match="spec: expected an object"):
            codec.from_raw(old("Pod", spec=[]))


def test_bytes_keep_their_head_first() -> None:
    pod = codec.from_raw({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}).object
    stamped = codec.stamp(POD, codec.encode_stored(pod), 7)
    converted = v1beta3.to_bytes(POD, stamped)
    assert converted.startswith(
        b'{"kind":"Pod","apiVersion":"v1beta3","metadata":{"resourceVersion":"7"'
    )


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS).flatmap(documents))
def test_there_and_back_is_where_we_were(raw: dict[str, Any]) -> None:
    decoded = codec.from_raw(raw)
    here = decoded.kind.strategy.default(decoded.object)
    there = v1beta3.to_bytes(decoded.kind, codec.encode(here))
    back = codec.decode_document(there, "", api_version="v1beta3")
    assert back.warnings == []
    assert back.kind.strategy.default(back.object) == here
