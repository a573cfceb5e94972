"""ComponentStatuses: each part of the control plane is asked when somebody reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from k8slite.api.kinds.componentstatus.types import ComponentCondition, ComponentStatus
from k8slite.api.meta import ObjectMeta

#: Returns what a well part says of itself (``ok``); raises when it is not well.
Probe = Callable[[], Awaitable[str]]
#: A part that has not answered by then is not well, seconds.
PATIENCE = 2.0


class Components:
    """The parts by name (``etcd-0``, ``controller-manager``, ``scheduler``), in that order."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._probes = dict(probes)

    async def __call__(self) -> Sequence[ComponentStatus]:
        names = self._probes.items()
        return await asyncio.gather(*(_status(name, probe) for name, probe in names))


async def _status(name: str, probe: Probe) -> ComponentStatus:
    try:
        async with asyncio.timeout(PATIENCE):
            message = await probe()
        healthy = ComponentCondition(type="Healthy", status="True", message=message)
    except TimeoutError:
        healthy = ComponentCondition(
            type="Healthy", status="False", error=f"no answer within {PATIENCE:g} s"
        )
    except Exception as error:  # whatever is wrong with the part is the answer
        healthy = ComponentCondition(
            type="Healthy", status="False", error=str(error) or repr(error)
        )
    return ComponentStatus(metadata=ObjectMeta(name=name), conditions=(healthy,))
