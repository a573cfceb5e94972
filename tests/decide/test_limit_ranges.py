"""Limit ranges: defaults fill what is missing, bounds refuse what is outside."""

from __future__ import annotations

from typing import Any

import pytest

from k8slite.api.kinds.limitrange.types import LimitRange, LimitRangeItem, LimitRangeSpec
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec, ResourceRequirements
from k8slite.decide import limits


def ranges(*items: dict[str, Any]) -> list[LimitRange]:
    return [LimitRange(spec=LimitRangeSpec(limits=(LimitRangeItem(**item),))) for item in items]


def pod(*resources: ResourceRequirements) -> Pod:
    return Pod(
        spec=PodSpec(containers=tuple(Container(name="c", resources=each) for each in resources))
    )


def wants(requests: dict[str, Any] | None = None, most: dict[str, Any] | None = None) -> Any:
    return ResourceRequirements(requests=requests, limits=most)


def test_defaults_fill_only_what_is_missing() -> None:
    rules = ranges(
        {"type": "Container", "default": {"cpu": "2", "memory": "1Gi"},
         "default_request": {"cpu": "1"}},
    )  # fmt: skip
    (silent, outspoken) = limits.defaulted(
        pod(wants(), wants({"cpu": "3"}, {"cpu": "4"})), rules
    ).spec.containers
    assert silent.resources == wants({"cpu": "1"}, {"cpu": "2", "memory": "1Gi"})
    assert outspoken.resources == wants({"cpu": "3"}, {"cpu": "4", "memory": "1Gi"})


def test_nothing_to_fill_is_the_same_pod() -> None:
    body = pod(wants({"cpu": "1"}))
    assert limits.defaulted(body, ranges({"type": "Pod", "max": {"cpu": "1"}})) is body


@pytest.mark.parametrize(
    ("item", "resources", "sentence"),
    [
        ({"min": {"cpu": "100m"}}, wants({"cpu": "50m"}),
         "minimum cpu usage per Container is 100m, but request is 50m"),
        ({"min": {"cpu": "100m"}}, wants(),
         "minimum cpu usage per Container is 100m.  No request is specified"),
        ({"max": {"memory": "1Gi"}}, wants(None, {"memory": "2Gi"}),
         "maximum memory usage per Container is 1Gi, but limit is 2Gi"),
        ({"max": {"memory": "1Gi"}}, wants(),
         "maximum memory usage per Container is 1Gi.  No limit is specified"),
        ({"max_limit_request_ratio": {"cpu": "2"}}, wants({"cpu": "1"}, {"cpu": "3"}),
         "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
        ({"max_limit_request_ratio": {"cpu": "2"}}, wants({"cpu": "1"}),
         "cpu max limit to request ratio per Container is 2, but no limit is specified or is 0"),
    ],
)  # fmt: skip
def test_what_is_outside_is_said(item: dict[str, Any], resources: Any, sentence: str) -> None:
    rules = ranges({"type": "Container", **item})
    assert limits.violations(pod(resources), rules) == [sentence]


def test_a_whole_pod_is_measured_by_its_sum() -> None:
    rules = ranges({"type": "Pod", "max": {"cpu": "1"}})
    half = wants(None, {"cpu": "600m"})
    assert limits.violations(pod(half), rules) == []
    assert limits.violations(pod(half, half), rules) == [
        "maximum cpu usage per Pod is 1, but limit is 1200m"
    ]


def test_the_bounds_themselves_are_inside() -> None:
    rules = ranges({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "1000m"}})
    assert limits.violations(pod(wants({"cpu": "1"}, {"cpu": "1"})), rules) == []
