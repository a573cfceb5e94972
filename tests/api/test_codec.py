"""What documents become, and what is said about those that become nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from k8slite.api import codec
from k8slite.api.errors import BadRequest, UnsupportedMediaType
from k8slite.api.kinds import POD, SERVICE
from k8slite.api.meta import DeleteOptions

AT = "malformed YAML: line 1, column "

POD_TEXT = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: nginx
"""


def decode(body: str | bytes | dict[str, Any], media: str = "", **door: Any) -> codec.Decoded[Any]:
    if isinstance(body, dict):
        body = json.dumps(body)
    return codec.decode_document(body if isinstance(body, bytes) else body.encode(), media, **door)


def refusal(body: str | bytes | dict[str, Any], media: str = "", **door: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        decode(body, media, **door)
    assert "\n" not in caught.value.message
    return caught.value.message


def pod(**spec: Any) -> dict[str, Any]:
    container = {"name": "web", "image": "nginx"}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "web"},
        "spec": {"containers": [container], **spec},
    }


class TestGoodDocuments:
    def test_json_and_yaml_say_the_same(self) -> None:
        from_yaml = decode(POD_TEXT, "application/yaml")
        from_json = decode(pod() | {"metadata": {"name": "web", "labels": {"app": "web"}}})
        assert from_yaml.object == from_json.object
        assert from_yaml.kind is POD
        assert from_yaml.warnings == []

    def test_nothing_is_defaulted(self) -> None:
        assert decode(pod()).object.spec.restart_policy == ""

    def test_null_means_absent(self) -> None:
        document = pod(volumes=None, nodeSelector=None)
        document["metadata"]["creationTimestamp"] = None
        decoded = decode(document)
        assert decoded.object.spec.volumes == ()
        assert decoded.object.metadata.creation_timestamp is None

    def test_the_door_says_what_the_document_leaves_out(self) -> None:
        decoded = decode('{"metadata": {"name": "web"}}', kind=POD, api_version="v1")
        assert (decoded.object.kind, decoded.object.api_version) == ("Pod", "v1")

    @pytest.mark.parametrize("media", ["", "application/json", "application/json; charset=utf-8"])
    def test_json_is_what_clients_send_unless_they_say_otherwise(self, media: str) -> None:
        assert decode(pod(), media).object.metadata.name == "web"

    def test_an_escaped_body_is_no_duplicate(self) -> None:
        body = json.dumps(pod()).replace("web", "\\u0077eb")
        assert decode(body).warnings == []

    def test_other_structs_are_read_the_same_way(self) -> None:
        body = b'{"kind":"DeleteOptions","apiVersion":"v1beta3","GracePeriodSeconds":5,"x":null}'
        options, warnings = codec.decode_struct(body, "", DeleteOptions)
        assert options.grace_period_seconds == 5
        assert warnings == []


class TestUnknownFields:
    def test_they_are_named_where_they_stand(self) -> None:
        document = pod(portals=[1])
        document["spec"]["containers"][0]["livenessProbe"] = {"enabled": True}
        assert decode(document).warnings == [
            'unknown field "spec.containers[0].livenessProbe.enabled"',
            'unknown field "spec.portals"',
        ]

    def test_strictly_they_are_refused(self) -> None:
        said = refusal(pod(portals=[1]), strict=True)
        assert said == 'strict decoding error: unknown field "spec.portals"'

    def test_a_field_given_twice_is_named(self) -> None:
        twice = json.dumps(pod()).replace('"image": "nginx"', '"image": "a", "image": "nginx"')
        assert decode(twice).warnings == ['duplicate field "spec.containers[0].image"']
        twice_in_yaml = POD_TEXT + "    image: other\n"
        decoded = decode(twice_in_yaml, "application/yaml")
        assert decoded.warnings == ['duplicate field "spec.containers[0].image"']
        assert decoded.object.spec.containers[0].image == "other"

    def test_the_case_of_letters_counts(self) -> None:
        assert decode(pod(RestartPolicy="Never")).warnings == ['unknown field "spec.RestartPolicy"']


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ({"ports": 5}, "spec.ports: expected a list, got an integer"),
            ({"ports": [{"port": "x"}]}, "spec.ports[0].port: expected an integer, got a string"),
            (
                {"ports": [{"targetPort": True}]},
                "spec.ports[0].targetPort: expected an integer or a string, got a boolean",
            ),
            ({"ports": [None]}, "spec.ports[0]: expected an object, got null"),
            (
                {"selector": {"a": "b", "c": 1}},
                "spec.selector[c]: expected a string, got an integer",
            ),
            ({"clusterIP": {}}, "spec.clusterIP: expected a string, got an object"),
        ],
    )
    def test_the_field_is_named(self, spec: dict[str, Any], said: str) -> None:
        assert refusal({"kind": "Service", "apiVersion": "v1", "spec": spec}) == said

    def test_a_quantity_is_text_or_a_number(self) -> None:
        document = pod()
        document["spec"]["containers"][0]["resources"] = {"limits": {"cpu": [1]}}
        said = refusal(document)
        assert said == (
            "spec.containers[0].resources.limits[cpu]: expected a string or a number, got a list"
        )

    def test_times_are_times(self) -> None:
        document = {"kind": "Event", "apiVersion": "v1", "firstTimestamp": "yesterday"}
        assert refusal(document).startswith("firstTimestamp: expected a time like 2026-")

    def test_numbers_fit_in_64_bits(self) -> None:
        document = pod(activeDeadlineSeconds=2**64)
        assert "does not fit in 64 bits" in refusal(document)


class TestYamlScalars:
    """YAML 1.1 as Kubernetes reads it."""

    @pytest.mark.parametrize("word", ["yes", "No", "on", "OFF", "true"])
    def test_words_for_booleans_are_no_labels(self, word: str) -> None:
        text = POD_TEXT.replace("app: web", f"app: {word}")
        said = refusal(text, "application/yaml")
        assert said == "metadata.labels[app]: expected a string, got a boolean"

    def test_numbers_are_no_labels(self) -> None:
        text = POD_TEXT.replace("app: web", "app: 1.0")
        assert "metadata.labels[app]: expected a string" in refusal(text, "application/yaml")

    @pytest.mark.parametrize(
        "word", ["2026-01-02", "1:30", "'yes'", '"5"', "y", "0x", "1_a", "=", "-a"]
    )
    def test_times_and_quoted_words_are_text(self, word: str) -> None:
        text = POD_TEXT.replace("{app: web}", "") + f"  nodeSelector:\n    app: {word}\n"
        found = decode(text, "application/yaml").object.spec.node_selector["app"]
        assert found == word.strip("'\"")

    @pytest.mark.parametrize(
        ("text", "value"),
        [("0644", 420), ("0o644", 420), ("0x10", 16), ("-7", -7), ("1_000", 1000)],
    )
    def test_integers(self, text: str, value: int) -> None:
        spec = POD_TEXT + f"  activeDeadlineSeconds: {text}\n"
        assert decode(spec, "application/yaml").object.spec.active_deadline_seconds == value

    def test_anchors_aliases_and_merges(self) -> None:
        text = POD_TEXT.replace("- name: web\n", "- &base\n    name: web\n") + (
            "  - <<: *base\n    name: second\n"
        )
        containers = decode(text, "application/yaml").object.spec.containers
        assert [(c.name, c.image) for c in containers] == [("web", "nginx"), ("second", "nginx")]


class TestBadBodies:
    @pytest.mark.parametrize(
        ("body", "media", "said"),
        [
            ("", "", "the body is empty; an object is expected"),
            ("  \n", "", "the body is empty; an object is expected"),
            ("# nothing\n", "application/yaml", "the body is empty; an object is expected"),
            ("[]", "", "expected an object, got a list"),
            ("5", "", "expected an object, got a number"),
            ("null", "", "expected an object, got null"),
            ("word", "application/yaml", "expected an object, got a string"),
            ('{"kind": NaN}', "", "malformed JSON: invalid character (byte 9)"),
            ('{"kind": "Pod"', "", "malformed JSON: input data was truncated"),
            ("{}]", "", "malformed JSON: trailing characters (byte 3)"),
            (b'{"kind": "\xff"}', "", "the body is not UTF-8: byte 10 fits nothing"),
            (b"\xff\xfea", "application/yaml", "the body is not UTF-8: byte 0 fits nothing"),
            ("a: 1\n--- {}", "text/yaml", "the body holds several documents; send one at a time"),
            ("a: 'b", "text/yaml", f"{AT}6: found unexpected end of stream"),
            ("a: *b", "text/yaml", f"{AT}4: nothing is anchored as &b"),
            ("a: .nan", "text/yaml", f"{AT}4: .nan is no number that JSON can carry"),
            ("a: 1e999", "text/yaml", f"{AT}4: 1e999 is out of range"),
            ("a: !!python/x y", "text/yaml", f"{AT}4: the tag !!python/x is not known here"),
            ("? [a]\n: 1", "text/yaml", "malformed YAML: a key must be a scalar"),
        ],
    )  # fmt: skip
    def test_each_gets_one_clear_line(self, body: str | bytes, media: str, said: str) -> None:
        assert refusal(body, media) == said

    def test_other_media_are_refused(self) -> None:
        with pytest.raises(UnsupportedMediaType) as caught:
            decode("{}", "application/x-www-form-urlencoded")
        assert "send application/json or application/yaml" in caught.value.message

    @pytest.mark.parametrize("media", ["application/json", "application/yaml"])
    @pytest.mark.parametrize("depth", [250, 5_000, 500_000])
    def test_deep_nesting_is_refused(self, media: str, depth: int) -> None:
        assert "nest" in refusal('{"a":' + "[" * depth + "]" * depth + "}", media)

    def test_alias_bombs_are_refused(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
        assert "aliases add more than" in refusal("\n".join(lines), "application/yaml")

    def test_an_anchor_cannot_hold_itself(self) -> None:
        assert "nothing is anchored" in refusal("a: &a [*a]", "application/yaml")


class TestKindsAndVersions:
    def test_unknown_kinds_are_named_with_the_known_ones(self) -> None:
        said = refusal({"kind": "Foo", "apiVersion": "v1"})
        assert said.startswith('no kind "Foo" is registered for version "v1"; known kinds are ')
        assert "ReplicationController" in said

    @pytest.mark.parametrize("version", ["v1beta1", "v1beta2", "v2", "apps/v1"])
    def test_unknown_versions_are_named_with_the_known_ones(self, version: str) -> None:
        said = refusal({"kind": "Pod", "apiVersion": version})
        assert said == (
            f'no kind "Pod" is registered for version "{version}"; known versions are v1, v1beta3'
        )

    def test_document_and_door_agree(self) -> None:
        assert 'kind "Pod", this address takes "Service"' in refusal(pod(), kind=SERVICE)
        assert '"v1", this address takes "v1beta3"' in refusal(pod(), api_version="v1beta3")

    @pytest.mark.parametrize(
        ("document", "said"),
        [
            ({"apiVersion": "v1"}, "the document does not say its kind"),
            ({"kind": "Pod"}, "the document does not say its apiVersion; known are v1 and v1beta3"),
            ({"kind": 5, "apiVersion": "v1"}, "kind: expected a string, got a number"),
            ({"kind": "Pod", "apiVersion": []}, "apiVersion: expected a string, got a list"),
        ],
    )
    def test_kind_and_version_are_needed(self, document: dict[str, Any], said: str) -> None:
        assert refusal(document) == said


class TestFiles:
    def test_several_documents_and_lists_are_opened(self) -> None:
        text = (
            POD_TEXT
            + "---\n# nothing\n---\n"
            + json.dumps(
                {"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "b"}}]}
            )
        )
        found = list(codec.decode_documents(text))
        assert [(one["kind"], one["metadata"]["name"]) for one in found] == [
            ("Pod", "web"),
            ("Pod", "b"),
        ]

    def test_json_with_tabs_is_json(self) -> None:
        text = '{\n\t"kind": "Pod",\n\t"apiVersion": "v1"\n}\n'
        assert [one["kind"] for one in codec.decode_documents(text)] == ["Pod"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("metadata: {}", "the document does not say its kind"),
            ("kind: Pod", "the Pod does not say its apiVersion"),
            ("- 1", "expected an object, got a list"),
            ("\ud800", "not UTF-8"),
        ],
    )
    def test_what_is_no_document_is_refused(self, text: str, said: str) -> None:
        with pytest.raises(BadRequest, match=said):
            list(codec.decode_documents(text))


def test_the_articles_files_are_documents() -> None:
    folder = Path(__file__).parents[2] / "examples" / "article"
    for file in ("nginx_rc.yaml", "nginx_service.yaml"):
        for raw in codec.decode_documents((folder / file).read_bytes()):
            assert codec.from_raw(raw).api_version == "v1beta3"
