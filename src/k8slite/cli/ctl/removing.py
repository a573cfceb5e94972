"""``delete`` and ``stop``: objects go, and the command waits until they are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from k8slite.api.errors import ApiError, BadRequest, NotFound
from k8slite.api.kinds import POD, REPLICATION_CONTROLLER
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.api.meta import DeleteOptions
from k8slite.api.scheme import Kind
from k8slite.api.selectors import format_labels
from k8slite.api.words import Wanted
from k8slite.cli.ctl import documents, waiting
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.flags import (
    All,
    AllNamespaces,
    Filename,
    Output,
    Recursive,
    Resources,
    Selector,
    Timeout,
)
from k8slite.cli.ctl.reading import Question, find, named, wants_of
from k8slite.cli.ctl.writing import remove, resize, send

_PROPAGATION = {
    "background": "Background", "true": "Background", "foreground": "Foreground",
    "orphan": "Orphan", "false": "Orphan",
}  # fmt: skip


async def _targets(
    call: Call,
    wants: Sequence[Wanted],
    question: Question,
    *,
    everything: bool,
) -> list[tuple[Kind[Any], str, str]]:
    """Kind, name and namespace of all that is meant. Raises BadRequest when that is unclear."""
    if all(want.name for want in wants) and not question.labels and not everything:
        return [(want.kind, want.name, call.namespace_of(want.kind.namespaced)) for want in wants]
    if not question.labels and not everything:
        raise BadRequest("name the objects, or select them with -l, or say --all")
    found = await find(call, [Wanted(want.kind) for want in wants], question)
    return [
        (group.kind, raw["metadata"]["name"], raw["metadata"].get("namespace", ""))
        for group in found
        for raw in group.raw
    ]


def _files_or_names(
    call: Call, files: Sequence[str], resources: Sequence[str], *, recursive: bool
) -> list[tuple[Wanted, str]]:
    """What is named, with the namespace that a file says ("" for none)."""
    if not files:
        return [(want, "") for want in wants_of((), resources)]
    wants_of(files, resources, recursive=recursive)
    found: list[tuple[Wanted, str]] = []
    for document in documents.read(files, recursive=recursive):
        namespace = document.namespace(call.namespace, call.given.wanted.namespace)
        found.append((Wanted(document.kind, document.name), namespace))
    return found


async def delete(
    call: Call,
    resources: Resources = None,
    filename: Filename = None,
    recursive: Recursive = False,
    selector: Selector = "",
    all: All = False,
    all_namespaces: AllNamespaces = False,
    cascade: Annotated[
        str,
        typer.Option(
            "--cascade",
            metavar="[background|foreground|orphan]",
            help="What becomes of the objects that it owns.",
        ),
    ] = "background",
    grace_period: Annotated[
        int, typer.Option("--grace-period", help="Seconds a pod gets to end; -1: its own.")
    ] = -1,
    now: Annotated[bool, typer.Option("--now", help="The same as --grace-period=1.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Do not wait for the node: --grace-period=0.")
    ] = False,
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="What is not there is no error.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is gone.")] = True,
    timeout: Timeout = 0,
    output: Output = "",
) -> None:
    """Delete objects: delete services a b; delete -f nginx_rc.yaml; delete pods -l name=x."""
    if cascade.lower() not in _PROPAGATION:
        raise BadRequest(f"--cascade={cascade}: write background, foreground or orphan")
    grace = 0 if force else 1 if now else grace_period
    options = DeleteOptions(
        grace_period_seconds=grace if grace >= 0 else None,
        propagation_policy=_PROPAGATION[cascade.lower()],
    )
    question = Question(labels=selector, everywhere=all_namespaces)
    stated = _files_or_names(call, filename or (), resources or (), recursive=recursive)
    if filename:
        targets = [(want.kind, want.name, namespace) for want, namespace in stated]
    else:
        wants = [want for want, _ in stated]
        targets = await _targets(call, wants, question, everything=all)
    removed: list[tuple[Kind[Any], str, str, str]] = []
    for kind, name, namespace in targets:
        try:
            uid = (await named(call, kind, name, namespace))["metadata"].get("uid", "")
            await send(call, "DELETE", kind, namespace, name, msgspec.to_builtins(options))
        except NotFound as error:
            if not ignore_not_found:
                call.fail(error)
        except ApiError as error:
            call.fail(error, f"{kind.plural}/{name}")
        else:
            removed.append((kind, name, namespace, uid))
            call.say(f"{kind.singular}/{name}" if output == "name" else f"{kind.plural}/{name}")
    for kind, name, namespace, uid in removed if wait else ():
        await waiting.gone(call, kind, namespace, name, uid, seconds=timeout)


async def stop(
    call: Call,
    resources: Resources = None,
    filename: Filename = None,
    recursive: Recursive = False,
    selector: Selector = "",
    all: All = False,
    timeout: Timeout = 300,
) -> None:
    """Shut objects down in order: an rc gives up its pods, then it goes: stop rc nginx."""
    question = Question(labels=selector)
    stated = _files_or_names(call, filename or (), resources or (), recursive=recursive)
    if filename:
        targets = [(want.kind, want.name, namespace) for want, namespace in stated]
    else:
        targets = await _targets(call, [want for want, _ in stated], question, everything=all)
    for kind, name, namespace in targets:
        try:
            if kind is REPLICATION_CONTROLLER:
                await drain(call, name, namespace, seconds=timeout)
            options = DeleteOptions(propagation_policy="Background")
            await remove(call, kind, name, namespace, options, seconds=timeout)
        except ApiError as error:
            call.fail(error, f"{kind.plural}/{name}")
        else:
            call.say(f"{kind.plural}/{name}")


async def drain(call: Call, name: str, namespace: str, *, seconds: float) -> None:
    """Scale a controller to nothing and wait until its pods are gone, to the last container."""
    raw = await resize(call, name, namespace, 0)
    uid, selector = raw["metadata"]["uid"], format_labels(raw["spec"].get("selector"))

    def done(rc: ReplicationController | None) -> bool:
        return rc is None or (seen(rc) and rc.status.replicas == 0)

    def tell(rc: ReplicationController | None) -> str:
        left = rc.status.replicas if rc else 0
        return f"{name}: {left} pods left"

    def owned(pod: Pod) -> bool:
        return any(owner.uid == uid for owner in pod.metadata.owner_references)

    kind = REPLICATION_CONTROLLER
    await waiting.until(call, kind, namespace, name, done, tell, seconds=seconds)
    await waiting.none_left(call, POD, namespace, selector, owned, seconds=seconds)


def seen(rc: ReplicationController) -> bool:
    """Has the controller answered to what is wanted now? (It may not say what it has seen.)"""
    observed = rc.status.observed_generation
    return observed == 0 or observed >= rc.metadata.generation
