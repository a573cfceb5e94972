"""Apply: the patch leads to what is wanted, and touches nothing else."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from k8slite.api import apply, mergekeys
from k8slite.api.patch import strategic_merge

Raw = dict[str, Any]

KEYS = mergekeys.POD


def applied(before: Raw, wanted: Raw, changed: Raw | None = None) -> tuple[Raw, Raw]:
    """What apply makes of an object that was applied as ``before`` and then ``changed``."""
    current = copy.deepcopy(changed if changed is not None else before)
    annotations = {apply.LAST_APPLIED: json.dumps(before)}
    current.setdefault("metadata", {})["annotations"] = annotations
    patch = apply.three_way(wanted, current, KEYS)
    result: Raw = strategic_merge(current, patch, KEYS)
    del result["metadata"]["annotations"]
    return patch, result


def pod(*containers: Raw, **spec: Any) -> Raw:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers), **spec}}


A, B, C = ({"name": name, "image": f"{name}:1"} for name in "abc")


def test_nothing_to_do_is_an_empty_patch() -> None:
    assert applied(pod(A), pod(A))[0] == {}


def test_what_others_set_stays_and_what_one_took_back_goes() -> None:
    defaulted = pod({**A, "imagePullPolicy": "Always"}, B, restartPolicy="Always")
    wanted = pod({**A, "image": "a:2"}, C)
    _, result = applied(pod(A, B), wanted, defaulted)
    assert result["spec"] == {
        "containers": [{"name": "a", "image": "a:2", "imagePullPolicy": "Always"}, C],
        "restartPolicy": "Always",
    }


def test_a_field_taken_back_is_removed_even_from_an_element() -> None:
    before = pod({**A, "command": ["x"], "env": [{"name": "E", "value": "1"}]})
    _, result = applied(before, pod(A))
    assert result["spec"]["containers"] == [A]


def test_a_volume_changes_its_source() -> None:
    before = pod(A, volumes=[{"name": "v", "emptyDir": {}}])
    wanted = pod(A, volumes=[{"name": "v", "hostPath": {"path": "/"}}])
    patch, result = applied(before, wanted)
    assert patch["spec"]["volumes"][0]["$retainKeys"] == ["hostPath", "name"]
    assert result["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/"}}]


def test_finalizers_merge_as_a_set() -> None:
    before = {"metadata": {"name": "p", "finalizers": ["mine", "old"]}}
    wanted = {"metadata": {"name": "p", "finalizers": ["mine", "new"]}}
    changed = {"metadata": {"name": "p", "finalizers": ["mine", "old", "theirs"]}}
    _, result = applied(before, wanted, changed)
    assert set(result["metadata"]["finalizers"]) == {"mine", "new", "theirs"}


def test_the_annotation_holds_the_document_without_itself() -> None:
    document = {"kind": "Pod", "metadata": {"name": "p"}}
    once = apply.annotated(document)
    assert apply.last_applied(once) == {"kind": "Pod", "metadata": {"name": "p", "annotations": {}}}
    assert apply.annotated(once) == once
    assert document == {"kind": "Pod", "metadata": {"name": "p"}}
    broken = {"metadata": {"annotations": {apply.LAST_APPLIED: "{"}}}
    assert apply.last_applied(broken) == {}


names = st.sampled_from("abcd")
containers = st.lists(
    st.fixed_dictionaries(
        {"name": names, "image": st.sampled_from(["1", "2"])},
        optional={
            "command": st.lists(st.sampled_from("xy"), max_size=2),
            "env": st.lists(
                st.fixed_dictionaries({"name": st.sampled_from("EF"), "value": names}),
                unique_by=lambda item: item["name"],
                max_size=2,
            ),
        },
    ),
    unique_by=lambda item: item["name"],
    max_size=4,
)
specs = st.fixed_dictionaries(
    {"containers": containers},
    optional={"hostNetwork": st.booleans(), "nodeSelector": st.dictionaries(names, names)},
)


def normal(spec: Raw) -> Raw:
    """Empty values are no values, and elements have no order of importance here."""
    return {key: value for key, value in spec.items() if value not in ([], {})}


@given(specs, specs)
def test_applying_to_what_one_applied_before_gives_exactly_what_is_wanted(
    before: Raw, wanted: Raw
) -> None:
    meta = {"metadata": {"name": "p"}}
    _, result = applied({**meta, "spec": before}, {**meta, "spec": wanted})
    strip = [normal(item) for item in result["spec"].pop("containers", [])]
    assert strip == [normal(item) for item in wanted["containers"]]
    rest = {key: value for key, value in wanted.items() if key != "containers"}
    assert normal(result["spec"]) == normal(rest)


@given(specs, specs, specs)
def test_applying_twice_changes_nothing_more(before: Raw, wanted: Raw, changed: Raw) -> None:
    meta = {"metadata": {"name": "p"}}
    body = apply.annotated({**meta, "spec": wanted})
    current = {**meta, "spec": changed}
    current["metadata"] = {
        "name": "p",
        "annotations": {apply.LAST_APPLIED: json.dumps({**meta, "spec": before})},
    }
    once = strategic_merge(current, apply.three_way(body, current, KEYS), KEYS)
    assert apply.three_way(body, once, KEYS) == {}
