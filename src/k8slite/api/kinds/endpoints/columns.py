"""What is printed of endpoints."""

from __future__ import annotations

from k8slite.api.kinds.endpoints.types import Endpoints
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, NONE, single

#: More than so many addresses would make the table unreadable.
_SHOWN = 3


def addresses(endpoints: Endpoints, port_name: str | None = None) -> list[str]:
    """``ip:port`` of all that are ready, of the port ``port_name`` alone if it is given."""
    return [
        f"{address.ip}:{port.port}"
        for subset in endpoints.subsets
        for port in subset.ports
        if port_name is None or port.name == port_name
        for address in subset.addresses
    ]


def brief(found: list[str]) -> str:
    """At most three of ``found``, then ``...``."""
    return (",".join(found[:_SHOWN]) or NONE) + ("..." if len(found) > _SHOWN else "")


def _brief_today(endpoints: Endpoints) -> str:
    found = addresses(endpoints)
    more = len(found) - _SHOWN
    return (",".join(found[:_SHOWN]) or NONE) + (f" + {more} more..." if more > 0 else "")


ARTICLE_COLUMNS: tuple[Column[Endpoints], ...] = (
    single("NAME", lambda endpoints: endpoints.metadata.name),
    single("ENDPOINTS", lambda endpoints: brief(addresses(endpoints))),
)

COLUMNS: tuple[Column[Endpoints], ...] = (NAME, single("Endpoints", _brief_today), AGE)
