"""Pull policies, pull back-off and the credentials that pull secrets hold."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass

from k8slite.api.kinds.pod.types import Container
from k8slite.api.kinds.secret.types import Secret
from k8slite.decide.pods.state import Waiting
from k8slite.kit.backoff import Backoff

PULL_BACKOFF = Backoff(initial=10.0, maximum=300.0)
#: How long a failed pull shows its own words before the status says that we back off. Seconds.
SHOW_ERROR = 2.0


@dataclass(frozen=True, slots=True)
class PullHistory:
    """Failures in a row of pulling one image for one pod."""

    failures: int
    failed_at: float
    error: str

    def until(self) -> float:
        return self.failed_at + PULL_BACKOFF.delay(self.failures)


def policy_of(container: Container) -> str:
    """Always, IfNotPresent or Never; unset: Always for ``latest`` or no tag."""
    if container.image_pull_policy:
        return container.image_pull_policy
    name = container.image.rsplit("/", 1)[-1]
    if "@" in name:
        return "IfNotPresent"
    tag = name.partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def obstacle(image: str, history: PullHistory | None, now: float) -> Waiting | None:
    """Why the image is not pulled right now; None when it may be."""
    if history is None or now >= history.until():
        return None
    reason = "InvalidImageName" if "invalid reference" in history.error else "ErrImagePull"
    if now < history.failed_at + SHOW_ERROR or reason == "InvalidImageName":
        return Waiting(reason, history.error)
    return Waiting("ImagePullBackOff", f'Back-off pulling image "{image}": {history.error}')


def credentials(image: str, secrets: Iterable[Secret]) -> list[tuple[str, str]]:
    """User and password for each entry of the secrets that fits the image's registry.

    Understands ``kubernetes.io/dockerconfigjson`` and ``kubernetes.io/dockercfg``; what cannot be
    read is passed over, as the kubelet does.
    """
    registry = registry_of(image)
    found: list[tuple[str, str]] = []
    for secret in secrets:
        for server, entry in _entries(secret).items():
            if _same_registry(server, registry, image):
                pair = _pair(entry)
                if pair is not None:
                    found.append(pair)
    return found


def registry_of(image: str) -> str:
    """The registry that an image reference names: ``docker.io`` unless it says another."""
    head, slash, _ = image.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        return head
    return "docker.io"


def _entries(secret: Secret) -> dict[str, dict[str, str]]:
    data = secret.data or {}
    try:
        if ".dockerconfigjson" in data:
            parsed = json.loads(base64.b64decode(data[".dockerconfigjson"])).get("auths", {})
        else:
            parsed = json.loads(base64.b64decode(data.get(".dockercfg", "e30=")))
    except (ValueError, AttributeError):
        return {}
    return {k: v for k, v in parsed.items() if isinstance(v, dict)} if parsed else {}


def _same_registry(server: str, registry: str, image: str) -> bool:
    place = server.split("://", 1)[-1].strip("/")
    host, _, path = place.partition("/")
    if host.endswith("docker.io"):
        return registry == "docker.io"
    if host != registry:
        return False
    return path in ("", "v1", "v2") or image.startswith(f"{place}/")


def _pair(entry: dict[str, str]) -> tuple[str, str] | None:
    if entry.get("username"):
        return entry["username"], entry.get("password", "")
    try:
        user, colon, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None
