"""``get`` and ``describe``: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import typer

from k8slite.api import printing, words
from k8slite.api.describe import Surroundings, describe
from k8slite.api.errors import ApiError, BadRequest, Expired, NotFound, Unavailable, not_found
from k8slite.api.kinds import ENDPOINTS, EVENT, NODE, POD, REPLICATION_CONTROLLER, SCHEME, SERVICE
from k8slite.api.kinds.event.columns import last_seen
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.api.selectors import parse_labels
from k8slite.api.words import Wanted
from k8slite.cli.ctl import documents
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.flags import (
    AllNamespaces,
    FieldSelector,
    Filename,
    Ignored,
    NoHeaders,
    Output,
    Recursive,
    Resources,
    Selector,
)
from k8slite.cli.ctl.output import TablePrinter

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for; the same for every kind that is named."""

    labels: str = ""
    fields: str = ""
    everywhere: bool = False

    @property
    def query(self) -> list[tuple[str, str]]:
        pairs = (("labelSelector", self.labels), ("fieldSelector", self.fields))
        return [(key, value) for key, value in pairs if value]


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of one kind: the documents, and the version of their list."""

    kind: Kind[Any]
    raw: list[Raw]
    version: str = ""
    namespace: str = ""

    def objects(self) -> list[Object]:
        from k8slite.client.http import typed

        objects = [typed(self.kind, msgspec.json.encode(raw)) for raw in self.raw]
        if self.kind is EVENT:
            objects.sort(key=_moment)
        return objects


def _moment(event: Any) -> tuple[str, int]:
    """When an event was last seen; within a second, when it was written."""
    written = event.metadata.resource_version
    return last_seen(event) or "", int(written) if written.isdigit() else 0


async def named(call: Call, kind: Kind[Any], name: str, namespace: str, version: str = "") -> Raw:
    """One object as the server says it. Raises NotFound."""
    from k8slite.client.http import path_of

    answer = await call.client.request("GET", path_of(kind, namespace, name, version=version))
    raw: Raw = answer.json()
    return raw


async def listed(
    call: Call, kind: Kind[Any], namespace: str, query: Sequence[tuple[str, str]], version: str = ""
) -> Found:
    """All objects of a kind. Every item says its kind, as a document on its own does."""
    from k8slite.client.http import path_of

    path = path_of(kind, namespace, version=version)
    raw = (await call.client.request("GET", path, query=query)).json()
    head = {"kind": kind.kind, "apiVersion": raw.get("apiVersion", kind.api_version)}
    items = [{**head, **item} for item in raw.get("items") or ()]
    return Found(kind, items, raw.get("metadata", {}).get("resourceVersion", ""), namespace)


async def find(
    call: Call, wants: Sequence[Wanted], question: Question, *, version: str = ""
) -> list[Found]:
    """Everything that was asked for, in the order of asking, one ``Found`` a kind. An object that
    is not there is told and does not keep the others from being shown."""
    found: dict[str, Found] = {}
    for want in wants:
        kind = want.kind
        namespace = call.namespace_of(kind.namespaced, question.everywhere)
        if not want.name:
            found[kind.plural] = await listed(call, kind, namespace, question.query, version)
            continue
        if question.labels or question.everywhere:
            raise BadRequest(
                f"{kind.singular} {want.name!r}: a name and a selector exclude another"
            )
        known = found.setdefault(kind.plural, Found(kind, [], "", namespace))
        try:
            known.raw.append(await named(call, kind, want.name, namespace, version))
        except NotFound as error:
            call.fail(error)
    return list(found.values())


def wants_of(
    files: Sequence[str], resources: Sequence[str], *, recursive: bool = False
) -> list[Wanted]:
    """Objects by file or by name; not both. Raises BadRequest."""
    if not files:
        return words.wanted(resources, SCHEME)
    if resources:
        raise BadRequest("name objects or give files with -f, not both")
    found = documents.read(files, recursive=recursive)
    for document in found:
        if not document.name:
            raise BadRequest(f"{document.source}: the {document.kind.kind} has no metadata.name")
    return [Wanted(document.kind, document.name) for document in found]


async def get(
    call: Call,
    resources: Resources = None,
    filename: Filename = None,
    recursive: Recursive = False,
    output: Output = "",
    selector: Selector = "",
    field_selector: FieldSelector = "",
    all_namespaces: AllNamespaces = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on and print every change.")
    ] = False,
    watch_only: Annotated[
        bool, typer.Option("--watch-only", help="Print changes alone, nothing that is there.")
    ] = False,
    no_headers: NoHeaders = False,
    show_labels: Annotated[
        bool, typer.Option("--show-labels", help="Labels as the last column.")
    ] = False,
    label_columns: Annotated[
        list[str] | None,
        typer.Option("--label-columns", "-L", help="A column for this label (repeatable)."),
    ] = None,
    sort_by: Annotated[str, typer.Option("--sort-by", help="Field: .metadata.name")] = "",
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="What is not there is no error.")
    ] = False,
    show_all: Ignored = False,
) -> None:
    """Show objects: get pods,rc; get rc nginx -o yaml."""
    form = printing.parse_format(output)
    parse_labels(selector)
    question = Question(selector, field_selector, all_namespaces)
    wants = wants_of(filename or (), resources or (), recursive=recursive)
    following = watch or watch_only
    if following and len(wants) > 1:
        raise BadRequest("--watch follows one object, or all of one type; name fewer")
    version = call.given.api_version if not form.table else ""
    found = await find(call, wants, question, version=version)
    if ignore_not_found:
        call.failed = False
    if sort_by:
        found = [replace(f, raw=printing.sort_documents(f.raw, sort_by)) for f in found]
    if not form.table:
        _print_documents(call, form, wants, found, headed=not no_headers)
        if following:
            await _follow(
                call, wants[0], found[0], question, lambda raw, _: _document(call, form, raw)
            )
        return
    printers = {
        f.kind.plural: TablePrinter(
            call, f.kind, wide=form.name == "wide", headed=not no_headers,
            namespaced=all_namespaces, labelled=show_labels, label_columns=label_columns or (),
        )
        for f in found
        if f.raw or not any(want.name for want in wants if want.kind is f.kind)
    }  # fmt: skip
    for group in found:
        if group.kind.plural in printers and not watch_only:
            printers[group.kind.plural].print(group.objects())
    if following and found and not call.failed:
        printer = printers[found[0].kind.plural]
        await _follow(call, wants[0], found[0], question, lambda _, obj: printer.print([obj]))


def _print_documents(
    call: Call,
    form: printing.Format,
    wants: Sequence[Wanted],
    found: Sequence[Found],
    *,
    headed: bool,
) -> None:
    raw = [document for group in found for document in group.raw]
    single = len(wants) == 1 and bool(wants[0].name)
    if raw or not single:
        call.write(printing.printed(form, raw, SCHEME, single=single, headed=headed))


def _document(call: Call, form: printing.Format, raw: Raw) -> None:
    call.write(printing.printed(form, [raw], SCHEME, single=True, headed=False))


async def _follow(call: Call, want: Wanted, start: Found, question: Question, tell: Any) -> None:
    """Every change after ``start``, for ever. A watch that is too old begins anew, silently."""
    kind = start.kind
    pinned = f"metadata.name={want.name}" if want.name else ""
    question = replace(question, fields=",".join(filter(None, (question.fields, pinned))))
    version = start.version or (await listed(call, kind, start.namespace, question.query)).version
    while True:
        try:
            async for event in call.client.watch(
                kind, start.namespace, labels=question.labels, fields=question.fields,
                resource_version=version,
            ):  # fmt: skip
                version = event.object.metadata.resource_version or version
                if event.type != "BOOKMARK":
                    tell(msgspec.to_builtins(event.object), event.object)
        except Expired:
            version = (await listed(call, kind, start.namespace, question.query)).version
        except Unavailable:
            await call.clock.sleep(1)
            await listed(call, kind, start.namespace, [*question.query, ("limit", "1")])


async def show_description(
    call: Call,
    resources: Resources = None,
    filename: Filename = None,
    recursive: Recursive = False,
    selector: Selector = "",
    all_namespaces: AllNamespaces = False,
) -> None:
    """Tell all about objects, and what happened to them: describe pod nginx."""
    question = Question(labels=selector, everywhere=all_namespaces)
    wants = wants_of(filename or (), resources or (), recursive=recursive)
    pages: list[str] = []
    for want in wants:
        group = await _described(call, want, question)
        for obj in group.objects():
            pages.append(describe(group.kind, obj, await _surroundings(call, group.kind, obj)))
    call.write("\n\n".join(pages))


async def _described(call: Call, want: Wanted, question: Question) -> Found:
    """An object by its name; else those whose names begin so. Raises NotFound."""
    kind = want.kind
    namespace = call.namespace_of(kind.namespaced, question.everywhere)
    if want.name and not question.everywhere:
        try:
            return Found(kind, [await named(call, kind, want.name, namespace)], "", namespace)
        except NotFound:
            pass
    group = await listed(call, kind, namespace, question.query)
    chosen = [raw for raw in group.raw if raw["metadata"]["name"].startswith(want.name)]
    if want.name and not chosen:
        raise not_found(kind.plural, want.name)
    return replace(group, raw=chosen)


async def _surroundings(call: Call, kind: Kind[Any], obj: Object) -> Surroundings:
    """The objects near one, as far as its description tells of them."""
    meta, client = obj.metadata, call.client
    about = f"involvedObject.name={meta.name},involvedObject.kind={kind.kind}"
    events = (await client.list(EVENT, meta.namespace, fields=about)).items
    around = Surroundings(call.clock.now(), tuple(e for e in events if _is_about(e, meta.uid)))
    if kind is POD:
        controllers = (await client.list(REPLICATION_CONTROLLER, meta.namespace)).items
        return replace(around, controllers=controllers)
    if kind is REPLICATION_CONTROLLER:
        return replace(around, pods=(await client.list(POD, meta.namespace)).items)
    if kind is NODE:
        bound = f"spec.nodeName={meta.name}"
        return replace(around, pods=(await client.list(POD, fields=bound)).items)
    if kind is SERVICE:
        try:
            endpoints = await client.get(ENDPOINTS, meta.name, meta.namespace)
        except ApiError:
            return around
        return replace(around, endpoints=endpoints)
    return around


def _is_about(event: Any, uid: str) -> bool:
    """An object of the same name may have lived before; nodes report by name, not uid."""
    said = event.involved_object.uid
    return said in ("", uid) or event.involved_object.kind == "Node"
