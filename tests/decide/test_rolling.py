"""Rolling update: never fewer pods than there were, never more than one too many, and an end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.errors import BadRequest
from k8slite.api.generate import controller
from k8slite.decide import rolling
from k8slite.decide.rolling import Done, Grow, Shrink, next_step

few = st.integers(0, 12)


@given(few, few, few)
def test_every_state_leads_to_the_end_without_losing_capacity(
    old: int, new: int, desired: int
) -> None:
    floor, ceiling = min(old + new, desired), max(old + new, desired + 1)
    for _ in range(100):
        step = next_step(old, new, desired)
        if isinstance(step, Done):
            break
        if isinstance(step, Grow):
            new = step.replicas
        else:
            assert isinstance(step, Shrink)
            old = step.replicas
        assert floor <= old + new <= ceiling
    assert (old, new) == (0, desired)


def test_who_can_succeed_whom() -> None:
    old = controller("old", "web:1", labels={"app": "web", "v": "1"})
    rolling.require_updatable(old, controller("new", "web:2", labels={"app": "web", "v": "2"}))
    refused: list[dict[str, Any]] = [
        controller("old", "web:2", labels={"app": "web", "v": "2"}),
        controller("new", "web:2", labels={"app": "web", "v": "1"}),
        controller("new", "web:2", labels={"other": "x"}),
        {"kind": "Pod", "metadata": {"name": "new"}},
    ]
    for new in refused:
        with pytest.raises(BadRequest):
            rolling.require_updatable(old, new)


def test_another_image_makes_another_controller_with_a_name_of_its_own() -> None:
    old = controller("web", "web:1", replicas=3)
    new = rolling.with_image(old, "web:2", name="", container="", key="deployment")
    digest = new["spec"]["selector"]["deployment"]
    assert new["metadata"]["name"] == f"web-{digest}"
    assert new["metadata"]["annotations"] == {rolling.DESIRED: "3"}
    assert new["spec"]["replicas"] == 0
    assert new["spec"]["template"]["metadata"]["labels"]["deployment"] == digest
    assert old["spec"]["template"]["spec"]["containers"][0]["image"] == "web:1"
    again = rolling.with_image(old, "web:2", name="", container="", key="deployment")
    assert again == new
    other = rolling.with_image(old, "web:3", name="x", container="web", key="deployment")
    assert other["metadata"]["name"] == "x"
    assert other["spec"]["selector"] != new["spec"]["selector"]
    with pytest.raises(BadRequest, match="one of web"):
        rolling.with_image(old, "web:2", name="", container="absent", key="deployment")


def test_a_renamed_controller_keeps_what_matters() -> None:
    new = rolling.with_image(
        controller("web", "web:1"), "web:2", name="", container="", key="deployment"
    )
    stored = {**new, "metadata": {**new["metadata"], "uid": "u", "resourceVersion": "7"}}
    renamed = rolling.renamed(stored, "web")
    assert renamed["metadata"] == {
        "name": "web", "labels": {"run-container": "web"}, "annotations": {},
    }  # fmt: skip
    assert renamed["spec"] == new["spec"]
