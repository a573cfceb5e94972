"""What a runtime sees: its containers by id and by pod, and who wants to hear of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from k8slite.decide.pods.state import SANDBOX, ObservedContainer, ObservedPod, PodRef

_NOBODY = PodRef("", "", "")


class Sight:
    """Containers as last seen. Every change is told with the pod's uid."""

    def __init__(self) -> None:
        self._by_id: dict[str, ObservedContainer] = {}
        self._by_uid: dict[str, dict[str, ObservedContainer]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self._listeners.append(changed)
        return lambda: self._listeners.remove(changed)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until a change makes ``holds()`` true."""
        changed = asyncio.Event()
        unsubscribe = self.subscribe(lambda uid: changed.set())
        try:
            while not holds():
                changed.clear()
                await changed.wait()
        finally:
            unsubscribe()

    def tell(self, uid: str) -> None:
        for changed in list(self._listeners):
            changed(uid)

    def get(self, id: str) -> ObservedContainer | None:
        return self._by_id.get(id)

    def put(self, container: ObservedContainer, *, quietly: bool = False) -> None:
        if self._by_id.get(container.id) == container:
            return
        self._by_id[container.id] = container
        self._by_uid.setdefault(container.pod.uid, {})[container.id] = container
        if not quietly:
            self.tell(container.pod.uid)

    def drop(self, id: str) -> None:
        container = self._by_id.pop(id, None)
        if container is None:
            return
        siblings = self._by_uid[container.pod.uid]
        del siblings[id]
        if not siblings:
            del self._by_uid[container.pod.uid]
        self.tell(container.pod.uid)

    def reset(self, containers: Iterable[ObservedContainer]) -> None:
        """Replace everything; termination messages that are known stay known."""
        before = self._by_id
        self._by_id, self._by_uid = {}, {}
        for container in containers:
            old = before.get(container.id)
            if old is not None and old.message and not container.message:
                container = replace(container, message=old.message)
            self.put(container, quietly=True)

    def all(self) -> Iterable[ObservedContainer]:
        return list(self._by_id.values())

    def pods(self) -> Iterable[PodRef]:
        return [next(iter(found.values())).pod for found in self._by_uid.values()]

    def pod(self, uid: str) -> ObservedPod:
        found = self._by_uid.get(uid)
        if not found:
            return ObservedPod(_NOBODY)
        newest_first = sorted(
            found.values(), key=lambda c: (c.attempt, c.created_at, c.id), reverse=True
        )
        return ObservedPod(
            newest_first[0].pod,
            tuple(c for c in newest_first if c.name == SANDBOX),
            tuple(c for c in newest_first if c.name != SANDBOX),
        )
