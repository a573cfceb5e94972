"""Secret: small private data; values of ``data`` are base64 text."""

from __future__ import annotations

from k8slite.api.meta import Object
from k8slite.api.struct import always


class Secret(Object):
    kind: str = always("Secret")
    immutable: bool | None = None
    data: dict[str, str] | None = None
    string_data: dict[str, str] | None = None
    type: str = ""
