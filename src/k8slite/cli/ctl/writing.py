"""``create``, ``replace`` and ``apply``: files become objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from k8slite.api import apply as applying
from k8slite.api import printing, words
from k8slite.api.errors import ApiError, BadRequest, Conflict, NotFound
from k8slite.api.kinds import REPLICATION_CONTROLLER, SCHEME
from k8slite.api.meta import DeleteOptions
from k8slite.api.scheme import Kind
from k8slite.api.words import Wanted
from k8slite.cli.ctl import documents, waiting
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.documents import Document
from k8slite.cli.ctl.flags import (
    DryRun,
    Filename,
    Output,
    Recursive,
    Resources,
)
from k8slite.cli.ctl.output import show
from k8slite.cli.ctl.reading import named

Raw = dict[str, Any]


def writing_query(call: Call, dry_run: str) -> list[tuple[str, str]]:
    """``dryRun`` and ``fieldValidation`` as the flags want them. Raises BadRequest."""
    if dry_run not in ("", "none", "client", "server", "true", "false"):
        raise BadRequest(f"--dry-run={dry_run}: write client or server")
    query = [("dryRun", "All")] if dry_run == "server" else []
    if call.given.validate.lower() in ("true", "strict"):
        query.append(("fieldValidation", "Strict"))
    return query


def only_shown(dry_run: str) -> bool:
    return dry_run in ("client", "true")


async def send(
    call: Call,
    method: str,
    kind: Kind[Any],
    namespace: str,
    name: str,
    body: Any,
    *,
    query: Sequence[tuple[str, str]] = (),
    content_type: str = "application/json",
    version: str = "",
    subresource: str = "",
) -> Raw:
    """One write; the server's warnings are passed on. Raises ApiError."""
    from k8slite.client.http import path_of

    answer = await call.client.request(
        method,
        path_of(kind, namespace, name, subresource, version=version),
        query=query,
        body=msgspec.json.encode(body),
        content_type=content_type,
    )
    call.warn(answer)
    raw: Raw = answer.json()
    return raw


async def _each(call: Call, found: Sequence[Document], act: Any) -> None:
    """Do something with every document; what fails is told and does not stop the others."""
    for document in found:
        try:
            await act(document)
        except ApiError as error:
            call.fail(error, document.source)


def _required(filename: list[str] | None, recursive: bool, verb: str) -> list[Document]:
    if not filename:
        raise BadRequest(f"{verb}: name a file: -f FILE (- for standard input)")
    return documents.read(filename, recursive=recursive)


async def create(
    call: Call,
    filename: Filename = None,
    recursive: Recursive = False,
    output: Output = "",
    dry_run: DryRun = "",
) -> None:
    """Create the objects of files: create -f nginx_rc.yaml."""
    form = printing.parse_format(output)
    query = writing_query(call, dry_run)

    async def act(document: Document) -> None:
        kind, raw = document.kind, document.raw
        namespace = document.namespace(call.namespace, call.given.wanted.namespace)
        if not only_shown(dry_run):
            raw = await send(
                call, "POST", kind, namespace, "", raw, query=query, version=document.version
            )
        show(call, form, kind, raw, success=f"{kind.plural}/{raw['metadata'].get('name', '')}")

    await _each(call, _required(filename, recursive, "create"), act)


async def replace(
    call: Call,
    resources: Resources = None,
    filename: Filename = None,
    recursive: Recursive = False,
    patch: Annotated[
        str, typer.Option("--patch", help="JSON to merge into the object that is named.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Delete the object first, then create it.")
    ] = False,
    output: Output = "",
    dry_run: DryRun = "",
) -> None:
    """Replace objects by those of files: replace -f nginx_rc.yaml."""
    form = printing.parse_format(output)
    query = writing_query(call, dry_run)
    if patch:
        await _patch(call, words.one(resources or (), SCHEME), patch, form, query)
        return

    async def act(document: Document) -> None:
        kind, raw = document.kind, document.raw
        namespace = document.namespace(call.namespace, call.given.wanted.namespace)
        if not document.name:
            raise BadRequest(f"the {kind.kind} has no metadata.name")
        if force and not only_shown(dry_run):
            options = DeleteOptions(grace_period_seconds=0, propagation_policy="Background")
            await remove(call, kind, document.name, namespace, options, missing_ok=True)
        if not only_shown(dry_run):
            method, name = ("POST", "") if force else ("PUT", document.name)
            raw = await send(
                call, method, kind, namespace, name, raw, query=query, version=document.version
            )
        show(call, form, kind, raw, success=f"{kind.plural}/{document.name}")

    await _each(call, _required(filename, recursive, "replace"), act)


async def _patch(
    call: Call, want: Wanted, text: str, form: printing.Format, query: list[tuple[str, str]]
) -> None:
    from k8slite.client.http import STRATEGIC_PATCH

    kind = want.kind
    try:
        body = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadRequest(f"--patch: no JSON: {error}") from None
    namespace = call.namespace_of(kind.namespaced)
    raw = await send(
        call, "PATCH", kind, namespace, want.name, body, query=query, content_type=STRATEGIC_PATCH
    )
    show(call, form, kind, raw, success=f"{kind.plural}/{want.name}")


async def apply(
    call: Call,
    filename: Filename = None,
    recursive: Recursive = False,
    output: Output = "",
    dry_run: DryRun = "",
) -> None:
    """Make objects what files say, and leave the rest of them alone: apply -f folder/."""
    form = printing.parse_format(output)
    query = writing_query(call, dry_run)

    async def act(document: Document) -> None:
        kind = document.kind
        namespace = document.namespace(call.namespace, call.given.wanted.namespace)
        if not document.name:
            raise BadRequest(f"the {kind.kind} has no metadata.name")
        wanted = document.modern()
        if namespace:
            wanted = {**wanted, "metadata": {**wanted["metadata"], "namespace": namespace}}
        shown = only_shown(dry_run)
        raw, outcome = await _apply(call, kind, namespace, wanted, query, shown=shown)
        show(call, form, kind, raw, success=f"{kind.plural}/{document.name} {outcome}")

    await _each(call, _required(filename, recursive, "apply"), act)


async def _apply(
    call: Call,
    kind: Kind[Any],
    namespace: str,
    wanted: Raw,
    query: list[tuple[str, str]],
    *,
    shown: bool,
) -> tuple[Raw, str]:
    """The object as it is afterwards, and what was done: created, configured or unchanged."""
    from k8slite.client.http import STRATEGIC_PATCH

    name, body = wanted["metadata"]["name"], applying.annotated(wanted)
    for attempt in range(5):
        try:
            current = await named(call, kind, name, namespace)
        except NotFound:
            if shown:
                return body, "created"
            return await send(call, "POST", kind, namespace, "", body, query=query), "created"
        patch = applying.three_way(body, current, kind.merge_keys)
        if not patch:
            return current, "unchanged"
        if shown:
            return current, "configured"
        # The comparison holds for the object that was read, and for no other.
        patch.setdefault("metadata", {})["resourceVersion"] = current["metadata"]["resourceVersion"]
        try:
            raw = await send(
                call, "PATCH", kind, namespace, name, patch, query=query,
                content_type=STRATEGIC_PATCH,
            )  # fmt: skip
        except Conflict:
            if attempt == 4:
                raise
        else:
            # A patch of what the server does not know, or knows by another spelling, is none.
            same = raw["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"]
            return raw, "unchanged" if same else "configured"
    raise AssertionError("unreachable")


async def remove(
    call: Call,
    kind: Kind[Any],
    name: str,
    namespace: str,
    options: DeleteOptions,
    *,
    missing_ok: bool = False,
    seconds: float = 0,
    wait: bool = True,
) -> None:
    """Delete one object and wait until it is no more."""
    try:
        uid = (await named(call, kind, name, namespace))["metadata"].get("uid", "")
        await send(call, "DELETE", kind, namespace, name, msgspec.to_builtins(options))
        if wait:
            await waiting.gone(call, kind, namespace, name, uid, seconds=seconds)
    except NotFound:
        if not missing_ok:
            raise


async def resize(call: Call, name: str, namespace: str, replicas: int, *, version: str = "") -> Raw:
    """Set a controller's replicas; at ``version`` alone, if it is given. Raises Conflict."""
    from k8slite.client.http import MERGE_PATCH

    body: Raw = {"spec": {"replicas": replicas}}
    if version:
        body["metadata"] = {"resourceVersion": version}
    return await send(
        call, "PATCH", REPLICATION_CONTROLLER, namespace, name, body, content_type=MERGE_PATCH
    )
