"""ComponentStatus: is a part of the control plane well? Asked when read, never stored."""

from __future__ import annotations

from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class ComponentCondition(Struct):
    type: str = always("")
    status: str = always("")
    message: str = ""
    error: str = ""


class ComponentStatus(Object):
    kind: str = always("ComponentStatus")
    conditions: tuple[ComponentCondition, ...] = ()
