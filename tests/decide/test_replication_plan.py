"""The plan of a replication controller, and that any part of it, applied, still leads there."""

from __future__ import annotations

import msgspec
import pytest
from cluster_objects import WEB, controller, pod
from hypothesis import given, settings
from hypothesis import strategies as st

from k8slite.api.kinds.pod.types import Pod
from k8slite.api.meta import OwnerReference
from k8slite.decide import replication

RC = controller()
MINE = replication.reference_to(RC)
OTHER = OwnerReference(kind="ReplicationController", name="other", uid="other", controller=True)
STAMP = "2026-01-01T00:00:00Z"


def mine(name: str, **fields: object) -> Pod:
    return pod(name, labels=WEB, owner=MINE, **fields)  # type: ignore[arg-type]


def test_missing_replicas_are_created() -> None:
    plan = replication.plan(RC, [mine("a")], 0)
    assert (plan.create, plan.delete) == (2, ())


def test_pods_that_are_over_or_on_their_way_out_are_replaced_and_left_alone() -> None:
    pods = [
        mine("failed", phase="Failed"),
        mine("done", phase="Succeeded"),
        mine("leaving", deleted=STAMP),
        mine("fine"),
    ]
    plan = replication.plan(RC, pods, 0)
    assert (plan.create, plan.delete, plan.status.replicas) == (2, (), 1)


def test_unassigned_then_pending_then_unready_then_the_youngest_go_first() -> None:
    late, early = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
    order = [
        mine("unassigned"),
        mine("pending", on="n", phase="Pending"),
        mine("unknown", on="n", phase="Unknown"),
        mine("unready", on="n", phase="Running"),
        mine("young", on="n", phase="Running", ready=True, created=late),
        mine("old", on="n", phase="Running", ready=True, created=early),
    ]
    for replicas in range(len(order) + 1):
        plan = replication.plan(controller(replicas), reversed(order), 0)
        assert [p.metadata.name for p in plan.delete] == [
            p.metadata.name for p in order[: len(order) - replicas]
        ]


def test_orphans_that_match_are_adopted_and_count() -> None:
    plan = replication.plan(RC, [pod("orphan", labels=WEB), pod("stranger")], 0)
    assert [p.metadata.name for p in plan.adopt] == ["orphan"]
    assert plan.create == 2


def test_other_peoples_pods_are_not_touched() -> None:
    plan = replication.plan(RC, [pod("theirs", labels=WEB, owner=OTHER)], 0)
    assert (plan.adopt, plan.release, plan.delete, plan.create) == ((), (), (), 3)


def test_a_pod_whose_labels_moved_away_is_released_and_replaced() -> None:
    plan = replication.plan(RC, [pod("moved", labels={"app": "debug"}, owner=MINE)], 0)
    assert [p.metadata.name for p in plan.release] == ["moved"]
    assert plan.create == 3


def test_a_controller_on_its_way_out_makes_and_takes_nothing() -> None:
    meta = msgspec.structs.replace(RC.metadata, deletion_timestamp=STAMP)
    leaving = msgspec.structs.replace(RC, metadata=meta)
    plan = replication.plan(leaving, [pod("orphan", labels=WEB), mine("a")], 0)
    assert (plan.create, plan.delete, plan.adopt) == (0, (), ())


def test_the_status_counts_what_is_there() -> None:
    pods = [
        mine("ready", phase="Running", ready=True),
        mine("unready"),
        mine("over", phase="Failed"),
        pod("other-label", labels={**WEB, "x": "y"}, owner=MINE),
    ]
    status = replication.plan(RC, pods, 0).status
    assert (status.replicas, status.ready_replicas, status.available_replicas) == (3, 1, 1)
    assert (status.fully_labeled_replicas, status.observed_generation) == (3, 1)


def test_a_ready_pod_becomes_available_after_min_ready_seconds() -> None:
    young = mine("young", phase="Running", ready=True)
    since = msgspec.structs.replace(young.status.conditions[0], last_transition_time=STAMP)
    status = msgspec.structs.replace(young.status, conditions=(since,))
    young = msgspec.structs.replace(young, status=status)
    start = replication._ready_since(young)
    patient = controller(1, min_ready_seconds=10)
    plan = replication.plan(patient, [young], start + 4)
    assert (plan.status.available_replicas, plan.look_again) == (0, 6)
    plan = replication.plan(patient, [young], start + 10)
    assert (plan.status.available_replicas, plan.look_again) == (1, None)


# -- interruption

pods_of_any_sort = st.builds(
    lambda number, owner, labels, phase, leaving, on: pod(
        f"p{number}",
        owner=owner,
        labels=labels,
        phase=phase,
        deleted=STAMP if leaving else None,
        on=on,
    ),
    number=st.integers(0, 10_000),
    owner=st.sampled_from((MINE, OTHER, None)),
    labels=st.sampled_from((WEB, {"app": "debug"}, None)),
    phase=st.sampled_from(("Pending", "Running", "Failed", "Succeeded")),
    leaving=st.booleans(),
    on=st.sampled_from(("", "n")),
)


def steps_of(plan: replication.Plan) -> list[tuple[str, Pod | None]]:
    return [
        *(("adopt", pod) for pod in plan.adopt),
        *(("release", pod) for pod in plan.release),
        *(("delete", pod) for pod in plan.delete),
        *(("create", None) for _ in range(plan.create)),
    ]


class World:
    """Pods by name; applies steps of plans."""

    def __init__(self, pods: list[Pod]) -> None:
        self.pods = {pod.metadata.name: pod for pod in pods}
        self.made = 0

    def apply(self, step: tuple[str, Pod | None], rc: object) -> None:
        verb, target = step
        if verb == "create":
            self.made += 1
            made = replication.pod_from_template(RC, f"new-{self.made}")
            meta = msgspec.structs.replace(made.metadata, uid=f"uid-new-{self.made}")
            self.pods[made.metadata.name] = msgspec.structs.replace(made, metadata=meta)
            return
        assert target is not None
        name = target.metadata.name
        if verb == "delete":
            del self.pods[name]
        elif verb == "adopt":
            self.pods[name] = replication.adopted(RC, target)
        else:
            self.pods[name] = replication.released(RC, target)


@given(
    st.lists(pods_of_any_sort, max_size=12, unique_by=lambda pod: pod.metadata.name),
    st.integers(0, 8),
    st.integers(0, 20),
)
@settings(max_examples=200, deadline=None)
def test_any_prefix_of_a_plan_leads_to_the_same_place(
    pods: list[Pod], replicas: int, prefix: int
) -> None:
    rc, world = controller(replicas), World(pods)
    for step in steps_of(replication.plan(rc, world.pods.values(), 0))[:prefix]:
        world.apply(step, rc)  # … and here the controller is killed
    for step in steps_of(replication.plan(rc, world.pods.values(), 0)):
        world.apply(step, rc)
    final = replication.plan(rc, world.pods.values(), 0)
    assert steps_of(final) == []
    assert final.status.replicas == replicas


@pytest.mark.parametrize("replicas", [None, 1])
def test_no_number_means_one(replicas: int | None) -> None:
    assert replication.plan(controller(replicas), [], 0).create == 1
