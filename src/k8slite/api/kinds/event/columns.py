"""What is printed of events."""

from __future__ import annotations

from datetime import datetime

from k8slite.api.kinds.event.types import Event
from k8slite.api.scheme import Column
from k8slite.api.tables import UNKNOWN, aged, single


def _moment(stamp: str | None) -> str:
    """``Thu, 07 May 2015 09:00:00 +0000``: RFC 1123, as the article's kubectl wrote times."""
    try:
        moment = datetime.fromisoformat((stamp or "").replace("Z", "+00:00"))
    except ValueError:
        return UNKNOWN
    return moment.strftime("%a, %d %b %Y %H:%M:%S %z")


def first_seen(event: Event) -> str | None:
    return event.first_timestamp or event.event_time


def last_seen(event: Event) -> str | None:
    return event.last_timestamp or first_seen(event)


def source(event: Event) -> str:
    """``{kubelet 192.168.0.11}``"""
    return f"{{{event.source.component} {event.source.host}}}"


def _source_today(event: Event) -> str:
    parts = (event.source.component or event.reporting_component, event.source.host)
    return ", ".join(filter(None, parts))


def _object(event: Event) -> str:
    return f"{event.involved_object.kind.lower()}/{event.involved_object.name}"


ARTICLE_COLUMNS: tuple[Column[Event], ...] = (
    single("FIRSTSEEN", lambda event: _moment(first_seen(event))),
    single("LASTSEEN", lambda event: _moment(last_seen(event))),
    single("COUNT", lambda event: event.count or 1),
    single("NAME", lambda event: event.involved_object.name),
    single("KIND", lambda event: event.involved_object.kind),
    single("SUBOBJECT", lambda event: event.involved_object.field_path),
    single("REASON", lambda event: event.reason),
    single("SOURCE", source),
    single("MESSAGE", lambda event: event.message),
)

COLUMNS: tuple[Column[Event], ...] = (
    aged("Last Seen", last_seen),
    single("Type", lambda event: event.type),
    single("Reason", lambda event: event.reason),
    single("Object", _object),
    single("Subobject", lambda event: event.involved_object.field_path, wide=True),
    single("Source", _source_today, wide=True),
    single("Message", lambda event: event.message.strip()),
    aged("First Seen", first_seen, wide=True),
    single("Count", lambda event: event.count or 1, wide=True),
    single("Name", lambda event: event.metadata.name, wide=True),
)
