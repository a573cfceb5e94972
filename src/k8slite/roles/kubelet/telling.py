"""Events about pods and their containers."""

from __future__ import annotations

from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.kinds.pod.types import Container, Pod
from k8slite.client.events import EventRecorder
from k8slite.decide.pods.spec import pod_ref
from k8slite.decide.pods.state import Plan


class PodEvents:
    """What happens to pods, told to whoever asks the API."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder

    def pod(self, pod: Pod, reason: str, text: str, type: str = "Normal") -> None:
        self._recorder.event(pod, reason, text, type)

    def container(
        self, pod: Pod, container: Container, reason: str, text: str, type: str = "Normal"
    ) -> None:
        meta = pod.metadata
        init = any(c.name == container.name for c in pod.spec.init_containers)
        part = "initContainers" if init else "containers"
        about = ObjectReference(
            kind="Pod",
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            api_version="v1",
            resource_version=meta.resource_version,
            field_path=f"spec.{part}{{{container.name}}}",
        )
        self._recorder.event(about, reason, text, type)

    def unhealthy(self, pod: Pod, container: Container, kind: str, message: str) -> None:
        text = f"{kind.capitalize()} probe failed: {message}"
        self.container(pod, container, "Unhealthy", text, "Warning")

    def backoffs(self, pod: Pod, plan: Plan) -> None:
        """An event for each container that begins to wait after failures."""
        for before in (*pod.status.init_container_statuses, *pod.status.container_statuses):
            waits = plan.waiting.get(before.name)
            if waits is None or waits.reason not in ("CrashLoopBackOff", "ImagePullBackOff"):
                continue
            shown = before.state.waiting
            if shown is None or shown.reason != waits.reason:
                container = container_of(pod, before.name)
                self.container(pod, container, "BackOff", waits.message, "Warning")


def find_container(pod: Pod | None, name: str) -> Container | None:
    if pod is None:
        return None
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        if container.name == name:
            return container
    return None


def container_of(pod: Pod, name: str) -> Container:
    found = find_container(pod, name)
    assert found is not None, f"the plan names container {name}, which {pod_ref(pod)} has not"
    return found
