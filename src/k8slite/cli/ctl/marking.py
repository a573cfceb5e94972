"""``label``, ``annotate``, ``cordon``, ``uncordon``: small marks on objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from k8slite.api import printing, words
from k8slite.api.errors import ApiError, BadRequest, Conflict
from k8slite.api.kinds import NODE
from k8slite.api.scheme import Kind
from k8slite.cli.ctl import completion
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.flags import All, Filename, Output, Overwrite, Recursive, Selector
from k8slite.cli.ctl.flags import Resources as Words
from k8slite.cli.ctl.output import show
from k8slite.cli.ctl.reading import Question, find, named, wants_of
from k8slite.cli.ctl.writing import send

Raw = dict[str, Any]

Version = Annotated[
    str, typer.Option("--resource-version", help="Only if the object is at this version.")
]


async def label(
    call: Call,
    resources: Words = None,
    filename: Filename = None,
    recursive: Recursive = False,
    selector: Selector = "",
    all: All = False,
    overwrite: Overwrite = False,
    resource_version: Version = "",
    output: Output = "",
) -> None:
    """Set or remove labels: label pods nginx tier=front old-."""
    form = printing.parse_format(output)
    names, marks = _divided(resources or ())
    targets = await _targets(call, filename or (), names, selector, all=all, recursive=recursive)
    await _mark(call, "labels", targets, marks, overwrite, resource_version, form)


async def annotate(
    call: Call,
    resources: Words = None,
    filename: Filename = None,
    recursive: Recursive = False,
    selector: Selector = "",
    all: All = False,
    overwrite: Overwrite = False,
    resource_version: Version = "",
    output: Output = "",
) -> None:
    """Set or remove annotations: annotate pods nginx why='a trial' old-."""
    form = printing.parse_format(output)
    names, marks = _divided(resources or ())
    targets = await _targets(call, filename or (), names, selector, all=all, recursive=recursive)
    await _mark(call, "annotations", targets, marks, overwrite, resource_version, form)


def _divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of objects, then what is to be set."""
    cut = next((i for i, word in enumerate(arguments) if words.is_assignment(word)), len(arguments))
    if cut == len(arguments):
        raise BadRequest("say what to set or remove: key=value, or key-")
    return list(arguments[:cut]), list(arguments[cut:])


async def _targets(
    call: Call,
    files: Sequence[str],
    names: Sequence[str],
    selector: str,
    *,
    all: bool,
    recursive: bool,
) -> list[tuple[Kind[Any], Raw]]:
    wants = wants_of(files, names, recursive=recursive)
    if not (selector or all or _all_named(wants)):
        raise BadRequest("name the objects, or select them with -l, or say --all")
    found = await find(call, wants, Question(labels=selector))
    return [(group.kind, raw) for group in found for raw in group.raw]


def _all_named(wants: Sequence[words.Wanted]) -> bool:
    return all(want.name for want in wants)


async def _mark(
    call: Call,
    field: str,
    targets: Sequence[tuple[Kind[Any], Raw]],
    marks: Sequence[str],
    overwrite: bool,
    version: str,
    form: printing.Format,
) -> None:
    """Write ``marks`` into metadata.``field`` of every object."""
    values, removed = words.assignments(marks, field.removesuffix("s"))
    for kind, raw in targets:
        try:
            after = await _write(call, field, kind, raw, values, removed, overwrite, version)
        except ApiError as error:
            call.fail(error, f"{kind.plural}/{raw['metadata']['name']}")
        else:
            done = {"labels": "labeled", "annotations": "annotated"}[field]
            success = f"{kind.plural}/{raw['metadata']['name']} {done}"
            show(call, form, kind, after, success=success)


async def _write(
    call: Call,
    field: str,
    kind: Kind[Any],
    raw: Raw,
    values: dict[str, str],
    removed: list[str],
    overwrite: bool,
    version: str,
) -> Raw:
    from k8slite.client.http import MERGE_PATCH

    name, namespace = raw["metadata"]["name"], raw["metadata"].get("namespace", "")
    for attempt in range(5):
        there = raw["metadata"].get(field) or {}
        kept = sorted(key for key in values if there.get(key, values[key]) != values[key])
        if kept and not overwrite:
            told = ", ".join(f"{key}={there[key]}" for key in kept)
            raise BadRequest(f"{told} is there already; change it with --overwrite")
        changes: dict[str, str | None] = {**values, **dict.fromkeys(removed)}
        at = version or raw["metadata"]["resourceVersion"]
        body = {"metadata": {field: changes, "resourceVersion": at}}
        try:
            return await send(call, "PATCH", kind, namespace, name, body, content_type=MERGE_PATCH)
        except Conflict:
            # Somebody else wrote meanwhile: what he wrote may be what must not be overwritten.
            if version or attempt == 4:
                raise
            raw = await named(call, kind, name, namespace)
    raise AssertionError("unreachable")


Nodes = Annotated[
    list[str],
    typer.Argument(metavar="NODE…", show_default=False, autocompletion=completion.nodes),
]


async def cordon(call: Call, nodes: Nodes) -> None:
    """Let no further pods be put on nodes."""
    await _schedulable(call, nodes, False)


async def uncordon(call: Call, nodes: Nodes) -> None:
    """Let pods be put on nodes again."""
    await _schedulable(call, nodes, True)


async def _schedulable(call: Call, nodes: Sequence[str], schedulable: bool) -> None:
    from k8slite.client.http import MERGE_PATCH

    body = {"spec": {"unschedulable": None if schedulable else True}}
    for word in nodes:
        name = word.rpartition("/")[2]
        try:
            await send(call, "PATCH", NODE, "", name, body, content_type=MERGE_PATCH)
        except ApiError as error:
            call.fail(error)
        else:
            call.say(f"{NODE.plural}/{name} {'un' if schedulable else ''}cordoned")
