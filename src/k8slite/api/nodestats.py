"""What a node says of its use of processor and memory: ``/stats`` of the node API, a part of the
kubelet's ``/stats/summary``."""

from __future__ import annotations

from k8slite.api.struct import Struct, always


class CpuUse(Struct):
    """Since an unknown beginning: two answers tell what was used between them."""

    usage_core_nano_seconds: int = always(0)


class MemoryUse(Struct):
    working_set_bytes: int = always(0)


class Use(Struct):
    """Of a container, by ``name``, or of the whole host."""

    name: str = ""
    cpu: CpuUse = always(CpuUse())
    memory: MemoryUse = always(MemoryUse())


class PodReference(Struct):
    name: str = ""
    namespace: str = ""


class PodUse(Struct):
    pod_ref: PodReference = always(PodReference())
    containers: tuple[Use, ...] = ()


class NodeStats(Struct):
    """``seconds`` are of the node's own clock, from an unknown beginning."""

    seconds: float = 0.0
    node: Use = always(Use())
    pods: tuple[PodUse, ...] = always(())
