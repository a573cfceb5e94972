"""Words of the command line: what they name, and what is said of those that name nothing."""

from __future__ import annotations

import pytest

from k8slite.api import words
from k8slite.api.errors import BadRequest
from k8slite.api.kinds import SCHEME


def told(*arguments: str) -> list[tuple[str, str]]:
    return [(want.kind.plural, want.name) for want in words.wanted(arguments, SCHEME)]


def test_types_by_any_of_their_names() -> None:
    assert told("services,minions") == [("services", ""), ("nodes", "")]
    assert told("po,POD,pods") == [("pods", "")]
    assert told("rc") == told("replicationcontroller") == [("replicationcontrollers", "")]
    assert {kind for kind, _ in told("all")} == {"pods", "replicationcontrollers", "services"}


def test_names() -> None:
    assert told("rc", "a", "b", "a") == [
        ("replicationcontrollers", "a"), ("replicationcontrollers", "b"),
    ]  # fmt: skip
    assert told("pod/a", "svc/b") == [("pods", "a"), ("services", "b")]
    assert words.one(["rc/web"], SCHEME).name == "web"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pdos"], "did you mean 'pods'?"),
        (["servces"], "did you mean 'services'?"),
        (["xyzzy"], "there is no resource type 'xyzzy'"),
        ([], "say a resource type"),
        ([","], "say a resource type"),
        (["pod/a", "b"], "TYPE/NAME"),
        (["pod/"], "TYPE/NAME"),
        (["a/b/c"], "TYPE/NAME"),
    ],
)
def test_mistakes_come_with_their_mend(arguments: list[str], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        words.wanted(arguments, SCHEME)
    assert said in caught.value.message


def test_one_object_is_one_object() -> None:
    for arguments in (["pods"], ["pods", "a", "b"], ["pods,rc", "a"]):
        with pytest.raises(BadRequest, match="name one object"):
            words.one(arguments, SCHEME)


def test_kinds_of_documents_are_suggested() -> None:
    assert words.document_kind("Pod", SCHEME).plural == "pods"
    with pytest.raises(BadRequest, match="did you mean ReplicationController"):
        words.document_kind("ReplicaController", SCHEME)
    with pytest.raises(BadRequest, match="known are Namespace"):
        words.document_kind("Q", SCHEME)


def test_assignments() -> None:
    assert words.assignments(["a=1", "b=", "c=x=y", "d-"], "label") == (
        {"a": "1", "b": "", "c": "x=y"},
        ["d"],
    )
    for bad in (["a"], ["=x"], ["-"], ["a=1", "a-"]):
        with pytest.raises(BadRequest):
            words.assignments(bad, "label")
