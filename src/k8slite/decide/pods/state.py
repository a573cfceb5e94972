"""What the node knows of a pod: the shapes that pod decisions read and the plans they give.

A runtime reports ``ObservedPod``; the decisions in ``sync`` and ``status`` never see Docker.
Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

#: The name that the sandbox bears among a pod's containers, as in v0.17.
SANDBOX = "POD"


@dataclass(frozen=True, slots=True, order=True)
class PodRef:
    """A pod and no other of the same name."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Run(Enum):
    """The life of a container."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class ObservedContainer:
    """One container of ours (a sandbox is one too, named ``POD``).

    ``hash`` is that of the spec it was made from. ``attempt`` counts the starts before it (the
    restart count); ``crashes`` the failures in a row before it, from which the crash-loop
    back-off follows without any memory. ``sandbox`` is the id of the sandbox it joined.
    ``grace`` is the seconds it may take to stop. ``message`` is its termination message.
    """

    id: str
    name: str
    pod: PodRef
    hash: str
    run: Run
    attempt: int = 0
    crashes: int = 0
    sandbox: str = ""
    image: str = ""
    image_id: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    message: str = ""
    grace: int = 30
    ip: str = ""
    init: bool = False


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """All containers of one pod; the newest of each name first."""

    ref: PodRef
    sandboxes: tuple[ObservedContainer, ...] = ()
    containers: tuple[ObservedContainer, ...] = ()

    @property
    def sandbox(self) -> ObservedContainer | None:
        """The sandbox that runs, or else the newest."""
        for sandbox in self.sandboxes:
            if sandbox.run is Run.RUNNING:
                return sandbox
        return self.sandboxes[0] if self.sandboxes else None

    @property
    def empty(self) -> bool:
        return not self.sandboxes and not self.containers

    def latest(self, name: str) -> ObservedContainer | None:
        for container in self.containers:
            if container.name == name:
                return container
        return None

    def previous(self, name: str) -> ObservedContainer | None:
        """The newest dead one before the latest."""
        found = [container for container in self.containers if container.name == name]
        return found[1] if len(found) > 1 else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container does not run: a reason of the API and a sentence."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes say of one container instance (by id)."""

    started: bool = True
    ready: bool = True
    kill: str = ""  # why it must die ("" when it need not)


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Everything besides the spec that a decision needs.

    ``images`` tells of each wanted image whether it is there; ``waiting`` holds what stands in a
    container's way (a failed pull, a missing config map); ``busy`` the ids of containers that are
    being stopped and the names of containers whose image is being pulled. ``stopping`` says of
    the former when they are killed at the latest. ``volumes`` is "" when the volumes are mounted,
    else what is missing.
    """

    observed: ObservedPod
    now: float
    health: Mapping[str, Health] = field(default_factory=dict)
    images: Mapping[str, bool] = field(default_factory=dict)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    volumes: str = ""
    stopping: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class StartContainer:
    name: str
    attempt: int
    crashes: int
    init: bool = False


@dataclass(frozen=True, slots=True)
class PullImage:
    """Make the image of ``name`` present (or check it again when the policy is Always)."""

    name: str
    image: str


@dataclass(frozen=True, slots=True)
class KillContainer:
    id: str
    name: str
    reason: str
    grace: int


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    id: str
    name: str


Action = CreateSandbox | StartContainer | PullImage | KillContainer | RemoveContainer


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions that may all be taken now, in order; ``again`` is when to look anew (Unix seconds).

    ``waiting`` tells why containers wait that no action concerns. ``gone`` says that nothing of
    the pod is left on the node.
    """

    actions: tuple[Action, ...] = ()
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    again: float | None = None
    gone: bool = False
