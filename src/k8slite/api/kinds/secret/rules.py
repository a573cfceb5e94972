"""The life of a secret on its way into the store."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from k8slite.api import payload
from k8slite.api import validation as check
from k8slite.api.defaulting import filled
from k8slite.api.errors import FieldError
from k8slite.api.kinds.secret.types import Secret
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors

OPAQUE = "Opaque"
#: What secrets of a known type must hold.
_KEYS: dict[str, tuple[str, ...]] = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}
_ACCOUNT = "kubernetes.io/service-account.name"


def fields(secret: Secret) -> dict[str, str]:
    return {"type": secret.type}


def _default(secret: Secret) -> Secret:
    """``stringData`` is a way of writing: it goes into ``data`` and is gone."""
    changes: dict[str, Any] = {}
    if not secret.type:
        changes["type"] = OPAQUE
    data = payload.tidy(secret.data)
    if secret.string_data is not None:
        written = {key: _encoded(value) for key, value in secret.string_data.items()}
        data = {**(data or {}), **written} or None
        changes["string_data"] = None
    if data is not secret.data:
        changes["data"] = data
    return filled(secret, changes)


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _checks(new: Secret, old: Secret | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    yield from payload.sized({"data": new.data}, coded=("data",))
    for key in _KEYS.get(new.type, ()):
        if key not in (new.data or {}):
            yield check.required(f"data[{key}]", f"is required in a secret of type {new.type}")
    if new.type in ("kubernetes.io/dockercfg", "kubernetes.io/dockerconfigjson"):
        yield from _registry_logins(new)
    if new.type == "kubernetes.io/service-account-token" and not new.metadata.annotation(_ACCOUNT):
        yield check.required(f"metadata.annotations[{_ACCOUNT}]")
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)
        if new.type != old.type:
            yield check.immutable("type", new.type, old.type)
        yield from payload.kept(new.immutable, old.immutable, {"data": (new.data, old.data)})


def _registry_logins(secret: Secret) -> Errors:
    key = _KEYS[secret.type][0]
    value = (secret.data or {}).get(key)
    if value is None:
        return
    try:
        msgspec.json.decode(base64.b64decode(value), type=dict[str, Any])
    except (ValueError, RecursionError):
        # The value is a secret: it is not shown.
        yield FieldError(f"data[{key}]", "must hold a JSON object")


def _validate(new: Secret, old: Secret | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


STRATEGY = Strategy(default=_default, validate=_validate)
