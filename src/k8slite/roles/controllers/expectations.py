"""What this process wrote and its informer does not show yet.

An informer lags. A controller that acted only on what it sees would create the same replica twice.
So what was created counts as there until the informer has shown it, and what was deleted counts as
on its way out. Losing all of this with the process is harmless: the next one begins with a list
made after these writes.
"""

from __future__ import annotations

from collections.abc import Iterable

from k8slite.api.kinds.pod.types import Pod
from k8slite.client.base import Informer
from k8slite.kit.clock import Clock

#: An informer that has not shown a write after so many seconds never will (v0.17's three minutes):
#: the object came and went between two looks.
EXPIRY = 180.0


class Expectations:
    """Pods expected to appear or to go, for the owners that asked for it (by uid)."""

    def __init__(self, pods: Informer[Pod], clock: Clock) -> None:
        self._pods = pods
        self._clock = clock
        self._asked: dict[str, str] = {}  # pod key → owner; a creation under way
        self._created: dict[str, dict[str, tuple[Pod, float]]] = {}  # owner → pod key → pod
        self._deleted: dict[str, float] = {}  # pod uid

    def observe(self, old: Pod | None, new: Pod | None) -> None:
        """A handler for the pods' informer."""
        pod = new or old
        assert pod is not None
        if self._asked:
            self._asked.pop(pod.key, None)
        if self._created:
            for owner in [o for o, pods in self._created.items() if pod.key in pods]:
                self._drop(owner, pod.key)
        if self._deleted and (new is None or new.metadata.deletion_timestamp is not None):
            self._deleted.pop(pod.metadata.uid, None)

    def asking(self, owner: str, key: str) -> None:
        """``owner`` is about to create the pod ``key``."""
        self._asked[key] = owner

    def created(self, key: str, pod: Pod) -> None:
        """The pod is there, or may be; it counts unless the informer has shown it meanwhile."""
        owner = self._asked.pop(key, None)
        if owner is not None and self._pods.get(key) is None:
            due = self._clock.monotonic() + EXPIRY
            self._created.setdefault(owner, {})[key] = (pod, due)

    def refused(self, key: str) -> None:
        """The pod was certainly not created."""
        self._asked.pop(key, None)

    def deleted(self, pod: Pod) -> None:
        """The pod is gone or has begun to stop."""
        shown = self._pods.get(pod.key)
        if (
            shown is not None
            and shown.metadata.uid == pod.metadata.uid
            and shown.metadata.deletion_timestamp is None
        ):
            self._deleted[pod.metadata.uid] = self._clock.monotonic() + EXPIRY

    def view(self, owner: str, shown: Iterable[Pod]) -> list[Pod]:
        """``shown`` by the informer, plus what was created, less what was deleted."""
        now = self._clock.monotonic()
        if self._deleted:
            self._deleted = {uid: due for uid, due in self._deleted.items() if due > now}
        pods = [pod for pod in shown if pod.metadata.uid not in self._deleted]
        for key, (pod, due) in list(self._created.get(owner, {}).items()):
            if due <= now:
                self._drop(owner, key)
            else:
                pods.append(pod)
        return pods

    def pending(self, owner: str) -> bool:
        """Does the informer still owe ``owner`` anything that was created?"""
        return owner in self._created

    def _drop(self, owner: str, key: str) -> None:
        del self._created[owner][key]
        if not self._created[owner]:
            del self._created[owner]
