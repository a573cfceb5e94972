"""What is printed of replication controllers."""

from __future__ import annotations

from k8slite.api.kinds.pod.columns import container_images, container_names
from k8slite.api.kinds.pod.types import Container
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, labels_or_none, several, single


def _containers(rc: ReplicationController) -> tuple[Container, ...]:
    return rc.spec.template.spec.containers if rc.spec.template else ()


ARTICLE_COLUMNS: tuple[Column[ReplicationController], ...] = (
    single("CONTROLLER", lambda rc: rc.metadata.name),
    several("CONTAINER(S)", lambda rc: container_names(_containers(rc))),
    several("IMAGE(S)", lambda rc: container_images(_containers(rc))),
    single("SELECTOR", lambda rc: labels_or_none(rc.spec.selector)),
    single("REPLICAS", lambda rc: rc.spec.replicas or 0),
)

COLUMNS: tuple[Column[ReplicationController], ...] = (
    NAME,
    single("Desired", lambda rc: rc.spec.replicas or 0, type="integer"),
    single("Current", lambda rc: rc.status.replicas, type="integer"),
    single("Ready", lambda rc: rc.status.ready_replicas, type="integer"),
    AGE,
    single("Containers", lambda rc: ",".join(container_names(_containers(rc))), wide=True),
    single("Images", lambda rc: ",".join(container_images(_containers(rc))), wide=True),
    single("Selector", lambda rc: labels_or_none(rc.spec.selector), wide=True),
)
