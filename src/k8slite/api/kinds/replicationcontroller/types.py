"""ReplicationController: so many pods of this template, always; and the Scale view of it."""

from __future__ import annotations

from typing import Any

from k8slite.api.kinds.podtemplate.types import PodTemplateSpec
from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class ReplicationControllerSpec(Struct):
    replicas: int | None = None
    min_ready_seconds: int = 0
    selector: dict[str, str] | None = None
    template: PodTemplateSpec | None = None


class ReplicationControllerStatus(Struct):
    replicas: int = always(0)
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    observed_generation: int = 0
    conditions: tuple[dict[str, Any], ...] = ()


class ReplicationController(Object):
    kind: str = always("ReplicationController")
    spec: ReplicationControllerSpec = always(ReplicationControllerSpec())
    status: ReplicationControllerStatus = always(ReplicationControllerStatus())


class ScaleSpec(Struct):
    replicas: int = always(0)


class ScaleStatus(Struct):
    replicas: int = always(0)
    selector: str = ""


class Scale(Object):
    kind: str = always("Scale")
    api_version: str = always("autoscaling/v1")
    spec: ScaleSpec = always(ScaleSpec())
    status: ScaleStatus = always(ScaleStatus())
