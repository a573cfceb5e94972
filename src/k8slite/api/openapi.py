"""OpenAPI: what the API serves and how its objects look, told from the table of kinds.

``/openapi/v3`` is an index of one document for each group and version. kubectl reads there that
the server checks fields (the ``fieldValidation`` parameter of PATCH), what ``explain`` prints, and
the merge keys of lists. ``/openapi/v2`` says the same in the words of Swagger 2.0: see
``api.swagger``. Documents are plain dicts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from k8slite.api.discovery import CORE_VERSIONS, groups, subresource
from k8slite.api.kinds.pod.eviction import Eviction
from k8slite.api.kinds.replicationcontroller.types import Scale
from k8slite.api.meta import DeleteOptions, Status
from k8slite.api.paths import CONNECT
from k8slite.api.schemas import GROUP_VERSION_KIND, Schemas, reference
from k8slite.api.scheme import Kind, Scheme

Document = dict[str, Any]

_HUB = "v1"  # the core version whose structs are ours; others are described as free objects

JSON = "application/json"
_SENT = (JSON, "application/yaml")
_PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)

#: Structs that only travel: what a subresource or an operation takes, by the name of its kind.
_TRAVELLERS: Mapping[str, tuple[type, str]] = {
    "Scale": (Scale, "autoscaling"),
    "Eviction": (Eviction, "policy"),
    "DeleteOptions": (DeleteOptions, ""),
    "Status": (Status, ""),
}


def _query(name: str, description: str, type_: str = "string") -> Document:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": type_, "uniqueItems": True},
    }


def _in_path(name: str, description: str) -> Document:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "uniqueItems": True},
    }


_DRY_RUN = _query("dryRun", "All: decide, and write nothing.")
_WRITING = (
    _DRY_RUN,
    _query("fieldManager", "Who changes the fields."),
    _query("fieldValidation", "What to do about unknown fields: Ignore, Warn or Strict."),
)
_SELECTING = (
    _query("labelSelector", "Only objects with these labels."),
    _query("fieldSelector", "Only objects with these fields."),
)
_LISTING = (
    *_SELECTING,
    _query("limit", "At most so many objects; the answer says how to go on.", "integer"),
    _query("continue", "Go on where the last answer ended."),
    _query("resourceVersion", "At, or not older than, this version."),
    _query("resourceVersionMatch", "How resourceVersion is meant: Exact or NotOlderThan."),
    _query("watch", "Go on with every change.", "boolean"),
    _query("allowWatchBookmarks", "Say now and then how far a watch has come.", "boolean"),
    _query("timeoutSeconds", "End a watch after so many seconds.", "integer"),
)
_READING = (_query("resourceVersion", "Not older than this version."),)
_DELETING = (
    _DRY_RUN,
    _query("gracePeriodSeconds", "Seconds that containers have to end.", "integer"),
    _query("propagationPolicy", "Orphan, Background or Foreground: what becomes of dependents."),
)


@dataclass(frozen=True, slots=True)
class _Verb:
    """How one verb looks as an operation. ``takes`` and ``gives`` "" stand for the object."""

    method: str
    action: str
    parameters: tuple[Document, ...] = ()
    media: tuple[str, ...] = ()
    takes: str = ""
    gives: str = ""
    code: str = "200"


_COLLECTION = {
    "list": _Verb("get", "list", _LISTING, gives="List"),
    "create": _Verb("post", "post", _WRITING, _SENT, code="201"),
    "deletecollection": _Verb(
        "delete", "deletecollection", (*_SELECTING, *_DELETING), _SENT, "DeleteOptions", "List"
    ),
}
_SINGLE = {
    "get": _Verb("get", "get", _READING),
    "update": _Verb("put", "put", _WRITING, _SENT),
    "patch": _Verb("patch", "patch", _WRITING, _PATCHES, takes="Patch"),
    "delete": _Verb("delete", "delete", _DELETING, _SENT, "DeleteOptions", "Status"),
}
_BELOW = {**_SINGLE, "create": _COLLECTION["create"]}

#: What the operation's name begins with, where that is not the action.
_NAMED = {"post": "create", "put": "replace", "get": "read", "deletecollection": "deleteCollection"}


def group_versions(scheme: Scheme) -> dict[str, tuple[str, str]]:
    """``api/v1`` or ``apis/<group>/<version>`` → (group, version)."""
    found = {f"api/{version}": ("", version) for version in CORE_VERSIONS}
    for group, versions in groups(scheme).items():
        found |= {f"apis/{group}/{version}": (group, version) for version in versions}
    return found


def index(documents: Mapping[str, bytes]) -> Document:
    """``/openapi/v3``: where each document is; the hash lets clients keep it until it changes."""
    paths = {}
    for path, encoded in documents.items():
        digest = hashlib.sha256(encoded).hexdigest()[:32].upper()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def document(scheme: Scheme, group: str, version: str) -> Document:
    """``/openapi/v3/<path>`` of one group and version."""
    schemas = Schemas()
    paths: dict[str, Document] = {}
    for kind in scheme:
        if kind.group == group and (not group or kind.version == version):
            paths |= _Paths(schemas, kind, version).all()
    return {
        "openapi": "3.0.0",
        "info": {"title": "k8slite", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": schemas.found},
    }


class _Paths:
    """Every path of one kind in one version."""

    def __init__(self, schemas: Schemas, kind: Kind[Any], version: str) -> None:
        self._schemas = schemas
        self._kind = kind
        self._identity = {"group": kind.group, "version": version, "kind": kind.kind}
        free = not kind.group and version != _HUB
        self._name = (schemas.of_free_kind if free else schemas.of_kind)(kind, self._identity)
        self._root = f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"
        group = kind.group.partition(".")[0] or "core"
        self._own = f"{group.capitalize()}{version.capitalize()}"
        self._scope = "Namespaced" if kind.namespaced else ""

    def all(self) -> dict[str, Document]:
        """The collection, the single object, what is below it, and the list of all namespaces."""
        kind = self._kind
        inside = (
            f"/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"/{kind.plural}"
        )
        base = f"{self._root}{inside}"
        paths = {
            base: self._item(_COLLECTION, kind.verbs),
            f"{base}/{{name}}": self._item(_SINGLE, kind.verbs, named=True),
        }
        for name in sorted(kind.subresources):
            paths[f"{base}/{{name}}/{name}"] = self._below(name)
        if kind.namespaced and "list" in kind.verbs:
            everywhere = self._operation(_COLLECTION["list"], ending="ForAllNamespaces", scope="")
            paths[f"{self._root}/{kind.plural}"] = {"get": everywhere}
        return {path: item for path, item in paths.items() if len(item) > ("parameters" in item)}

    def _item(
        self, shapes: Mapping[str, _Verb], verbs: tuple[str, ...], *, named: bool = False
    ) -> Document:
        item: Document = {
            shape.method: self._operation(shape) for verb, shape in shapes.items() if verb in verbs
        }
        return self._with_parameters(item, named)

    def _with_parameters(self, item: Document, named: bool) -> Document:
        parameters = []
        if named:
            parameters.append(_in_path("name", f"The name of the {self._kind.kind}."))
        if self._kind.namespaced:
            parameters.append(_in_path("namespace", "The namespace that it lives in."))
        return item | {"parameters": parameters} if parameters else item

    def _below(self, name: str) -> Document:
        """``/status``, ``/scale``, ``/log`` and their like."""
        described = subresource(self._kind, name)
        ending = name.capitalize()
        item: Document = {}
        for verb in described.verbs:
            shape = _BELOW[verb]
            if name in CONNECT:
                item[shape.method] = self._connection(shape, described.kind, ending)
            elif described.kind in _TRAVELLERS:
                identity, schema = self._traveller(described.kind)
                item[shape.method] = self._operation(
                    shape, ending=ending, identity=identity, schema=schema
                )
            else:
                item[shape.method] = self._operation(shape, ending=ending)
        return self._with_parameters(item, named=True)

    def _traveller(self, name: str) -> tuple[Document, str]:
        struct, group = _TRAVELLERS[name]
        schema = self._schemas.of_struct(struct)
        identity = {"group": group, "version": "v1", "kind": name}
        self._schemas.found[schema][GROUP_VERSION_KIND] = [identity]
        return identity, schema

    def _operation_id(self, shape: _Verb, ending: str, scope: str) -> str:
        begin = _NAMED.get(shape.action, shape.action)
        if shape.action == "deletecollection":
            return f"{begin}{self._own}Collection{scope}{self._kind.kind}"
        return f"{begin}{self._own}{scope}{self._kind.kind}{ending}"

    def _operation(
        self,
        shape: _Verb,
        *,
        ending: str = "",
        scope: str | None = None,
        identity: Document | None = None,
        schema: str = "",
    ) -> Document:
        schema = schema or self._name
        made: Document = {
            "operationId": self._operation_id(shape, ending, self._scope_or(scope)),
            "x-kubernetes-action": shape.action,
            GROUP_VERSION_KIND: identity or self._identity,
            "parameters": list(shape.parameters),
            "responses": {
                code: {
                    "description": "OK" if code == "200" else "Created",
                    "content": _content((JSON,), reference(self._given(shape.gives, schema))),
                }
                for code in sorted({"200", shape.code})
            },
        }
        if shape.media:
            needed = shape.takes != "DeleteOptions"
            body = self._taken(shape.takes, schema)
            made["requestBody"] = {"content": _content(shape.media, body), "required": needed}
        return made

    def _scope_or(self, scope: str | None) -> str:
        return self._scope if scope is None else scope

    def _given(self, gives: str, schema: str) -> str:
        if gives in _TRAVELLERS:
            return self._traveller(gives)[1]
        return f"{schema}{gives}"

    def _taken(self, takes: str, schema: str) -> Document:
        if takes in _TRAVELLERS:
            return reference(self._traveller(takes)[1])
        return {"description": "A patch."} if takes else reference(schema)

    def _connection(self, shape: _Verb, kind: str, ending: str) -> Document:
        """A stream, or somebody else's HTTP."""
        method = shape.method.capitalize()
        identity = {**self._identity, "kind": kind or self._kind.kind}
        return {
            "operationId": f"connect{self._own}{method}{self._scope}{self._kind.kind}{ending}",
            "x-kubernetes-action": "get" if ending == "Log" else "connect",
            GROUP_VERSION_KIND: identity,
            "responses": {
                "200": {"description": "OK", "content": _content(("*/*",), {"type": "string"})}
            },
        }


def _content(media: tuple[str, ...], schema: Document) -> Document:
    return {name: {"schema": schema} for name in media}


def operations(paths: Mapping[str, Document]) -> Iterator[tuple[str, str, Document]]:
    """Path, method and operation of everything that ``paths`` serves."""
    for path, item in paths.items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation
