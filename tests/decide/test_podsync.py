"""What the kubelet decides for a pod: plans and their convergence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as with_

from k8slite.api.kinds.pod.types import Container, Pod, PodSpec
from k8slite.api.meta import ObjectMeta
from k8slite.decide.pods import sync
from k8slite.decide.pods.state import (
    SANDBOX,
    CreateSandbox,
    Health,
    KillContainer,
    ObservedContainer,
    ObservedPod,
    Plan,
    PodFacts,
    PodRef,
    PullImage,
    RemoveContainer,
    Run,
    StartContainer,
    Waiting,
)
from k8slite.decide.pods.status import StatusFacts, status_of
from k8slite.decide.pods.sync import crash_delay, decide, dismantle, spec_hash

REF = PodRef("default", "web", "u1")


def make_pod(*names: str, policy: str = "Always", init: tuple[str, ...] = ()) -> Pod:
    return Pod(
        metadata=ObjectMeta(name="web", namespace="default", uid="u1"),
        spec=PodSpec(
            restart_policy=policy,
            containers=tuple(Container(name=n, image=f"{n}:1") for n in names or ("main",)),
            init_containers=tuple(Container(name=n, image=f"{n}:1") for n in init),
        ),
    )


@dataclass
class World:
    """A node in miniature: it takes actions one by one, as the shell does."""

    pod: Pod
    now: float = 1_000.0
    containers: list[ObservedContainer] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    count: int = 0

    def observed(self) -> ObservedPod:
        newest = sorted(self.containers, key=lambda c: (c.attempt, c.created_at), reverse=True)
        return ObservedPod(
            REF,
            tuple(c for c in newest if c.name == SANDBOX),
            tuple(c for c in newest if c.name != SANDBOX),
        )

    def facts(self, **fields: object) -> PodFacts:
        every = (*self.pod.spec.containers, *self.pod.spec.init_containers)
        images = {c.name: c.image in self.images for c in every}
        facts = PodFacts(self.observed(), self.now, images=images)
        return replace(facts, **fields)  # type: ignore[arg-type]

    def plan(self, **fields: object) -> Plan:
        return decide(self.pod, self.facts(**fields))

    def take(self, action: object) -> None:
        self.count += 1
        new = ObservedContainer(
            id=f"c{self.count}", name="", pod=REF, hash="", run=Run.RUNNING,
            created_at=self.now + self.count / 1e6, started_at=self.now,
        )  # fmt: skip
        match action:
            case CreateSandbox(attempt=attempt):
                self.containers.append(replace(new, name=SANDBOX, attempt=attempt))
            case StartContainer(name=name, attempt=attempt, crashes=crashes):
                every = (*self.pod.spec.containers, *self.pod.spec.init_containers)
                spec = next(c for c in every if c.name == name)
                box = self.observed().sandbox
                assert box is not None
                assert box.run is Run.RUNNING
                self.containers.append(
                    replace(
                        new,
                        name=name,
                        hash=spec_hash(spec),
                        attempt=attempt,
                        crashes=crashes,
                        sandbox=box.id,
                    )
                )
            case PullImage(image=image):
                self.images.add(image)
            case KillContainer(id=id):
                self.end(id, 137)
            case RemoveContainer(id=id):
                self.containers = [c for c in self.containers if c.id != id]

    def end(self, id: str, code: int) -> None:
        self.containers = [
            replace(c, run=Run.EXITED, exit_code=code, finished_at=self.now) if c.id == id else c
            for c in self.containers
        ]

    def settle(self) -> None:
        """Act until nothing is left to do at this time."""
        for _ in range(50):
            plan = self.plan()
            if not plan.actions:
                return
            for action in plan.actions:
                self.take(action)
        raise AssertionError(f"does not settle: {self.plan()}")

    def running(self) -> list[str]:
        return sorted(c.name for c in self.containers if c.run is Run.RUNNING and c.name != SANDBOX)


def test_a_new_pod_gets_a_sandbox_then_images_then_containers() -> None:
    world = World(make_pod("a", "b"))
    assert world.plan().actions == (CreateSandbox(0),)
    world.take(CreateSandbox(0))
    assert world.plan().actions == (PullImage("a", "a:1"), PullImage("b", "b:1"))
    world.images = {"a:1", "b:1"}
    assert world.plan().actions == (StartContainer("a", 0, 0), StartContainer("b", 0, 0))


def test_nothing_is_done_to_what_is_right() -> None:
    world = World(make_pod("a", "b"))
    world.settle()
    assert world.plan() == Plan()


def test_only_less_time_shortens_a_stop_that_is_under_way() -> None:
    world = World(make_pod("a"))
    world.settle()
    main = world.observed().latest("a")
    assert main is not None
    facts = world.facts(busy=frozenset({main.id}), stopping={main.id: world.now + 20})
    assert dismantle(facts, 30, "later").actions == ()
    assert dismantle(facts, 20, "the same").actions == ()
    assert dismantle(facts, None, "whenever").actions == ()
    assert dismantle(facts, 5, "sooner").actions == (KillContainer(main.id, "a", "sooner", 5),)


def test_a_busy_container_is_left_alone() -> None:
    world = World(make_pod("a"))
    world.take(CreateSandbox(0))
    plan = world.plan(busy=frozenset({"a"}))
    assert plan.actions == ()
    assert plan.waiting["a"].reason == "ContainerCreating"


def test_no_sandbox_before_the_volumes_stand() -> None:
    plan = World(make_pod("a")).plan(volumes='volume "x": missing')
    assert plan.actions == ()
    assert plan.waiting == {"a": Waiting("ContainerCreating", 'volume "x": missing')}


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True), ("Always", 1, True), ("OnFailure", 0, False),
        ("OnFailure", 1, True), ("Never", 0, False), ("Never", 1, False),
    ],
)  # fmt: skip
def test_restart_policies(policy: str, code: int, again: bool) -> None:
    world = World(make_pod("a", policy=policy))
    world.settle()
    world.end(world.observed().containers[0].id, code)
    world.settle()
    assert world.running() == (["a"] if again else [])


def test_crashes_are_followed_by_longer_and_longer_waits_and_forgiven_in_the_end() -> None:
    world = World(make_pod("a"))
    world.settle()
    waits = []
    for _ in range(8):
        world.end(world.observed().containers[0].id, 1)
        began = world.now
        plan = world.plan()
        if plan.again is not None:
            assert plan.waiting["a"].reason == "CrashLoopBackOff"
            world.now = plan.again
        world.settle()
        assert world.running() == ["a"]
        waits.append(world.now - began)
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    world.now += sync.CRASH_RESET
    world.end(world.observed().containers[0].id, 1)
    world.settle()
    assert world.running() == ["a"]


@given(st.integers(min_value=0, max_value=10_000))
def test_the_crash_delay_is_bounded_and_never_shrinks(crashes: int) -> None:
    assert 0 <= crash_delay(crashes) <= crash_delay(crashes + 1) <= sync.CRASH_MAX


def test_a_changed_definition_kills_and_starts_anew() -> None:
    world = World(make_pod("a"))
    world.settle()
    container = with_(world.pod.spec.containers[0], image="a:2")
    world.pod = with_(world.pod, spec=with_(world.pod.spec, containers=(container,)))
    (kill,) = world.plan().actions
    assert isinstance(kill, KillContainer)
    world.settle()
    assert world.running() == ["a"]
    assert world.observed().containers[0].attempt == 1


def test_a_failing_probe_kills_with_its_reason() -> None:
    world = World(make_pod("a"))
    world.settle()
    id = world.observed().containers[0].id
    (kill,) = world.plan(health={id: Health(kill="it is ill")}).actions
    assert kill == KillContainer(id, "a", "it is ill", 30)


def test_a_lost_sandbox_is_replaced_and_its_containers_with_it() -> None:
    world = World(make_pod("a", "b"))
    world.settle()
    old = world.observed().sandbox
    assert old is not None
    world.end(old.id, 137)
    world.settle()
    assert world.running() == ["a", "b"]
    assert {c.attempt for c in world.observed().containers if c.run is Run.RUNNING} == {1}


def test_a_finished_job_keeps_no_sandbox_alive_when_that_is_lost() -> None:
    world = World(make_pod("a", policy="Never"))
    world.settle()
    for container in world.observed().containers + world.observed().sandboxes:
        world.end(container.id, 0)
    assert world.plan() == Plan()


def test_init_containers_run_one_after_the_other_before_all_else() -> None:
    world = World(make_pod("main", init=("one", "two")))
    order = []
    for name in ("one", "two"):
        world.settle()
        assert world.running() == [name]
        order.append(name)
        world.end(world.observed().latest(name).id, 0)  # type: ignore[union-attr]
    world.settle()
    assert world.running() == ["main"]


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    world = World(make_pod("main", init=("one",), policy="Never"))
    world.settle()
    world.end(world.observed().latest("one").id, 1)  # type: ignore[union-attr]
    world.settle()
    assert world.running() == []
    facts = StatusFacts(world.observed(), world.now, "10.0.0.1", {}, {})
    assert status_of(world.pod, facts).phase == "Failed"


def test_a_deleted_pod_is_stopped_and_then_removed() -> None:
    world = World(make_pod("a"))
    world.settle()
    meta = with_(
        world.pod.metadata, deletion_timestamp="2026-01-01T00:00:00Z",
        deletion_grace_period_seconds=7,
    )  # fmt: skip
    world.pod = with_(world.pod, metadata=meta)
    (kill,) = world.plan().actions
    assert isinstance(kill, KillContainer)
    assert kill.grace == 7
    world.settle()
    assert world.plan() == Plan(gone=True)


def test_an_unwanted_pod_is_given_the_grace_it_was_started_with() -> None:
    world = World(make_pod("a"))
    world.settle()
    world.containers = [replace(c, grace=12) for c in world.containers]
    (kill,) = dismantle(world.facts(), None, "gone").actions
    assert isinstance(kill, KillContainer)
    assert kill.grace == 12


def test_a_terminal_phase_is_never_left() -> None:
    world = World(make_pod("a"))
    world.settle()
    world.pod = with_(world.pod, status=with_(world.pod.status, phase="Failed"))
    world.settle()
    assert world.containers[0].run is Run.EXITED
    assert not world.observed().sandboxes
    facts = StatusFacts(world.observed(), world.now, "10.0.0.1", {}, {})
    assert status_of(world.pod, facts).phase == "Failed"


_FAULT = st.tuples(
    st.sampled_from(["end", "vanish", "lose-sandbox", "interrupt", "wait", "change"]),
    st.integers(min_value=0, max_value=9),
)


@given(st.lists(_FAULT, max_size=12), st.integers(min_value=1, max_value=3))
def test_whatever_happens_the_pod_comes_to_run_again(
    faults: list[tuple[str, int]], number: int
) -> None:
    """Containers end or vanish, plans are cut short, definitions change: it converges."""
    names = [f"c{i}" for i in range(number)]
    world = World(make_pod(*names, init=("init",)))
    for fault, pick in faults:
        if fault == "interrupt":
            for action in world.plan().actions[: pick % 3]:
                world.take(action)
        elif fault == "wait":
            world.now += 100 * pick
        elif fault == "change":
            first, *rest = world.pod.spec.containers
            changed = (with_(first, image=f"x:{pick}"), *rest)
            world.pod = with_(world.pod, spec=with_(world.pod.spec, containers=changed))
        elif world.containers:
            chosen = world.containers[pick % len(world.containers)]
            box = world.observed().sandbox
            if fault == "lose-sandbox" and box is not None:
                world.end(box.id, 137)
            elif fault == "vanish":
                world.take(RemoveContainer(chosen.id, chosen.name))
            elif chosen.run is Run.RUNNING:
                world.end(chosen.id, pick % 2)
    for _ in range(20):
        world.settle()
        for container in world.observed().containers:
            if container.name == "init" and container.run is Run.RUNNING:
                world.end(container.id, 0)
        again = world.plan().again
        if again is not None:
            world.now = again
    assert world.running() == sorted(names)
    assert world.plan() == Plan()


def test_the_status_of_a_running_pod() -> None:
    world = World(make_pod("a"))
    world.settle()
    box = replace(world.containers[0], ip="172.16.0.9")
    world.containers[0] = box
    facts = StatusFacts(world.observed(), world.now, "10.0.0.1", {}, {})
    status = status_of(world.pod, facts)
    assert (status.phase, status.pod_ip, status.host_ip) == ("Running", "172.16.0.9", "10.0.0.1")
    assert {c.type: c.status for c in status.conditions} == {
        "Initialized": "True", "Ready": "True", "ContainersReady": "True", "PodScheduled": "True",
    }  # fmt: skip
    later = replace(facts, now=world.now + 500)
    assert status_of(with_(world.pod, status=status), later) == status


def test_a_pod_that_waits_is_pending_and_says_why() -> None:
    world = World(make_pod("a"))
    waiting = {"a": Waiting("ErrImagePull", "no such host")}
    status = status_of(world.pod, StatusFacts(world.observed(), world.now, "10.0.0.1", waiting, {}))
    assert status.phase == "Pending"
    state = status.container_statuses[0].state.waiting
    assert state is not None
    assert (state.reason, state.message) == ("ErrImagePull", "no such host")
