"""``run-container``, ``expose``, ``scale``: controllers and services from a few flags."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from k8slite.api import generate, patch, printing, words
from k8slite.api.errors import BadRequest, Conflict
from k8slite.api.kinds import REPLICATION_CONTROLLER, SCHEME, SERVICE
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.api.words import Wanted
from k8slite.cli.ctl import waiting
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.flags import DryRun, Filename, Output, Resources, Selector, Timeout
from k8slite.cli.ctl.output import show_row
from k8slite.cli.ctl.reading import Question, find, named, wants_of
from k8slite.cli.ctl.removing import seen
from k8slite.cli.ctl.writing import only_shown, resize, send, writing_query

Raw = dict[str, Any]

Overrides = Annotated[
    str, typer.Option("--overrides", help="JSON merged into what is made, before it is sent.")
]
Labels = Annotated[str, typer.Option("--labels", "-l", help="Labels: a=b,c=d.")]


def _overridden(document: Raw, overrides: str) -> Raw:
    if not overrides:
        return document
    try:
        merged: Raw = patch.merge_patch(document, msgspec.json.decode(overrides))
    except msgspec.DecodeError as error:
        raise BadRequest(f"--overrides: no JSON: {error}") from None
    return merged


def _result(call: Call, form: printing.Format, kind: Any, raw: Raw) -> None:
    """The object's row with its titles, as the article shows; or what ``-o`` asks for."""
    if form.table:
        show_row(call, kind, raw)
    else:
        call.write(printing.printed(form, [raw], SCHEME, single=True))


async def run_container(
    call: Call,
    name: Annotated[str, typer.Argument(help="Name of the controller.", show_default=False)],
    command_line: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARG…]", help="Arguments of the container."),
    ] = None,
    image: Annotated[str, typer.Option("--image", help="Image of the container.")] = "",
    replicas: Annotated[int, typer.Option("--replicas", "-r", help="How many pods.")] = 1,
    port: Annotated[
        list[int] | None, typer.Option("--port", help="Port it listens on (repeatable).")
    ] = None,
    hostport: Annotated[
        int, typer.Option("--hostport", help="The host's port for the first --port.")
    ] = 0,
    env: Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE (repeatable).")] = None,
    labels: Labels = "",
    command: Annotated[
        bool, typer.Option("--command", help="What follows -- is the command, not its arguments.")
    ] = False,
    overrides: Overrides = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until every pod is ready.")
    ] = False,
    timeout: Timeout = 0,
    output: Output = "",
    dry_run: DryRun = "",
    generator: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run an image in so many pods: run-container nginx --image=nginx --port=80 --replicas=6."""
    form = printing.parse_format(output)
    document = generate.controller(
        name,
        image,
        replicas=replicas,
        ports=port or (),
        host_port=hostport,
        labels=generate.labels_of(labels),
        environment=env or (),
        command=(command_line or ()) if command else (),
        args=() if command else (command_line or ()),
    )
    document = _overridden(document, overrides)
    kind = REPLICATION_CONTROLLER
    if not only_shown(dry_run):
        query = writing_query(call, dry_run)
        document = await send(call, "POST", kind, call.namespace, "", document, query=query)
        if wait and dry_run != "server":
            await all_ready(call, name, replicas, seconds=timeout)
    _result(call, form, kind, document)


async def all_ready(call: Call, name: str, replicas: int, *, seconds: float) -> None:
    """Until a controller has ``replicas`` ready pods and no others. Raises NotYet."""

    def done(rc: ReplicationController | None) -> bool:
        if rc is None:
            return True
        ready, current = rc.status.ready_replicas, rc.status.replicas
        return seen(rc) and ready == replicas and current == replicas

    def tell(rc: ReplicationController | None) -> str:
        ready = rc.status.ready_replicas if rc else 0
        return f"{name}: {ready} of {replicas} pods ready"

    kind = REPLICATION_CONTROLLER
    await waiting.until(call, kind, call.namespace, name, done, tell, seconds=seconds)


async def expose(
    call: Call,
    resources: Resources = None,
    port: Annotated[
        list[int] | None, typer.Option("--port", help="Port of the service (repeatable).")
    ] = None,
    target_port: Annotated[
        str,
        typer.Option("--target-port", "--container-port", help="Port of the pods, or its name."),
    ] = "",
    protocol: Annotated[str, typer.Option("--protocol", help="TCP or UDP.")] = "TCP",
    service_name: Annotated[
        str, typer.Option("--service-name", "--name", help="Name [default: the object's].")
    ] = "",
    public_ip: Annotated[
        list[str] | None,
        typer.Option("--public-ip", "--external-ip", help="Further address (repeatable)."),
    ] = None,
    portal_ip: Annotated[
        str, typer.Option("--portal-ip", "--cluster-ip", help="Portal IP [default: any].")
    ] = "",
    create_external_load_balancer: Annotated[
        bool, typer.Option("--create-external-load-balancer", hidden=True)
    ] = False,
    type: Annotated[str, typer.Option("--type", help="ClusterIP or LoadBalancer.")] = "",
    session_affinity: Annotated[
        str, typer.Option("--session-affinity", help="None or ClientIP.")
    ] = "",
    selector: Annotated[
        str, typer.Option("--selector", help="Labels of the pods [default: the object's].")
    ] = "",
    labels: Labels = "",
    overrides: Overrides = "",
    output: Output = "",
    dry_run: DryRun = "",
    generator: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Put a service before an rc, a pod or a service: expose rc nginx --port=80."""
    form = printing.parse_format(output)
    want = words.one(resources or (), SCHEME)
    behind = await named(call, want.kind, want.name, call.namespace_of(want.kind.namespaced))
    document = generate.service(
        service_name or want.name,
        generate.labels_of(selector) or generate.selector_of(behind),
        port or generate.ports_of(behind),
        target_port=target_port,
        protocol=protocol,
        labels=generate.labels_of(labels),
        external_ips=public_ip or (),
        type="LoadBalancer" if create_external_load_balancer else type,
        session_affinity=session_affinity,
        portal_ip=portal_ip,
    )
    document = _overridden(document, overrides)
    if not only_shown(dry_run):
        query = writing_query(call, dry_run)
        document = await send(call, "POST", SERVICE, call.namespace, "", document, query=query)
    _result(call, form, SERVICE, document)


async def scale(
    call: Call,
    resources: Resources = None,
    filename: Filename = None,
    selector: Selector = "",
    replicas: Annotated[
        int | None, typer.Option("--replicas", help="How many pods.", show_default=False)
    ] = None,
    current_replicas: Annotated[
        int, typer.Option("--current-replicas", help="Only if it wants so many now.")
    ] = -1,
    resource_version: Annotated[
        str, typer.Option("--resource-version", help="Only if it is at this version.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until every pod is ready.")
    ] = False,
    timeout: Timeout = 0,
) -> None:
    """Change how many pods a controller keeps: scale rc nginx --replicas=3."""
    if replicas is None or replicas < 0:
        said = "" if replicas is None else f"--replicas={replicas}: "
        raise BadRequest(f"{said}say how many: --replicas=N, 0 or more")
    for want in await _controllers(call, filename or [], resources or [], selector):
        version = resource_version
        if current_replicas >= 0:
            raw = await named(call, want.kind, want.name, call.namespace)
            version = _expected(raw, current_replicas, resource_version)
        await resize(call, want.name, call.namespace, replicas, version=version)
        call.say("resized" if call.name == "resize" else f"{want.kind.plural}/{want.name} scaled")
        if wait or timeout:
            await all_ready(call, want.name, replicas, seconds=timeout)


def _expected(raw: Raw, replicas: int, version: str) -> str:
    """The version that has ``replicas``. Raises Conflict."""
    name, found = raw["metadata"]["name"], raw["spec"].get("replicas", 0)
    if found != replicas:
        raise Conflict(f"rc {name!r} wants {found} replicas, not {replicas}; nothing was changed")
    return version or str(raw["metadata"]["resourceVersion"])


async def _controllers(
    call: Call, files: list[str], resources: list[str], selector: str
) -> list[Wanted]:
    wants = wants_of(files, resources)
    for want in wants:
        if want.kind is not REPLICATION_CONTROLLER:
            raise BadRequest(f"{want.kind.plural} have no replicas; name an rc")
    if all(want.name for want in wants):
        return wants
    if not selector:
        raise BadRequest("name the controllers, or select them with -l")
    found = await find(call, wants, Question(labels=selector))
    return [Wanted(group.kind, raw["metadata"]["name"]) for group in found for raw in group.raw]
