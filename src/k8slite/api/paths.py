"""Paths of the API: what a request line asks for.

Grammar (docs/api of Kubernetes, and of v0.17 for the legacy prefixes)::

    /api/v1/<resource>[/<name>[/<subresource>[/<rest>]]]
    /api/v1/namespaces/<namespace>/<resource>[/<name>[/<subresource>[/<rest>]]]
    /api/v1/watch/…   /api/v1/proxy/…          (v0.17; the same paths behind a verb)
    /apis/<group>/<version>/…
    anything else: a path that is no object (/healthz, /version, /)

``v1beta3`` stands wherever ``v1`` does. Nothing here knows HTTP beyond method, path and query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from k8slite.api.errors import BadRequest, NotFound
from k8slite.api.scheme import Kind, Scheme

#: Versions of the core group that have doors; both are one kind inside.
CORE_VERSIONS = ("v1", "v1beta3")

#: More parameters than this is no request of a client.
MAX_PARAMETERS = 256

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True", ""))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class Query(dict[str, list[str]]):
    """The query's parameters; a parameter may stand several times."""

    def text(self, name: str, default: str = "") -> str:
        """The first value. A parameter that is absent is ``default``."""
        values = self.get(name)
        return values[0] if values else default

    def flag(self, name: str) -> bool:
        """``?watch``, ``?watch=1`` and ``?watch=true`` are true. Raises BadRequest."""
        values = self.get(name)
        if not values:
            return False
        if values[0] in _TRUE:
            return True
        if values[0] in _FALSE:
            return False
        raise BadRequest(f'query parameter {name}: "{values[0]}" is neither true nor false')

    def maybe_flag(self, name: str) -> bool | None:
        return self.flag(name) if name in self else None

    def number(self, name: str, *, maximum: int = 2**63 - 1) -> int | None:
        """A whole number from 0 to ``maximum``; None when absent or empty. Raises BadRequest."""
        text = self.text(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= maximum):
            raise BadRequest(f'query parameter {name}: "{text[:40]}" is not a whole number')
        return int(text)


def parse_query(text: str) -> Query:
    """``a=1&b=2`` → Query. Raises BadRequest when there are too many parameters."""
    query = Query()
    if text:
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            raise BadRequest(f"more than {MAX_PARAMETERS} query parameters") from None
        for name, value in pairs:
            query.setdefault(name, []).append(value)
    return query


@dataclass(slots=True)
class Target:
    """What a request asks for.

    ``verb`` is one of get, list, watch, create, update, patch, delete, deletecollection, and
    ``connect`` for streams (log, exec, proxy). A path that names no object has ``kind`` None and
    ``verb`` "". ``path`` is the decoded path, ``rest`` what follows a proxied name, undecoded.
    """

    method: str
    path: str
    query: Query
    kind: Kind[Any] | None = None
    version: str = "v1"
    verb: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    raw_query: str = ""

    @property
    def of(self) -> Kind[Any]:
        """The kind of a target that has one."""
        assert self.kind is not None
        return self.kind

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


_VERBS: Mapping[str, tuple[str, str]] = {
    # method: verb on a collection, verb on a name
    "GET": ("list", "get"),
    "HEAD": ("list", "get"),
    "POST": ("create", "create"),
    "PUT": ("", "update"),
    "PATCH": ("", "patch"),
    "DELETE": ("deletecollection", "delete"),
}

#: Subresources that carry a stream or somebody else's HTTP.
CONNECT = frozenset(("log", "exec", "attach", "portforward", "proxy"))


@dataclass(frozen=True, slots=True)
class ProxyName:
    """``[scheme:]name[:port]`` as proxied objects are named; ``port`` is a number or a name."""

    name: str
    port: str = ""
    scheme: str = ""


def parse_proxy_name(text: str) -> ProxyName:
    """``web``, ``web:80``, ``https:web:443``, ``https:web:``. Raises BadRequest."""
    parts = text.split(":")
    match parts:
        case [name] if name:
            return ProxyName(name)
        case [name, port] if name:
            return ProxyName(name, port)
        case [("http" | "https") as scheme, name, port] if name:
            return ProxyName(name, port, scheme)
    raise BadRequest(f'"{text}" is not of the form [http:|https:]name[:port]')


@dataclass(slots=True)
class PathParser:
    """Request lines → targets, for one scheme."""

    scheme: Scheme
    _resources: dict[tuple[str, str, str], Kind[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._resources = {}
        for kind in self.scheme:
            versions = CORE_VERSIONS if not kind.group else (kind.version,)
            for version in versions:
                self._resources[kind.group, version, kind.plural] = kind
            if not kind.group:
                for alias in kind.aliases:  # v0.17 answered to /minions
                    self._resources["", "v1beta3", alias] = kind

    def parse(self, method: str, url: str) -> Target:
        """``url`` is the request target as it stands on the request line.

        Raises NotFound for a resource that is not served, BadRequest for a malformed target.
        """
        if not url.isascii():
            _require_text(url)
        if not url.startswith("/"):
            url = _origin_form(url)
        raw_path, _, raw_query = url.partition("?")
        target = Target(method, _decoded(raw_path), parse_query(raw_query), raw_query=raw_query)
        if raw_path.startswith("/api/"):
            self._object(target, raw_path, raw_path[5:].split("/"), "")
        elif raw_path.startswith("/apis/"):
            group, _, rest = raw_path[6:].partition("/")
            if rest:
                self._object(target, raw_path, rest.split("/"), unquote(group))
        return target

    def _object(self, target: Target, raw_path: str, parts: list[str], group: str) -> None:
        """Fill ``target`` from the parts behind the group: version, prefixes, resource, name…"""
        while parts and not parts[-1]:
            parts.pop()
        if len(parts) < 2:
            return  # discovery of the group or version
        version = parts[0]
        prefix = parts[1] if parts[1] in ("watch", "proxy") else ""
        at = 2 if prefix else 1
        kind, at, namespace = self._resource(parts, at, group, version, target.path)
        names = parts[at : at + 2]
        target.kind, target.version, target.namespace = kind, version, namespace
        target.name = _decoded(names[0]) if names else ""
        if prefix == "proxy":
            target.subresource, consumed = "proxy", at + 1
        else:
            target.subresource, consumed = (_decoded(names[1]) if names[1:] else ""), at + 2
        if len(parts) > consumed or (target.subresource == "proxy"):
            target.rest = _behind(raw_path, parts, consumed, group)
            if target.subresource != "proxy" and target.rest.strip("/"):
                raise _no_path(target.path)
        self._verb(target, prefix)

    def _resource(
        self, parts: list[str], at: int, group: str, version: str, path: str
    ) -> tuple[Kind[Any], int, str]:
        """The kind, the index of the name, and the namespace."""
        word = parts[at] if at < len(parts) else ""
        if word == "namespaces" and len(parts) > at + 2:
            inner = self._resources.get((group, version, parts[at + 2]))
            if inner is not None and inner.namespaced:
                namespace = _decoded(parts[at + 1])
                if not namespace:
                    raise BadRequest(f"{path}: the namespace is empty")
                return inner, at + 3, namespace
        kind = self._resources.get((group, version, word))
        if kind is None:
            raise _no_path(path)
        below = parts[at + 2] if kind.plural == "namespaces" and len(parts) > at + 2 else ""
        if below and below not in kind.subresources:
            raise _no_path(path)
        return kind, at + 1, ""

    def _verb(self, target: Target, prefix: str) -> None:
        query, kind = target.query, target.of
        if target.subresource in CONNECT:
            target.verb = "connect"
        else:
            verbs = _VERBS.get(target.method, ("", ""))
            target.verb = verbs[1] if target.name else verbs[0]
        if target.name and kind.namespaced and not target.namespace:
            raise BadRequest(
                f"{target.path}: {kind.plural} live in namespaces: "
                f"/api/{target.version}/namespaces/<namespace>/{kind.plural}/{target.name}"
            )
        if target.method != "GET":
            return
        if prefix == "watch" or (query.get("watch") and query.flag("watch")):
            if target.name and target.subresource:
                return
            if target.name:  # watching one object is watching its collection, by name
                fields = query.text("fieldSelector")
                own = f"metadata.name={target.name}"
                query["fieldSelector"] = [f"{fields},{own}" if fields else own]
                target.name = ""
            target.verb = "watch"


def _no_path(path: str) -> NotFound:
    return NotFound(f"the server could not find the requested resource {path[:200]}")


def _decoded(text: str) -> str:
    """Percent-decoding. Raises BadRequest for bytes that are no text."""
    if "%" not in text:
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest(f"path {text[:200]} is not UTF-8") from None


def _require_text(url: str) -> None:
    """Bytes that are no UTF-8 reach us as lone surrogates. Raises BadRequest."""
    try:
        url.encode()
    except UnicodeEncodeError:
        raise BadRequest("the request target is not UTF-8") from None


def _origin_form(url: str) -> str:
    """``http://host/path`` → ``/path``; anything else that has no slash in front is refused."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https"):
        raise BadRequest(f'request target "{url[:200]}" does not begin with /')
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"


def _behind(raw_path: str, parts: list[str], consumed: int, group: str) -> str:
    """What stands in ``raw_path`` behind the first ``consumed`` parts, with its slash."""
    head = 2 if not group else 3  # "", "api" | "", "apis", group
    pieces = raw_path.split("/", head + consumed)
    return "/" + pieces[head + consumed] if len(pieces) > head + consumed else ""
