"""What goes with its namespace, and what goes with its owner."""

from __future__ import annotations

import msgspec
from cluster_objects import controller, node, pod

from k8slite.api.kinds.namespace.types import Namespace, NamespaceSpec, NamespaceStatus
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.meta import ObjectMeta, OwnerReference
from k8slite.decide import garbage, namespaces
from k8slite.decide.deletion import FOREGROUND, ORPHAN
from k8slite.decide.garbage import Owner, Plan

STAMP = "2026-01-01T00:00:00Z"
ONE, TWO = (OwnerReference(kind="Node", name=n, uid=n) for n in ("one", "two"))


def space(phase: str = "Terminating") -> Namespace:
    return Namespace(
        kind="Namespace",
        metadata=ObjectMeta(name="x"),
        spec=NamespaceSpec(finalizers=("kubernetes", "other")),
        status=NamespaceStatus(phase=phase),
    )


def test_a_living_namespace_loses_nothing() -> None:
    assert namespaces.plan(space("Active"), [pod("p")]) == namespaces.Plan()


def test_what_makes_pods_goes_before_the_pods() -> None:
    plan = namespaces.plan(space(), [pod("p"), controller()])
    assert [obj.kind for obj in plan.delete] == ["ReplicationController", "Pod"]


def test_what_is_going_already_is_waited_for() -> None:
    assert namespaces.plan(space(), [pod("p", deleted=STAMP)]) == namespaces.Plan()


def test_an_empty_namespace_loses_our_finalizer_and_no_other() -> None:
    assert namespaces.plan(space(), []).finalize
    assert namespaces.finalized(space()).spec.finalizers == ("other",)


def owned(*references: OwnerReference) -> Pod:
    wanted = pod("p")
    meta = msgspec.structs.replace(wanted.metadata, owner_references=references)
    return msgspec.structs.replace(wanted, metadata=meta)


def fate(*fates: Owner, has_dependents: bool = False) -> Plan:
    references = (ONE, TWO)[: len(fates)]
    owners = {r.uid: f for r, f in zip(references, fates, strict=True)}
    return garbage.plan_dependent(owned(*references), owners, has_dependents=has_dependents)


def test_an_object_goes_when_its_last_owner_is_gone() -> None:
    assert fate() == Plan()
    assert fate(Owner.THERE) == Plan()
    assert fate(Owner.GONE) == Plan(delete="Background")
    assert fate(Owner.GONE, Owner.GONE) == Plan(delete="Background")
    assert fate(Owner.WAITING) == Plan(delete="Background")
    assert fate(Owner.WAITING, has_dependents=True) == Plan(delete="Foreground")


def test_one_living_owner_keeps_it_without_the_dead_reference() -> None:
    assert fate(Owner.THERE, Owner.GONE) == Plan(drop=frozenset(("two",)))
    assert fate(Owner.WAITING, Owner.THERE) == Plan(drop=frozenset(("one",)))


def test_an_owner_of_unknown_kind_is_taken_to_live() -> None:
    assert fate(Owner.UNKNOWN) == Plan()
    assert fate(Owner.GONE, Owner.UNKNOWN) == Plan(drop=frozenset(("one",)))


def test_an_owner_of_the_same_name_but_another_uid_is_another() -> None:
    one = node("one")
    assert garbage.fate_of(one, one.metadata.uid) is Owner.THERE
    assert garbage.fate_of(one, "older") is Owner.GONE
    assert garbage.fate_of(None, "older") is Owner.GONE


def leaving(finalizer: str) -> Pod:
    meta = ObjectMeta(name="o", uid="one", deletion_timestamp=STAMP, finalizers=(finalizer, "x"))
    return Pod(kind="Pod", metadata=meta)


def test_foreground_deletion_waits_for_dependents_that_block() -> None:
    blocking = msgspec.structs.replace(ONE, block_owner_deletion=True)
    assert garbage.is_blocked(leaving(FOREGROUND), [owned(blocking)]) is True
    assert garbage.is_blocked(leaving(FOREGROUND), [owned(ONE)]) is False
    assert garbage.is_blocked(leaving(ORPHAN), [owned(blocking)]) is None
    assert garbage.fate_of(leaving(FOREGROUND), "one") is Owner.WAITING


def test_orphan_deletion_frees_dependents_first() -> None:
    dependent = owned(ONE, TWO)
    assert garbage.orphans_to_free(leaving(ORPHAN), [dependent]) == [dependent]
    assert garbage.orphans_to_free(leaving(FOREGROUND), [dependent]) is None
    freed = garbage.without_references(dependent, frozenset(("one",)))
    assert freed.metadata.owner_references == (TWO,)
    assert garbage.without_finalizer(leaving(ORPHAN), ORPHAN).metadata.finalizers == ("x",)
