"""PodTemplate: a pod's body kept for later."""

from __future__ import annotations

from k8slite.api.kinds.pod.types import PodSpec
from k8slite.api.meta import Object, ObjectMeta
from k8slite.api.struct import Struct, always


class PodTemplateSpec(Struct):
    metadata: ObjectMeta = always(ObjectMeta())
    spec: PodSpec = always(PodSpec())


class PodTemplate(Object):
    kind: str = always("PodTemplate")
    template: PodTemplateSpec = always(PodTemplateSpec())
