"""Bodies in protobuf: what kubectl 1.33 sent for known commands, and what nobody should send."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from k8slite.api import codec, protowire
from k8slite.api.errors import ApiError, BadRequest
from k8slite.api.fields import fields_of
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.replicationcontroller.types import Scale
from k8slite.api.meta import DeleteOptions
from k8slite.api.protobuf import read_document
from k8slite.api.protonumbers import NUMBERS
from k8slite.api.struct import Struct

MEDIA = "application/vnd.kubernetes.protobuf"

#: Resource → the body of its creation, as it went over the wire.
BODIES = {
    "namespaces": ("azhzAAoPCgJ2MRIJTmFtZXNwYWNlEhoKEgoCenoSABoAIgAqADIAOABCABIAGgIKABoAIgA="),
    "secrets": ("azhzAAoMCgJ2MRIGU2VjcmV0Eh0KEQoBehIAGgAiACoAMgA4AEIAEgYKAWESAWIaABoAIgA="),
    "configmaps": (
        "azhzAAoPCgJ2MRIJQ29uZmlnTWFwEicKEgoCemMSABoAIgAqADIAOABCABIGCgFhEgFiGgkKA2JpbhIC//4aACIA"
    ),
    "resourcequotas": (
        "azhzAAoTCgJ2MRINUmVzb3VyY2VRdW90YRIwChEKAXESABoAIgAqADIAOABCABIZCgoKA2NwdRIDCgExCgsKBHBv"
        "ZHMSAwoBNRoAGgAiAA=="
    ),
    "services": (
        "azhzAAoNCgJ2MRIHU2VydmljZRJnCh0KAnpzEgAaACIAKgAyADgAQgBaCQoDYXBwEgJ6cxJCChwKBjgwLXdlYhID"
        "VENQGFAiCQgBEAAaA3dlYigAEgkKA2FwcBICenMaACIJQ2x1c3RlcklQOgBCAFIAWgBgAGgAGgIKABoAIgA="
    ),
    "pods": (
        "azhzAAoJCgJ2MRIDUG9kEosFChwKBWZ1bGwyEgAaB2RlZmF1bHQiACoAMgA4AEIAEtUEChYKAWUSERIPCgZNZW1v"
        "cnkSBQoDMU1pChoKAXMSFTITCgF6EgkKAWESAWIYgAIYpAMgAQoTCgFtEg6aAQsKBAoCY20YpAMgAQoNCgFoEggK"
        "BgoEL3RtcAolCgFkEiCCAR0KGAoBcBITCgJ2MRINbWV0YWRhdGEubmFtZRCkAxKrAgoBYxIHYnVzeWJveBoFc2xl"
        "ZXAaBDEwMDAqADIQCgN3ZWIQABhQIgNUQ1AqADoGCgFBEgExOhMKAUISABoMIgoKAwoBehIBYRgBQjMKEAoGbWVt"
        "b3J5EgYKBDY0TWkSDQoDY3B1EgYKBDEwMG0SEAoGbWVtb3J5EgYKBDY0TWlKDQoBZRABGgIvZSIAMgBSJAoYEhYK"
        "AS8SCQgBEAAaA3dlYhoAIgRIVFRQEAMYASAKKAEwA1oYCgwaCgoGCAAQUBoAEgAQABgBIAooATADYg0SCwoJCgRl"
        "Y2hvCgF4ahQvZGV2L3Rlcm1pbmF0aW9uLWxvZ3IGQWx3YXlzeg8KCwoJTkVUX0FETUlOEACAAQCIAQCQAQCaAQwK"
        "ABIICgQKAmNtEAGiAQRGaWxlEjAKA2RiZxIHYnVzeWJveBoFc2xlZXAaATEqAEIAagByAIABAIgBAJABAKIBBEZp"
        "bGUaBkFsd2F5cyAFMgxDbHVzdGVyRmlyc3Q6CwoEZGlzaxIDc3NkQgBKAFIAWABgAGgAcgYQBSABIAKCAQCKAQCa"
        "ARFkZWZhdWx0LXNjaGVkdWxlcrIBGgoBaxIGRXhpc3RzGgAiCU5vRXhlY3V0ZSgewgEA8AEBGhMKABoAIgAqADIA"
        "SgBaAHIAiAEAGgAiAA=="
    ),
}


def body(name: str) -> bytes:
    return base64.b64decode(BODIES[name])


def decoded(name: str) -> Any:
    """The object and its document, which must be read without a warning."""
    kind = SCHEME.resource(name)
    found = codec.decode_document(body(name), MEDIA, kind=kind, api_version="v1", strict=True)
    assert found.kind is kind
    return msgspec.json.decode(codec.encode(found.object))


def test_create_namespace() -> None:
    document = decoded("namespaces")
    assert document["metadata"] == {"name": "zz"}


def test_create_secret_keeps_its_bytes_in_base64() -> None:
    document = decoded("secrets")
    assert document["data"] == {"a": base64.b64encode(b"b").decode()}


def test_create_configmap_tells_text_from_bytes() -> None:
    document = decoded("configmaps")
    assert document["data"] == {"a": "b"}
    assert document["binaryData"] == {"bin": base64.b64encode(b"\xff\xfe").decode()}


def test_create_quota() -> None:
    assert decoded("resourcequotas")["spec"] == {"hard": {"cpu": "1", "pods": "5"}}


def test_create_service_tells_names_of_ports_from_numbers() -> None:
    spec = decoded("services")["spec"]
    assert spec["ports"] == [{"name": "80-web", "protocol": "TCP", "port": 80, "targetPort": "web"}]
    assert spec["selector"] == {"app": "zs"}


def test_a_pod_with_everything() -> None:
    spec = decoded("pods")["spec"]
    assert spec["volumes"][0] == {"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    assert spec["volumes"][1]["secret"] == {
        "secretName": "z",
        "items": [{"key": "a", "path": "b", "mode": 256}],
        "defaultMode": 420,
        "optional": True,
    }
    assert spec["tolerations"][0]["tolerationSeconds"] == 30
    assert spec["securityContext"] == {"runAsUser": 5, "supplementalGroups": [1, 2]}
    container, debugger = spec["containers"]
    assert container["env"][1]["valueFrom"]["secretKeyRef"] == {
        "name": "z",
        "key": "a",
        "optional": True,
    }
    assert container["envFrom"] == [{"configMapRef": {"name": "cm", "optional": True}}]
    assert container["livenessProbe"]["httpGet"]["port"] == "web"
    assert container["readinessProbe"]["tcpSocket"]["port"] == 80
    assert container["resources"] == {
        "limits": {"memory": "64Mi"},
        "requests": {"cpu": "100m", "memory": "64Mi"},
    }
    assert container["securityContext"]["privileged"] is False
    assert debugger["command"] == ["sleep", "1"]


# --- what nobody should send -----------------------------------------------------------------


def envelope(kind: str, content: bytes, api_version: str = "v1") -> bytes:
    identity = protowire.text(1, api_version.encode()) + protowire.text(2, kind.encode())
    return b"k8s\0" + protowire.text(1, identity) + protowire.text(2, content)


def test_a_field_that_nobody_knows_is_named() -> None:
    strange = envelope("ConfigMap", protowire.text(77, b"x"))
    found = codec.decode_document(strange, MEDIA)
    assert found.warnings == ['unknown field "#77"']
    with pytest.raises(BadRequest, match="#77"):
        codec.decode_document(strange, MEDIA, strict=True)


def test_an_empty_field_that_nobody_knows_is_nothing() -> None:
    """Go writes every field, also those that are empty."""
    assert (
        codec.decode_document(envelope("ConfigMap", protowire.text(77, b"")), MEDIA).warnings == []
    )


def test_a_field_of_any_shape_is_refused_with_the_way_out() -> None:
    affinity = envelope("Pod", protowire.text(2, protowire.text(18, b"\x0a\x00")))
    with pytest.raises(BadRequest, match=r"affinity of PodSpec .* send the object as JSON"):
        read_document(affinity)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{}",
        envelope("No\nsense", b""),
        b"k8s\0\xff",
        envelope("Nonsense", b""),
        envelope("Pod", b"\x0a\xff\x01"),
        envelope("Pod", protowire.number(1, 5)),
        envelope("ConfigMap", protowire.text(1, protowire.text(1, b"\xff"))),
        envelope("Event", protowire.text(6, protowire.number(1, 1 << 62))),
    ],
)
def test_a_broken_body_is_refused(broken: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        read_document(broken)
    assert "\n" not in refused.value.message


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(BODIES)), st.data())
def test_a_body_with_wrong_bytes_is_an_object_or_one_line(name: str, data: st.DataObject) -> None:
    spoilt = bytearray(body(name))
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.decode_document(bytes(spoilt), MEDIA)
    except ApiError as error:
        refused = error.message
    else:
        refused = ""
    assert "\n" not in refused


# --- the table -------------------------------------------------------------------------------


def structs_below(struct: type[Struct]) -> set[type[Struct]]:
    found = {struct}
    for inner, _ in fields_of(struct).below.values():
        found |= structs_below(inner)
    return found


def test_every_field_of_every_struct_has_a_number_of_its_own() -> None:
    for root in (*(kind.type for kind in SCHEME), Scale, DeleteOptions):
        for struct in structs_below(root):
            words = NUMBERS[struct.__name__].split()
            info = inspect.type_info(struct)
            assert isinstance(info, inspect.StructType)
            own = {field.encode_name for field in info.fields}
            if "metadata" in own or struct is DeleteOptions:
                own -= {"kind", "apiVersion"}
            assert set(words[::2]) == own, struct
            assert len(set(words[1::2])) == len(own), struct
