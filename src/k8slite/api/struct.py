"""The base of every API struct: frozen, keyword-only, camelCase on the wire, empty fields left out.

Conventions, so that an object is cheap to decode and safe to share:

- lists are tuples; an absent list is ``()``, an absent string ``""``, an absent pointer ``None``;
- maps are dicts and are never changed in place (``msgspec.structs.replace`` makes the next value);
- a field that clients expect even when it is zero is declared with ``always``.
"""

from __future__ import annotations

from typing import Any, TypeVar, dataclass_transform

import msgspec

T = TypeVar("T")

#: Words that the Kubernetes API writes in capitals inside a field name.
_CAPITALS = {
    "ip": "IP", "ips": "IPs", "id": "ID", "uid": "UID", "cidr": "CIDR", "cidrs": "CIDRs",
    "pid": "PID", "ipc": "IPC", "uuid": "UUID", "url": "URL", "urls": "URLs", "io": "IO",
    "tls": "TLS", "api": "API", "dns": "DNS",
}  # fmt: skip


def wire_name(field: str) -> str:
    """``pod_ip`` → ``podIP``, ``api_version`` → ``apiVersion``."""
    first, *rest = field.rstrip("_").split("_")
    return first + "".join(_CAPITALS.get(word, word.capitalize()) for word in rest)


def always(value: T) -> T:
    """A default that is written even when the field holds it.

    msgspec leaves out a field only when its default is a plain value, never one from a factory.
    """
    field: Any = msgspec.field(default_factory=lambda: value)
    return field  # type: ignore[no-any-return]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Struct(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name, gc=False
):
    """An immutable API value.

    ``gc=False``: frozen values form no cycles, so the collector need not walk them. With 10,000
    objects decoded its rounds took a third of the time of all creates, 80 ms at once.
    """
