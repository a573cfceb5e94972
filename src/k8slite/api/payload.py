"""The data of secrets and config maps: keys, base64, size, immutability."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.validation import Errors

Data = Mapping[str, str] | None

_LINE_BREAKS = str.maketrans("", "", "\r\n")


def tidy(data: dict[str, str] | None) -> dict[str, str] | None:
    """Base64 values without the line breaks that tools put in; the same dict if there are none."""
    if not data or not any("\n" in value or "\r" in value for value in data.values()):
        return data
    return {key: value.translate(_LINE_BREAKS) for key, value in data.items()}


def sized(fields: Mapping[str, Data], *, coded: tuple[str, ...]) -> Errors:
    """Keys are keys, the values of the fields ``coded`` are base64, all together is not too big."""
    size = 0
    for field, data in fields.items():
        for key, value in (data or {}).items():
            if problem := check.data_key(key):
                yield FieldError(check.at(field, key), f"{check.shown(key)} {problem}")
            if field not in coded:
                size += len(value.encode())
                continue
            try:
                size += len(base64.b64decode(value, validate=True))
            except (binascii.Error, ValueError):
                # What is nearly base64 is nearly a secret: it is not shown.
                yield FieldError(check.at(field, key), "the value is not base64")
    if size > check.MAX_DATA:
        where = " and ".join(fields)
        yield FieldError(where, f"{size} bytes; at most {check.MAX_DATA}", "TooLong")


def kept(
    immutable: bool | None, was_immutable: bool | None, fields: Mapping[str, tuple[Data, Data]]
) -> Errors:
    """What was declared immutable stays so, and stays as it is."""
    if not was_immutable:
        return
    if not immutable:
        yield check.forbidden("immutable", "may not be taken back; delete and create the object")
    for field, (new, old) in fields.items():
        if (new or None) != (old or None):
            yield check.forbidden(field, "may not be changed: the object is immutable")
