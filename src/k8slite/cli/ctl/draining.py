"""``drain``: a node is cordoned and its pods leave, those that may."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from k8slite.api import codec
from k8slite.api.errors import ApiError, BadRequest, NotFound, TooManyRequests
from k8slite.api.kinds import NODE, POD
from k8slite.api.kinds.pod.eviction import Eviction
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.meta import DeleteOptions, ObjectMeta, Preconditions
from k8slite.cli.ctl import waiting
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.flags import Timeout
from k8slite.cli.ctl.marking import Nodes, cordon
from k8slite.cli.ctl.reading import named
from k8slite.decide.draining import Leave, departure

#: Seconds until an eviction is asked for again that a disruption budget forbade.
_AGAIN = 5.0


async def drain(
    call: Call,
    nodes: Nodes,
    force: Annotated[
        bool, typer.Option("--force", help="Also pods that nobody would make again.")
    ] = False,
    ignore_daemonsets: Annotated[
        bool, typer.Option("--ignore-daemonsets", help="Leave the pods of DaemonSets.")
    ] = False,
    delete_emptydir_data: Annotated[
        bool,
        typer.Option("--delete-emptydir-data", help="Also pods that lose data in an emptyDir."),
    ] = False,
    pod_selector: Annotated[
        str, typer.Option("--pod-selector", help="Only pods with these labels, as tier=front.")
    ] = "",
    grace_period: Annotated[
        int, typer.Option("--grace-period", help="Seconds a pod gets to end; -1: its own.")
    ] = -1,
    timeout: Timeout = 0,
) -> None:
    """Empty nodes for maintenance: no further pods, and those that are there leave."""
    leave = Leave(force, ignore_daemonsets, delete_emptydir_data)
    for word in nodes:
        name = word.rpartition("/")[2]
        try:
            await named(call, NODE, name, "")
            await cordon(call, [name])
            listing = await call.client.list(
                POD, labels=pod_selector, fields=f"spec.nodeName={name}"
            )
            await _empty(call, listing.items, leave, grace_period, timeout)
        except ApiError as error:
            call.fail(error, f"{NODE.plural}/{name}")
        else:
            call.say(f"{NODE.plural}/{name} drained")


async def _empty(call: Call, pods: Iterable[Pod], leave: Leave, grace: int, timeout: float) -> None:
    """Evict what may go, and wait until it is gone. Raises ApiError."""
    plan = departure(pods, leave)
    for line in plan.warnings:
        print(f"Warning: {line}", file=sys.stderr)
    if plan.obstacles:
        raise BadRequest("; ".join(plan.obstacles))
    try:
        async with asyncio.timeout(timeout or None):
            for pod in plan.going:
                await _evict(call, pod, grace)
    except TimeoutError:
        raise waiting.NotYet(f"not after {timeout:g} seconds: pods may not be evicted") from None
    for pod in plan.going:
        meta = pod.metadata
        await waiting.gone(call, POD, meta.namespace, meta.name, meta.uid, seconds=timeout)
        call.say(f"{POD.plural}/{meta.name} evicted")


async def _evict(call: Call, pod: Pod, grace: int) -> None:
    from k8slite.client.http import path_of

    meta = pod.metadata
    eviction = Eviction(
        metadata=ObjectMeta(name=meta.name, namespace=meta.namespace),
        delete_options=DeleteOptions(
            grace_period_seconds=grace if grace >= 0 else None,
            preconditions=Preconditions(uid=meta.uid),
        ),
    )
    path = path_of(POD, meta.namespace, meta.name, "eviction")
    while True:
        try:
            await call.client.request("POST", path, body=codec.encode(eviction))
            return
        except NotFound:
            return  # gone by itself
        except TooManyRequests as error:
            await call.clock.sleep(error.retry_after or _AGAIN)
