"""Which pods leave a drained node."""

from __future__ import annotations

from k8slite.api.kinds.pod.types import EmptyDirVolumeSource, Pod, PodSpec, PodStatus, Volume
from k8slite.api.meta import ObjectMeta, OwnerReference
from k8slite.decide.admission.nodes import MIRROR
from k8slite.decide.draining import Leave, departure

ALL = Leave(force=True, ignore_daemons=True, delete_data=True)


def pod(
    name: str, owner: str = "", *, mirror: bool = False, phase: str = "", data: bool = False
) -> Pod:
    owners = (OwnerReference(kind=owner, name="o", uid="u", controller=True),) if owner else ()
    notes = {MIRROR: "x"} if mirror else None
    meta = ObjectMeta(name=name, namespace="d", owner_references=owners, annotations=notes)
    volumes = (Volume(name="v", empty_dir=EmptyDirVolumeSource()),) if data else ()
    return Pod(metadata=meta, spec=PodSpec(volumes=volumes), status=PodStatus(phase=phase))


WEB = pod("web", "ReplicationController")


def test_pods_that_somebody_makes_again_go() -> None:
    plan = departure([WEB], Leave())
    assert (plan.going, plan.warnings, plan.obstacles) == ((WEB,), (), ())


def test_mirrors_stay_without_a_word() -> None:
    assert departure([pod("static", mirror=True)], Leave()) == departure([], Leave())


def test_what_is_over_goes_whoever_made_it() -> None:
    over = pod("job", phase="Succeeded", data=True)
    assert departure([over], Leave()).going == (over,)


def test_what_nobody_would_make_again_goes_when_forced() -> None:
    lone = pod("lone")
    plan = departure([WEB, lone], Leave())
    assert plan.obstacles == (
        "cannot delete pods without a controller: d/lone (use --force to override)",
    )
    forced = departure([WEB, lone], Leave(force=True))
    assert forced.going == (WEB, lone)
    assert forced.warnings == ("deleting pods without a controller: d/lone",)


def test_daemons_stay_when_that_is_said() -> None:
    daemon = pod("log", "DaemonSet", data=True)
    assert "--ignore-daemonsets" in departure([daemon], Leave()).obstacles[0]
    plan = departure([daemon], ALL)
    assert (plan.going, plan.warnings) == ((), ("ignoring pods of a DaemonSet: d/log",))


def test_data_is_not_lost_unasked() -> None:
    holder = pod("cache", "ReplicationController", data=True)
    assert "--delete-emptydir-data" in departure([holder], Leave()).obstacles[0]
    assert departure([holder], ALL).going == (holder,)
