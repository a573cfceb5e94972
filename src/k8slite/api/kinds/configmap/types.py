"""ConfigMap: settings as text (``data``) or base64 (``binaryData``)."""

from __future__ import annotations

from k8slite.api.meta import Object
from k8slite.api.struct import always


class ConfigMap(Object):
    kind: str = always("ConfigMap")
    immutable: bool | None = None
    data: dict[str, str] | None = None
    binary_data: dict[str, str] | None = None
