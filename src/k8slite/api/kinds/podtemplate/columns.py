"""What is printed of pod templates."""

from __future__ import annotations

from k8slite.api.kinds.pod.columns import container_images, container_names
from k8slite.api.kinds.podtemplate.types import PodTemplate
from k8slite.api.scheme import Column
from k8slite.api.tables import NAME, labels_or_none, several, single

ARTICLE_COLUMNS: tuple[Column[PodTemplate], ...] = (
    single("TEMPLATE", lambda t: t.metadata.name),
    several("CONTAINER(S)", lambda t: container_names(t.template.spec.containers)),
    several("IMAGE(S)", lambda t: container_images(t.template.spec.containers)),
    single("PODLABELS", lambda t: labels_or_none(t.template.metadata.labels)),
)

COLUMNS: tuple[Column[PodTemplate], ...] = (
    NAME,
    single("Containers", lambda t: ",".join(container_names(t.template.spec.containers))),
    single("Images", lambda t: ",".join(container_images(t.template.spec.containers))),
    single("Pod Labels", lambda t: labels_or_none(t.template.metadata.labels)),
)
