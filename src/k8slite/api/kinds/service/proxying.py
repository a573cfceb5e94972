"""What a service may ask of our own proxy, by annotation. Kubernetes' proxies know none of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.validation import Errors

#: A new endpoint's share of connections grows over so many seconds, from a tenth to a whole one.
WARM_UP = "k8slite.io/warm-up"

#: How a TCP endpoint learns who the client is: by a header of the PROXY protocol, or because the
#: connection comes from the client's own address. Without it the proxy's node is the client.
CLIENT_ADDRESS = "k8slite.io/client-address"
CLIENT_ADDRESSES = ("proxy-v1", "proxy-v2", "transparent")

_SECONDS = re.compile(r"([0-9]{1,4})s?")
_MAX_WARM_UP = 3600


def warm_up(annotations: Mapping[str, str] | None) -> float:
    """Seconds; 0 without the annotation, and for one that no API let in."""
    return float(_seconds((annotations or {}).get(WARM_UP, "")) or 0)


def client_address(annotations: Mapping[str, str] | None) -> str:
    """One of CLIENT_ADDRESSES; "" without the annotation, and for one that no API let in."""
    text = (annotations or {}).get(CLIENT_ADDRESS, "")
    return text if text in CLIENT_ADDRESSES else ""


def checked(annotations: Mapping[str, str] | None, path: str) -> Errors:
    """What is wrong with the values."""
    text = (annotations or {}).get(WARM_UP)
    if text is not None and _seconds(text) is None:
        yield FieldError(
            f"{path}[{WARM_UP}]",
            f"{check.shown(text)} must be seconds from 0 to {_MAX_WARM_UP}, as 30s or 30",
        )
    chosen = (annotations or {}).get(CLIENT_ADDRESS)
    if chosen is not None:
        yield from check.choice(chosen, CLIENT_ADDRESSES, f"{path}[{CLIENT_ADDRESS}]")


def _seconds(text: str) -> int | None:
    match = _SECONDS.fullmatch(text)
    seconds = int(match.group(1)) if match else None
    return seconds if seconds is not None and seconds <= _MAX_WARM_UP else None
