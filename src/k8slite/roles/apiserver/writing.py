"""Writes: bodies decoded at the door, decided by the registry, answered with what was stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_request import BaseRequest

from k8slite.api import codec, fields, patch, v1beta3
from k8slite.api.errors import (
    BadRequest,
    MethodNotAllowed,
    TooLarge,
    UnsupportedMediaType,
    not_found,
)
from k8slite.api.kinds import BINDING, POD
from k8slite.api.kinds.binding.types import Binding
from k8slite.api.kinds.pod.eviction import Eviction
from k8slite.api.kinds.replicationcontroller.types import Scale
from k8slite.api.meta import DeleteOptions, ListMeta, Object, Status, StatusDetails
from k8slite.api.paths import Target
from k8slite.api.user import User
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver import forms
from k8slite.roles.apiserver.answers import Ready, of_object, of_status, warning_header
from k8slite.roles.apiserver.forms import Form, Page
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.selection import Selection
from k8slite.store.cache import WatchCache

#: The largest body that is read, in bytes (kube-apiserver's limit).
MAX_BODY = 3 * 1024 * 1024

#: Seconds that a client may take to send a body.
BODY_PATIENCE = 60.0

#: Bodies beyond this are read on a thread: libyaml takes a second for a few megabytes, and JSON
#: whose keys must be counted a third of one.
_LONG = 1 << 15

#: Warnings that one answer carries at most.
_MAX_WARNINGS = 32

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

Headers = tuple[tuple[str, str], ...]


async def read_body(request: BaseRequest) -> bytes:
    """The whole body. Raises TooLarge, UnsupportedMediaType, BadRequest."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"the body is encoded as {encoding[:40]}; send it as it is")
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(BODY_PATIENCE):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"the body is larger than {MAX_BODY} bytes") from None
    except TimeoutError:
        raise BadRequest(f"the body did not arrive within {BODY_PATIENCE:.0f} s") from None
    except (web.PayloadAccessError, HttpProcessingError, ValueError):
        raise BadRequest("the body breaks the rules of HTTP") from None


@dataclass(slots=True)
class WriteOptions:
    """What the query of a write asks for."""

    dry_run: bool
    validation: str

    @classmethod
    def of(cls, target: Target) -> WriteOptions:
        """Raises BadRequest."""
        validation = target.query.text("fieldValidation") or "Warn"
        if validation not in ("Strict", "Warn", "Ignore"):
            raise BadRequest(
                f'fieldValidation: "{validation[:40]}" is none of Strict, Warn, Ignore'
            )
        return cls(parse_dry_run(target.query.get("dryRun") or []), validation)

    def headers(self, warnings: list[str]) -> Headers:
        if self.validation == "Ignore":
            return ()
        return tuple(warning_header(text) for text in warnings[:_MAX_WARNINGS])


def parse_dry_run(values: list[str] | tuple[str, ...]) -> bool:
    """Raises BadRequest for anything but All."""
    for value in values:
        if value not in ("", "All"):
            raise BadRequest(f'dryRun: "{value[:40]}" is not All')
    return "All" in values


@dataclass(slots=True)
class Call:
    """One write on its way."""

    target: Target
    form: Form
    user: User
    content_type: str
    body: bytes
    options: WriteOptions = field(init=False)

    def __post_init__(self) -> None:
        self.options = WriteOptions.of(self.target)

    @property
    def strict(self) -> bool:
        return self.options.validation == "Strict"

    @property
    def api_version(self) -> str:
        """The version of the door, as documents write it."""
        kind = self.target.of
        return self.target.version if not kind.group else kind.api_version

    async def decode(self, kind: Any) -> codec.Decoded[Any]:
        def run() -> codec.Decoded[Any]:
            return codec.decode_document(
                self.body, self.content_type, kind=kind,
                api_version=self.api_version, strict=self.strict,
            )  # fmt: skip

        if len(self.body) > _LONG:
            return await asyncio.to_thread(run)
        return run()


class Writes:
    """POST, PUT, PATCH and DELETE. Errors are those of ``api.errors``."""

    def __init__(self, registry: Registry, cache: WatchCache, clock: Clock) -> None:
        self._registry = registry
        self._cache = cache
        self._clock = clock

    def _answer(self, entry: Any, call: Call, status: int = 200, headers: Headers = ()) -> Ready:
        data = forms.one(entry, call.form, self._clock.now())
        return Ready(data, status=status, headers=headers)

    async def create(self, call: Call) -> Ready:
        target = call.target
        if target.of is BINDING or target.subresource == "binding":
            return await self._bind(call)
        if target.subresource == "eviction":
            return await self._evict(call)
        if target.name:
            raise MethodNotAllowed(
                f"POST goes to the collection of {target.of.plural}, PUT to {target.name}"
            )
        decoded = await call.decode(target.of)
        entry = await self._registry.create(
            target.of, decoded.object, user=call.user,
            namespace=target.namespace, dry_run=call.options.dry_run,
        )  # fmt: skip
        return self._answer(entry, call, 201, call.options.headers(decoded.warnings))

    async def _bind(self, call: Call) -> Ready:
        target = call.target
        decoded = await call.decode(BINDING)
        binding: Binding = decoded.object
        name = binding.metadata.name
        _require_same_name(target, name)
        if target.name and not name:
            meta = msgspec.structs.replace(binding.metadata, name=target.name)
            binding = msgspec.structs.replace(binding, metadata=meta)
        await self._registry.bind(
            target.namespace, binding, user=call.user, dry_run=call.options.dry_run
        )
        return of_status(Status(status="Success", code=201))

    async def _evict(self, call: Call) -> Ready:
        """A pod leaves its node, as if it were deleted: nothing here can forbid it."""
        target = call.target
        eviction, _ = codec.decode_struct(
            call.body, call.content_type, Eviction, strict=call.strict
        )
        _require_same_name(target, eviction.metadata.name)
        options = checked(eviction.delete_options or DeleteOptions(), call)
        await self._registry.delete(POD, target.namespace, target.name, options, user=call.user)
        return of_status(Status(status="Success", code=201))

    async def update(self, call: Call) -> Ready:
        target = call.target
        if target.subresource == "scale":
            scale, warnings = codec.decode_struct(
                call.body, call.content_type, Scale, strict=call.strict
            )
            return await self._rescale(call, lambda _: scale, warnings)
        decoded = await call.decode(target.of)
        entry = await self._registry.update(
            target.of, decoded.object, user=call.user, subresource=target.subresource,
            namespace=target.namespace, name=target.name, dry_run=call.options.dry_run,
        )  # fmt: skip
        return self._answer(entry, call, 200, call.options.headers(decoded.warnings))

    async def _rescale(
        self, call: Call, change: Callable[[Scale], Scale], warnings: list[str]
    ) -> Ready:
        target = call.target
        scale = await self._registry.rescale(
            target.namespace, target.name, change, user=call.user, dry_run=call.options.dry_run
        )
        return of_object(scale, headers=call.options.headers(warnings))

    async def patch(self, call: Call) -> Ready:
        target = call.target
        apply = _patcher(call)
        warnings: list[str] = []
        if target.subresource == "scale":

            def rescaled(scale: Scale) -> Scale:
                raw = apply(msgspec.json.decode(codec.encode(scale)))
                result, found = codec.decode_struct(codec.encode(raw), "", Scale)
                warnings[:] = found
                return result

            return await self._rescale(call, rescaled, warnings)

        def changed(old: Object) -> Object:
            raw: Any = msgspec.json.decode(codec.encode(old))
            if target.version == v1beta3.VERSION:
                raw = v1beta3.to_v1beta3(raw)
            patched = fields.without_nulls(apply(raw))
            decoded = codec.from_raw(
                patched, kind=target.of, api_version=call.api_version, strict=call.strict
            )
            warnings[:] = decoded.warnings
            new: Object = decoded.object
            if new.metadata.name != old.metadata.name:
                raise BadRequest(f"the patch may not rename {target.name}")
            return new

        entry = await self._registry.modify(
            target.of, target.namespace, target.name, changed, user=call.user,
            subresource=target.subresource, dry_run=call.options.dry_run,
        )  # fmt: skip
        return self._answer(entry, call, 200, call.options.headers(warnings))

    async def delete(self, call: Call) -> Ready:
        target = call.target
        options = delete_options(call)
        before = self._cache.table(target.of).get(target.key)
        if before is None:
            await self._registry.read_barrier()
            before = self._cache.table(target.of).get(target.key)
        if before is None:
            raise not_found(target.of.plural, target.name)
        entry = await self._registry.delete(
            target.of, target.namespace, target.name, options, user=call.user
        )
        if entry is not None:
            return self._answer(entry, call)
        details = StatusDetails(
            name=target.name, kind=target.of.plural, uid=before.object.metadata.uid
        )
        return of_status(Status(status="Success", details=details, code=200))

    async def delete_collection(self, call: Call) -> Ready:
        target = call.target
        selection = Selection.of(target)
        entries = await self._registry.delete_collection(
            target.of, target.namespace, delete_options(call), user=call.user,
            labels=selection.labels, fields=selection.fields,
        )  # fmt: skip
        meta = ListMeta(resource_version=str(self._cache.revision))
        page = Page(target.of, entries, meta)
        return Ready(forms.many(page, call.form, self._clock.now()))


def delete_options(call: Call) -> DeleteOptions:
    """DeleteOptions from the body, or from the query where there is none. Raises BadRequest."""
    query = call.target.query
    if call.body.strip():
        options, _ = codec.decode_struct(call.body, call.content_type, DeleteOptions)
    else:
        options = DeleteOptions(
            grace_period_seconds=query.number("gracePeriodSeconds", maximum=2**31),
            orphan_dependents=query.maybe_flag("orphanDependents"),
            propagation_policy=query.text("propagationPolicy"),
        )
    return checked(options, call)


def checked(options: DeleteOptions, call: Call) -> DeleteOptions:
    """``options`` with the query's dryRun. Raises BadRequest for what cannot be meant."""
    seconds = options.grace_period_seconds
    if seconds is not None and not 0 <= seconds <= 2**31:
        raise BadRequest("gracePeriodSeconds: must not be negative, or above 2147483648")
    if options.propagation_policy not in ("", "Background", "Foreground", "Orphan"):
        raise BadRequest(
            f'propagationPolicy: "{options.propagation_policy[:40]}" is none of Background, '
            "Foreground, Orphan"
        )
    if parse_dry_run(options.dry_run) or call.options.dry_run:
        return msgspec.structs.replace(options, dry_run=("All",))
    return options


def _require_same_name(target: Target, name: str) -> None:
    """Raises BadRequest when body and path name different objects."""
    if target.name and name and name != target.name:
        raise BadRequest(
            f"the name of the object ({name}) does not match the name on the URL ({target.name})"
        )


def _patcher(call: Call) -> Callable[[Any], Any]:
    """The patch of a request as a function on documents. Raises BadRequest, and
    UnsupportedMediaType for a Content-Type that is no patch."""
    media = call.content_type.partition(";")[0].strip().lower()
    if media not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH):
        raise UnsupportedMediaType(
            f'the body of a PATCH was "{media[:80]}": it is one of {JSON_PATCH}, {MERGE_PATCH}, '
            f"{STRATEGIC_PATCH}"
        )
    try:
        change: Any = msgspec.json.decode(call.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the patch is no JSON: {error}") from None
    if media == JSON_PATCH:
        return lambda document: patch.json_patch(document, change)
    if not isinstance(change, dict):
        raise BadRequest("the patch is not an object")
    if media == MERGE_PATCH:
        return lambda document: patch.merge_patch(document, change)
    keys = call.target.of.merge_keys
    return lambda document: patch.strategic_merge(document, change, keys)
