"""What may be thrown away on a node: dead containers and unused images.

Rules: kubernetes-v0.17.md §4 (containers: at least a minute old, few dead kept per container;
images: from 90 % of the disk down to 80 %, least recently used first).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from k8slite.decide.pods.state import ObservedContainer, ObservedPod, Run

MIN_AGE = 60.0
#: The last dead instance gives the last state and ``logs --previous``; one more for good measure.
KEEP_DEAD = 2
HIGH_MARK, LOW_MARK = 0.90, 0.80


def dead_containers(pod: ObservedPod, now: float) -> list[ObservedContainer]:
    """The pod's containers that nobody will miss: sandboxes that another one has followed, and
    dead containers beyond the last few."""
    kept: dict[str, int] = {}
    current = pod.sandbox
    waste = [s for s in pod.sandboxes if s is not current and s.run is not Run.RUNNING]
    for container in pod.containers:  # newest first
        if container.run is not Run.EXITED:
            continue
        kept[container.name] = kept.get(container.name, 0) + 1
        if kept[container.name] > KEEP_DEAD and now - container.finished_at >= MIN_AGE:
            waste.append(container)
    return waste


@dataclass(frozen=True, slots=True)
class StoredImage:
    id: str
    size: int
    last_used: float


def unused_images(
    images: Iterable[StoredImage], in_use: Collection[str], used: int, capacity: int
) -> list[str]:
    """Ids of images to remove, in order; ``used`` and ``capacity`` of the disk in bytes."""
    if capacity <= 0 or used < HIGH_MARK * capacity:
        return []
    excess = used - int(LOW_MARK * capacity)
    chosen = []
    for image in sorted(images, key=lambda image: (image.last_used, image.id)):
        if excess <= 0:
            break
        if image.id not in in_use:
            chosen.append(image.id)
            excess -= image.size
    return chosen


def note_use(
    last_used: Mapping[str, float], images: Iterable[str], in_use: Collection[str], now: float
) -> dict[str, float]:
    """When each image was last used; one that is seen for the first time counts as used now."""
    return {id: now if id in in_use else last_used.get(id, now) for id in images}
