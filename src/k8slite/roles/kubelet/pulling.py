"""Makes images present, by the container's pull policy, with back-off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from k8slite.api.kinds import SECRET
from k8slite.api.kinds.pod.types import Container, Pod
from k8slite.client.base import Informers
from k8slite.client.events import EventRecorder
from k8slite.decide.pods.pull import PullHistory, credentials, obstacle, policy_of
from k8slite.decide.pods.state import Waiting
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.runtime import Credentials, PullFailure, Runtime


class Puller:
    """Pulls of all pods; images of one name are pulled one after the other."""

    def __init__(
        self, runtime: Runtime, informers: Informers, recorder: EventRecorder, clock: Clock
    ) -> None:
        self._runtime = runtime
        self._secrets = informers.of(SECRET)
        self._recorder = recorder
        self._clock = clock
        self._history: dict[tuple[str, str], PullHistory] = {}
        self._fresh: set[tuple[str, str]] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    def forget(self, uid: str) -> None:
        for key in [key for key in self._history if key[0] == uid]:
            del self._history[key]
        self._fresh = {key for key in self._fresh if key[0] != uid}

    async def there(self, pod: Pod, container: Container) -> bool:
        """Whether the container may start with what is there."""
        if policy_of(container) == "Always":
            return (pod.metadata.uid, container.name) in self._fresh
        return await self._runtime.image(container.image) is not None

    def just_pulled(self, pod: Pod, container: Container) -> bool:
        return (pod.metadata.uid, container.name) in self._fresh

    def used(self, pod: Pod, container: Container) -> None:
        """The container was started: policy Always pulls again before its next start."""
        self._fresh.discard((pod.metadata.uid, container.name))

    def obstacle(self, pod: Pod, container: Container) -> tuple[Waiting, float] | None:
        """Why the image is not pulled now, and until when."""
        if policy_of(container) == "Never":
            text = f'Container image "{container.image}" is not present with pull policy of Never'
            return Waiting("ErrImageNeverPull", text), self._clock.now() + 10
        history = self._history.get((pod.metadata.uid, container.image))
        why = obstacle(container.image, history, self._clock.now())
        if why is None or history is None:
            return None
        soon = self._clock.now() + 2 if why.reason == "ErrImagePull" else history.until()
        return why, min(soon, history.until())

    async def pull(self, pod: Pod, container: Container) -> None:
        """Pull once; the outcome is remembered and told as events."""
        uid, image = pod.metadata.uid, container.image
        policy = policy_of(container)
        lock = self._locks.setdefault(image, asyncio.Lock())
        async with lock:
            if policy == "IfNotPresent" and await self._runtime.image(image) is not None:
                return
            self._recorder.event(pod, "Pulling", f'Pulling image "{image}"')
            began = self._clock.monotonic()
            try:
                await self._runtime.pull(image, self._credentials(pod, image))
            except PullFailure as failure:
                self._failed(pod, image, str(failure))
                return
            took = self._clock.monotonic() - began
            self._history.pop((uid, image), None)
            self._fresh.add((uid, container.name))
            self._recorder.event(
                pod, "Pulled", f'Successfully pulled image "{image}" in {took:.3f}s'
            )

    def _failed(self, pod: Pod, image: str, why: str) -> None:
        key = (pod.metadata.uid, image)
        before = self._history.get(key)
        failures = before.failures + 1 if before is not None else 1
        self._history[key] = PullHistory(failures, self._clock.now(), why)
        self._recorder.event(pod, "Failed", f'Failed to pull image "{image}": {why}', "Warning")

    def _credentials(self, pod: Pod, image: str) -> Iterable[Credentials]:
        namespace = pod.metadata.namespace
        named = (
            self._secrets.get(f"{namespace}/{ref.name}") for ref in pod.spec.image_pull_secrets
        )
        found = credentials(image, [secret for secret in named if secret is not None])
        return [Credentials(user, password) for user, password in found]
