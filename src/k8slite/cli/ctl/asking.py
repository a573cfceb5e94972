"""Asking every node of the cluster the same, through the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TypeVar

from k8slite.api.errors import ApiError, Unavailable
from k8slite.api.kinds import NODE
from k8slite.cli.ctl.call import Call

T = TypeVar("T")

#: Seconds between two looks at what only grows, and that a node may take to answer.
INTERVAL = 1.0
PATIENCE = 5.0

_AT_ONCE = 32  # nodes that are asked at the same time


async def asked(
    call: Call,
    nodes: Iterable[str],
    path: str,
    shape: type[T],
    query: Sequence[tuple[str, str]] = (),
) -> dict[str, T]:
    """What the node API answers to ``path``, by node. Nodes that do not answer are told, and are
    not among them."""
    turns = asyncio.Semaphore(_AT_ONCE)
    found: dict[str, T] = {}

    async def ask(node: str) -> None:
        async with turns:
            try:
                found[node] = await _answer(call, node, path, shape, query)
            except ApiError as error:
                call.fail(Unavailable(f"node {node} says nothing: {error.message}"))

    await asyncio.gather(*(ask(node) for node in nodes))
    return found


async def _answer(
    call: Call, node: str, path: str, shape: type[T], query: Sequence[tuple[str, str]]
) -> T:
    from k8slite.client.http import decoded, path_of

    try:
        async with asyncio.timeout(PATIENCE):
            answer = await call.client.request(
                "GET", path_of(NODE, "", node, f"proxy/{path}"), query=query
            )
    except TimeoutError:
        raise Unavailable(f"no answer within {PATIENCE:g} s") from None
    return decoded(answer.body, shape)
