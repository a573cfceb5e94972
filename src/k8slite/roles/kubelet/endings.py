"""What containers say at their end: the termination message, from its file or from the log."""

from __future__ import annotations

from pathlib import Path

from k8slite.api.kinds.pod.types import Container, Pod
from k8slite.decide.pods.state import ObservedContainer, ObservedPod, Run
from k8slite.roles.kubelet.runtime import LogOptions, Runtime, RuntimeFailure
from k8slite.roles.kubelet.volumes import PodFiles

#: Kubernetes' limits: bytes from the file; lines and bytes from the log.
MAX_FILE, MAX_LINES, MAX_LOG = 4096, 80, 2048


class Endings:
    """Reads each dead container's message once and hands it to the runtime to remember."""

    def __init__(self, runtime: Runtime, volumes: PodFiles) -> None:
        self._runtime = runtime
        self._volumes = volumes
        self._read: dict[str, set[str]] = {}

    def forget(self, uid: str) -> None:
        self._read.pop(uid, None)

    async def read(self, pod: Pod, observed: ObservedPod) -> None:
        uid = pod.metadata.uid
        done = self._read.setdefault(uid, set())
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            for dead in (observed.latest(container.name), observed.previous(container.name)):
                if dead is None or dead.run is not Run.EXITED or dead.id in done:
                    continue
                done.add(dead.id)
                message = await self._message(uid, container, dead)
                if message:
                    self._runtime.annotate(dead.id, message)

    async def _message(self, uid: str, container: Container, dead: ObservedContainer) -> str:
        text = _head(self._volumes.end_file(uid, container.name, dead.attempt))
        if text or container.termination_message_policy != "FallbackToLogsOnError":
            return text
        if dead.exit_code == 0:
            return ""
        pieces = []
        try:
            async for piece in self._runtime.logs(dead.id, LogOptions(tail=MAX_LINES)):
                pieces.append(piece)
        except RuntimeFailure:
            return ""
        return b"".join(pieces)[-MAX_LOG:].decode("utf-8", "replace")


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE).decode("utf-8", "replace")
    except OSError:
        return ""
