"""The runtime protocol: what the kubelet asks of whatever runs containers.

Two implementations pass one contract suite (tests/kubelet/test_runtime_contract.py): Docker and
hollow. A runtime does I/O and decides nothing. It keeps what it observes in memory, told by the
engine's events, so that reading costs no call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from k8slite.decide.pods.spec import ContainerSpec, SandboxSpec
from k8slite.decide.pods.state import ObservedContainer, ObservedPod, PodRef


class RuntimeFailure(Exception):
    """The engine refused; the text is its own, in one line."""


class RuntimeGone(RuntimeFailure):
    """The engine does not answer; pods may well run on."""


class NoSuchContainer(RuntimeFailure):
    """The container does not exist (any more)."""


class PullFailure(RuntimeFailure):
    """The image cannot be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """``id`` is the engine's; ``names`` are tags and digests; ``size`` in bytes."""

    id: str
    names: tuple[str, ...] = ()
    size: int = 0


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What the engine says of itself; ``data_root`` is where its images lie."""

    name: str = ""
    version: str = ""
    data_root: str = ""
    pod_cidr: str = ""


@dataclass(frozen=True, slots=True)
class ExecResult:
    code: int
    output: bytes


@dataclass(frozen=True, slots=True)
class LogOptions:
    """``since`` in Unix seconds (0: from the beginning); ``tail`` None: every line."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """``cpu`` in nanoseconds since the start, ``memory`` in bytes (working set)."""

    cpu: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str
    server: str = ""


class PodNetwork(Protocol):
    """Where a runtime learns which addresses its pods may have."""

    async def claim(self, have: str, taken: Iterable[str]) -> str:
        """The CIDR that is this node's alone in the cluster from now on.

        ``have`` is the CIDR of the network that stands ("": none); ``taken`` is what else is in
        use on this host. Raises RuntimeFailure when there is none to be had, or nobody to ask.
        """
        ...


class ExecSession(Protocol):
    """A running command in a container, its streams attached."""

    async def __aenter__(self) -> ExecSession: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def read(self) -> tuple[int, bytes] | None:
        """The next piece: stream (1 output, 2 error) and bytes; None at the end."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close_input(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...

    async def exit_code(self) -> int: ...


class Runtime(Protocol):
    """Everything raises RuntimeGone when the engine does not answer."""

    @property
    def info(self) -> RuntimeInfo: ...

    @property
    def trouble(self) -> str:
        """Why the engine cannot be used; "" when it can."""
        ...

    async def run(self, network: PodNetwork) -> None:
        """Follow the engine until cancelled; survives its absence."""
        ...

    async def wait_ready(self) -> None:
        """Until the engine answers, the pod network stands and every container is known."""
        ...

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """``changed(pod uid)`` whenever something of that pod changed; ``changed("")`` when the
        engine went or came back. Returns the way to unsubscribe."""
        ...

    def pod(self, uid: str) -> ObservedPod: ...

    def pods(self) -> Iterable[PodRef]: ...

    async def start_sandbox(self, spec: SandboxSpec) -> ObservedContainer: ...

    async def start_container(self, spec: ContainerSpec) -> ObservedContainer:
        """Create and start. Raises RuntimeFailure; a container that was created but would not
        start is then seen as exited, its ``error`` set."""
        ...

    async def stop(self, id: str, grace: int) -> None:
        """SIGTERM, ``grace`` seconds, SIGKILL; returns when it stopped. Gone is fine."""
        ...

    async def remove(self, id: str) -> None:
        """Stop by force and remove. Gone is fine.

        A container that is dead but that the engine cannot remove is gone for everybody all the
        same: it is never seen again, and ``sweep`` tries on."""
        ...

    async def sweep(self) -> Mapping[str, str]:
        """Try again to remove what could not be removed; what still stays (id) and why."""
        ...

    def annotate(self, id: str, message: str) -> None:
        """Remember a dead container's termination message."""
        ...

    async def image(self, name: str) -> Image | None: ...

    async def images(self) -> list[Image]: ...

    async def images_in_use(self) -> set[str]:
        """Ids of images that any container refers to, ours or not."""
        ...

    async def pull(self, name: str, credentials: Iterable[Credentials]) -> None:
        """Raises PullFailure once every credential (and none at all) failed."""
        ...

    async def remove_image(self, id: str) -> None: ...

    async def exec(self, id: str, command: Iterable[str], timeout: float) -> ExecResult:
        """Run to the end. Raises TimeoutError."""
        ...

    def exec_session(
        self, id: str, command: Iterable[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> ExecSession: ...

    def logs(self, id: str, options: LogOptions) -> AsyncIterator[bytes]: ...

    async def usage(self, id: str) -> Usage: ...

    async def uninstall(self) -> list[str]:
        """Remove every container, network, image and directory of ours; says what it removed."""
        ...
