"""DOCKER_OPTS reach dockerd through its daemon.json, and only those that may."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.deploy.dockeropts import DockerOptionsError, merged, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("--insecure-registry 10.0.0.1:5000", {"insecure-registries": ["10.0.0.1:5000"]}),
        (
            "--insecure-registry=a --insecure-registry=b --debug",
            {"insecure-registries": ["a", "b"], "debug": True},
        ),
        ("-D -l warn", {"debug": True, "log-level": "warn"}),
        ("--log-driver json-file --log-opt max-size=10m --log-opt max-file=3",
         {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}}),
        ("--mtu 1400 --live-restore=false", {"mtu": 1400, "live-restore": False}),
        ("--label 'a=b c'", {"labels": ["a=b c"]}),
        ("-g /srv/docker", {"data-root": "/srv/docker"}),
    ],
)  # fmt: skip
def test_flags_become_entries(text: str, expected: dict[str, Any]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("insecure", "'insecure' is no flag"),
        ("--", "'--' is no flag"),
        ("--host tcp://0.0.0.0", "--host is not passed on"),
        ("--mtu", "--mtu lacks its value"),
        ("--mtu big", "a number"),
        ("--debug=perhaps", "true or false"),
        ("--log-opt x", "key=value"),
        ("--iptables=false", "pods could not reach"),
        ("--label 'a", "cannot be split"),
    ],
)
def test_what_cannot_be_passed_on_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(DockerOptionsError) as refusal:
        parse(text)
    assert named in str(refusal.value)


def test_a_file_that_is_there_keeps_what_it_says() -> None:
    had = '{"insecure-registries": ["mine:5000"], "log-driver": "journald"}'
    text, changed = merged(had, {"insecure-registries": ["a:1"], "debug": True})
    assert changed == {"insecure-registries", "debug"}
    assert json.loads(text) == {
        "insecure-registries": ["mine:5000", "a:1"],
        "log-driver": "journald",
        "debug": True,
    }


@given(st.dictionaries(st.sampled_from(["debug", "mtu"]), st.integers()))
def test_merging_again_changes_nothing(wanted: dict[str, int]) -> None:
    once, _ = merged("", wanted)
    assert merged(once, wanted) == (once, set())


@pytest.mark.parametrize("text", ["{", "[]", "7"])
def test_a_damaged_file_is_not_overwritten(text: str) -> None:
    with pytest.raises(DockerOptionsError, match=r"daemon\.json"):
        merged(text, {"debug": True})
