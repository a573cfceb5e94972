"""Who is at the other end of a TLS connection, as its certificate says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Subject:
    name: str = ""  # CN
    organizations: tuple[str, ...] = ()  # every O
    serial: str = ""  # the serialNumber attribute


def subject(certificate: Mapping[str, Any] | None) -> Subject:
    """``certificate`` is what ``ssl.SSLSocket.getpeercert`` gives; None, or empty, for nobody."""
    name, serial, organizations = "", "", []
    for parts in (certificate or {}).get("subject", ()):
        for key, value in parts:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                organizations.append(value)
            elif key == "serialNumber":
                serial = value
    return Subject(name, tuple(organizations), serial)
