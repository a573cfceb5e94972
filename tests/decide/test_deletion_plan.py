"""Deletion as a plan: it only ever moves towards the end."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.kinds.namespace.types import Namespace, NamespaceSpec
from k8slite.api.kinds.pod.types import Pod, PodSpec, PodStatus
from k8slite.api.meta import DeleteOptions, Object, ObjectMeta
from k8slite.decide import deletion
from k8slite.kit.clock import parse_rfc3339

NOW = 1_700_000_000.0

_finalizers = st.lists(
    st.sampled_from(["example.com/a", "example.com/b"]), unique=True, max_size=2
).map(tuple)
_pods = st.builds(
    lambda finalizers, node, phase, grace: Pod(
        metadata=ObjectMeta(name="p", namespace="d", finalizers=finalizers),
        spec=PodSpec(node_name=node, termination_grace_period_seconds=grace),
        status=PodStatus(phase=phase),
    ),
    _finalizers,
    st.sampled_from(["", "node-1"]),
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
    st.one_of(st.none(), st.integers(0, 100)),
)
_namespaces = st.builds(
    lambda finalizers, own: Namespace(
        metadata=ObjectMeta(name="n", finalizers=finalizers), spec=NamespaceSpec(finalizers=own)
    ),
    _finalizers,
    st.sampled_from([(), ("kubernetes",)]),
)
_options = st.builds(
    DeleteOptions,
    grace_period_seconds=st.one_of(st.none(), st.integers(-1, 100)),
    propagation_policy=st.sampled_from(deletion.POLICIES),
)


@given(st.one_of(_pods, _namespaces), st.lists(_options, min_size=1, max_size=4))
def test_repeated_deletion_never_lengthens_a_life(
    obj: Object, requests: list[DeleteOptions]
) -> None:
    due, grace = float("inf"), float("inf")
    for later, options in enumerate(requests):
        rest = deletion.plan(obj, options, NOW + later)
        if rest is None:
            assert not obj.metadata.finalizers or options.propagation_policy == "Background"
            return
        meta = rest.metadata
        assert meta.deletion_timestamp is not None
        assert meta.deletion_grace_period_seconds is not None
        ends = parse_rfc3339(meta.deletion_timestamp)
        assert ends <= due
        assert meta.deletion_grace_period_seconds <= grace
        due, grace = ends, meta.deletion_grace_period_seconds
        obj = rest


@given(st.one_of(_pods, _namespaces), _options)
def test_the_same_request_twice_changes_nothing_the_second_time(
    obj: Object, options: DeleteOptions
) -> None:
    once = deletion.plan(obj, options, NOW)
    if once is not None:
        assert deletion.plan(once, options, NOW + 5) == once


@given(_pods)
def test_force_ends_a_pod_that_nothing_holds(pod: Pod) -> None:
    free = msgspec.structs.replace(pod, metadata=ObjectMeta(name="p", namespace="d"))
    assert deletion.plan(free, DeleteOptions(grace_period_seconds=0), NOW) is None


@given(st.one_of(_pods, _namespaces), _options)
def test_only_a_marked_object_can_be_finished(obj: Object, options: DeleteOptions) -> None:
    assert not deletion.finished(obj)
    rest = deletion.plan(obj, options, NOW)
    if rest is not None and deletion.finished(rest):
        raise AssertionError("what is finished should have gone at once")


def test_a_namespace_is_finished_when_both_kinds_of_finalizers_are_gone() -> None:
    marked = ObjectMeta(name="n", deletion_timestamp="2026-01-01T00:00:00Z")
    held = Namespace(metadata=marked, spec=NamespaceSpec(finalizers=("kubernetes",)))
    assert not deletion.finished(held)
    assert deletion.finished(msgspec.structs.replace(held, spec=NamespaceSpec()))
