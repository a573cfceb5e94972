"""Checks that many kinds share. Each yields a ``FieldError`` for every field that is wrong.

The rules are those of Kubernetes' ``apimachinery/pkg/util/validation`` and ``pkg/apis/core/
validation``; a sentence says what is wrong and what would be right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

from k8slite.api import quantity
from k8slite.api.errors import FieldError
from k8slite.api.meta import ObjectMeta, OwnerReference

Errors = Iterator[FieldError]
#: What is wrong with a text: a sentence, or "" when nothing is.
Rule = Callable[[str], str]

MAX_INT32 = 2**31 - 1
#: How many errors of one object are told.
MAX_ERRORS = 100
MAX_ANNOTATIONS = 256 * 1024
MAX_DATA = 1024 * 1024

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_QUALIFIED = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_NOT_QUALIFIED = (
    'is no qualified name: letters, digits, "-", "_" and ".", beginning and ending with a letter '
    "or digit, at most 63 characters, with an optional DNS name and / before it"
)
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")


# -- sentences ----------------------------------------------------------------------------------


def required(path: str, sentence: str = "is required") -> FieldError:
    return FieldError(path, sentence, "Required")


def forbidden(path: str, sentence: str) -> FieldError:
    return FieldError(path, sentence, "Forbidden")


def duplicate(path: str, value: object) -> FieldError:
    return FieldError(path, f"{shown(value)} stands here twice; it must be unique", "Duplicate")


def shown(value: object) -> str:
    """A value as a message shows it: on one line, quoted when text, cut when long."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > 100:
        text = f"{text[:97]}..."
    return msgspec.json.encode(text).decode() if isinstance(value, str) else text


def at(path: str, key: str) -> str:
    """The path of one entry of a map; a key that is no good is shown as far as it helps."""
    return f"{path}[{shown(key)[1:-1]}]"


def collected(errors: Errors) -> list[FieldError]:
    """The errors as a list. Nobody reads more than a hundred, so nobody waits for more."""
    return list(islice(errors, MAX_ERRORS))


def choice(value: str, allowed: Collection[str], path: str) -> Errors:
    """``value`` is one of ``allowed``."""
    if value not in allowed:
        names = ", ".join(option for option in allowed if option)
        yield FieldError(path, f"{shown(value)} is not supported; choose {names}", "NotSupported")


def between(value: int | None, low: int, high: int, path: str) -> Errors:
    """``value`` (None: absent) lies in ``low``..``high``."""
    if value is not None and not low <= value <= high:
        limits = f"at least {low}" if high == MAX_INT32 and value < low else f"{low} to {high}"
        yield FieldError(path, f"{value} is out of range; it must be {limits}")


def natural(value: int | None, path: str) -> Errors:
    """``value`` (None: absent) is zero or more, and a 32-bit integer."""
    return between(value, 0, MAX_INT32, path)


def text(value: str, rule: Rule, path: str) -> Errors:
    """``value`` is there and follows ``rule``."""
    if not value:
        yield required(path)
    elif problem := rule(value):
        yield FieldError(path, f"{shown(value)} {problem}")


def unique(values: Iterable[tuple[str, object]]) -> Errors:
    """No value stands at two paths; empty values do not count."""
    seen: set[object] = set()
    for path, value in values:
        if value in seen:
            yield duplicate(path, value)
        elif value:
            seen.add(value)


# -- rules for text -----------------------------------------------------------------------------


def dns_label(value: str) -> str:
    if len(value) <= 63 and _DNS_LABEL.fullmatch(value):
        return ""
    return (
        'is no DNS label: lower-case letters, digits and "-", beginning and ending with a letter '
        "or digit, at most 63 characters"
    )


def dns_1035_label(value: str) -> str:
    if len(value) <= 63 and _DNS_1035.fullmatch(value):
        return ""
    return (
        'is no DNS label: lower-case letters, digits and "-", beginning with a letter and ending '
        "with a letter or digit, at most 63 characters"
    )


def dns_subdomain(value: str) -> str:
    if len(value) <= 253 and _SUBDOMAIN.fullmatch(value):
        return ""
    return (
        'is no DNS name: lower-case letters, digits, "-" and ".", each part beginning and ending '
        "with a letter or digit, at most 253 characters"
    )


def qualified_name(value: str) -> str:
    """``name`` or ``dns.prefix/name``: label keys, annotation keys, resources, finalizers."""
    return _qualified_name(value) if len(value) <= 317 else _NOT_QUALIFIED


@lru_cache(maxsize=4096)
def _qualified_name(value: str) -> str:
    prefix, slash, name = value.rpartition("/")
    if slash and (not prefix or dns_subdomain(prefix)):
        return 'is no qualified name: what stands before "/" must be a DNS name'
    if name and len(name) <= 63 and _QUALIFIED.fullmatch(name):
        return ""
    return _NOT_QUALIFIED


def label_value(value: str) -> str:
    if not value or (len(value) <= 63 and _QUALIFIED.fullmatch(value)):
        return ""
    return (
        'is no label value: letters, digits, "-", "_" and ".", beginning and ending with a letter '
        "or digit, at most 63 characters"
    )


def port_name(value: str) -> str:
    if len(value) <= 15 and _PORT_NAME.fullmatch(value):
        return ""
    return (
        'is no port name: lower-case letters, digits and single "-", at least one letter, at most '
        "15 characters"
    )


def env_name(value: str) -> str:
    if _ENV_NAME.fullmatch(value):
        return ""
    return 'is no name of a variable: letters, digits, "_", "-" and ".", not beginning with a digit'


def data_key(value: str) -> str:
    if len(value) <= 253 and value not in (".", "..") and _DATA_KEY.fullmatch(value):
        return ""
    return 'is no key: letters, digits, "-", "_" and ".", at most 253 characters'


def relative_path(value: str) -> str:
    if value.startswith("/"):
        return "must be relative: it may not begin with /"
    return 'may not contain ".."' if ".." in value.split("/") else ""


def ip_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return "is no IP address"
    return "" if "%" not in value else "is no IP address"


def routable_ip(value: str) -> str:
    """An address that packets from elsewhere can carry (external IPs, endpoints)."""
    if problem := ip_address(value):
        return problem
    address = ipaddress.ip_address(value)
    for is_so, name in (
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.is_link_local, "a link-local address"),
        (address.is_multicast, "a multicast address"),
    ):
        if is_so:
            return f"is {name}, which no other host can reach; give a routable address"
    return ""


def cidr(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        return f"is no network such as 10.0.1.0/24: {error}"
    return "" if "/" in value else "is no network such as 10.0.1.0/24: it lacks a prefix length"


# -- ports and quantities -----------------------------------------------------------------------


def port_number(value: int, path: str) -> Errors:
    if not 1 <= value <= 65535:
        yield FieldError(path, f"{value} is no port number; it must be 1 to 65535")


def port_or_name(value: int | str | None, path: str) -> Errors:
    """A port by number, or by the name that a container gives it."""
    if isinstance(value, int):
        yield from port_number(value, path)
    elif value is not None and port_name(value):
        if value.isascii() and value.isdigit():
            sentence = f"{shown(value)} is text; write the number without quotes"
        else:
            sentence = (
                f"{shown(value)} is neither a port number (1 to 65535) nor a port name (lower-case "
                'letters, digits and "-", at most 15 characters)'
            )
        yield FieldError(path, sentence)


def amount(value: quantity.Text, path: str) -> Errors:
    """A quantity that is not negative."""
    if isinstance(value, str) and len(value) > 100:
        yield FieldError(path, f"{shown(value)} is too long for a quantity", "TooLong")
        return
    try:
        if quantity.parse(value) < 0:
            yield FieldError(path, f"{shown(value)} is negative; it must be zero or more")
    except ValueError as error:
        yield FieldError(path, str(error))


@lru_cache(maxsize=4096)
def _is_amount(value: str) -> bool:
    return not any(amount(value, ""))


def amounts(values: Mapping[str, quantity.Text] | None, path: str) -> Errors:
    """A map of resource names to quantities."""
    for name, value in (values or {}).items():
        if problem := qualified_name(name):
            yield FieldError(at(path, name), f"{shown(name)} {problem}")
        if type(value) is not str or len(value) > 100 or not _is_amount(value):
            yield from amount(value, at(path, name))


def at_most(
    lower: Mapping[str, quantity.Text] | None,
    upper: Mapping[str, quantity.Text] | None,
    path: str,
    what: str,
) -> Errors:
    """No quantity of ``lower`` (at ``path``) exceeds the one of ``upper``, which ``what`` names."""
    for name, value in (lower or {}).items():
        limit = (upper or {}).get(name)
        if limit is None or limit == value:
            continue
        try:
            exceeds = quantity.parse(value) > quantity.parse(limit)
        except ValueError:
            continue  # said already
        if exceeds:
            said = f"{str(value)[:100]} is more than the {what} of {str(limit)[:100]}"
            yield FieldError(at(path, name), said)


# -- metadata -----------------------------------------------------------------------------------


def label_map(values: Mapping[str, str] | None, path: str) -> Errors:
    for key, value in (values or {}).items():
        if problem := qualified_name(key):
            yield FieldError(path, f"{shown(key)} {problem}")
        if problem := label_value(value):
            yield FieldError(at(path, key), f"{shown(value)} {problem}")


def annotation_map(values: Mapping[str, str] | None, path: str) -> Errors:
    size = 0
    for key, value in (values or {}).items():
        size += len(key) + len(value)
        if problem := qualified_name(key.lower()):
            yield FieldError(path, f"{shown(key)} {problem}")
    if size > MAX_ANNOTATIONS:
        yield FieldError(path, f"{size} bytes; all together at most {MAX_ANNOTATIONS}", "TooLong")


def metadata(meta: ObjectMeta, rule: Rule, path: str = "metadata") -> Errors:
    """An object's metadata; ``rule`` is the kind's rule for names."""
    if meta.name:
        if problem := rule(meta.name):
            yield FieldError(f"{path}.name", f"{shown(meta.name)} {problem}")
    elif not meta.generate_name:
        yield required(f"{path}.name", "name or generateName is required")
    if meta.generate_name and (problem := rule(f"{meta.generate_name.rstrip('-')[:58]}-x")):
        yield FieldError(f"{path}.generateName", f"{shown(meta.generate_name)} {problem}")
    if meta.namespace and (problem := dns_label(meta.namespace)):
        yield FieldError(f"{path}.namespace", f"{shown(meta.namespace)} {problem}")
    if meta.generation < 0:
        yield FieldError(f"{path}.generation", f"{meta.generation} is negative")
    yield from carried(meta, path)


def carried(meta: ObjectMeta, path: str = "metadata") -> Errors:
    """The part of metadata that a template carries too: all but the name."""
    if meta.labels:
        yield from label_map(meta.labels, f"{path}.labels")
    if meta.annotations:
        yield from annotation_map(meta.annotations, f"{path}.annotations")
    for index, finalizer in enumerate(meta.finalizers):
        yield from text(finalizer, qualified_name, f"{path}.finalizers[{index}]")
    if meta.owner_references:
        yield from _owners(meta.owner_references, f"{path}.ownerReferences")


def _owners(owners: tuple[OwnerReference, ...], path: str) -> Errors:
    for index, owner in enumerate(owners):
        for field, value in (
            ("apiVersion", owner.api_version),
            ("kind", owner.kind),
            ("name", owner.name),
            ("uid", owner.uid),
        ):
            if not value:
                yield required(f"{path}[{index}].{field}")
    controllers = [owner.name for owner in owners if owner.controller]
    if len(controllers) > 1:
        yield FieldError(path, "only one owner may be the controller")


def metadata_update(new: ObjectMeta, old: ObjectMeta, path: str = "metadata") -> Errors:
    """What identifies an object never changes. An empty uid or time in ``new`` means "as it is"."""
    for field, value, before in (
        ("name", new.name, old.name),
        ("namespace", new.namespace, old.namespace),
        ("uid", new.uid or old.uid, old.uid),
        (
            "creationTimestamp",
            new.creation_timestamp or old.creation_timestamp,
            old.creation_timestamp,
        ),
    ):
        if value != before:
            yield immutable(f"{path}.{field}", value, before)
    if old.deletion_timestamp and (added := set(new.finalizers) - set(old.finalizers)):
        yield forbidden(
            f"{path}.finalizers",
            f"{shown(min(added))} may not be added to an object that is being deleted",
        )


def immutable(path: str, new: object, old: object) -> FieldError:
    return FieldError(path, f"may not be changed (it is {shown(old)}, not {shown(new)})")


def first_difference(new: Any, old: Any, path: str) -> str:
    """The path of the first field in which two values differ, "" when they are equal."""
    if new == old:
        return ""
    if isinstance(new, msgspec.Struct) and type(new) is type(old):
        for field in msgspec.structs.fields(new):
            below = first_difference(
                getattr(new, field.name), getattr(old, field.name), f"{path}.{field.encode_name}"
            )
            if below:
                return below
    if isinstance(new, tuple) and isinstance(old, tuple) and len(new) == len(old):
        for index, (one, other) in enumerate(zip(new, old, strict=True)):
            if below := first_difference(one, other, f"{path}[{index}]"):
                return below
    return path
