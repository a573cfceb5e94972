"""Event: what a component saw or did, and why; kept for an hour."""

from __future__ import annotations

from typing import Any

from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class EventSource(Struct):
    component: str = ""
    host: str = ""


class Event(Object):
    kind: str = always("Event")
    involved_object: ObjectReference = always(ObjectReference())
    reason: str = ""
    message: str = ""
    source: EventSource = always(EventSource())
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    count: int = 0
    type: str = ""
    event_time: str | None = None
    series: dict[str, Any] | None = None
    action: str = ""
    related: ObjectReference | None = None
    reporting_component: str = always("")
    reporting_instance: str = always("")
