"""``logs`` and ``exec``: what containers say, and commands inside them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from k8slite.api import words
from k8slite.api.errors import BadRequest
from k8slite.api.generate import selector_of
from k8slite.api.kinds import POD, SCHEME
from k8slite.api.selectors import format_labels
from k8slite.cli.ctl import completion
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.reading import named

if TYPE_CHECKING:
    from k8slite.client.streams import ExecStream

Pod = Annotated[
    str,
    typer.Argument(
        metavar="POD", show_default=False, help="A pod, or rc/NAME.", autocompletion=completion.pods
    ),
]
ContainerName = Annotated[
    str, typer.Option("--container", "-c", help="Which container, if there are several.")
]


async def _pod(call: Call, word: str) -> str:
    """The pod that is meant: itself, or the first behind an rc or service."""
    if "/" not in word:
        return word
    want = words.one([word], SCHEME)
    if want.kind is POD:
        return want.name
    raw = await named(call, want.kind, want.name, call.namespace)
    found = await call.client.list(POD, call.namespace, labels=format_labels(selector_of(raw)))
    names = sorted(pod.metadata.name for pod in found.items)
    if not names:
        raise BadRequest(f"there is no pod behind {word}")
    return names[0]


async def logs(
    call: Call,
    pod: Pod,
    container_name: Annotated[str, typer.Argument(metavar="[CONTAINER]", show_default=False)] = "",
    container: ContainerName = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it is written.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the container that ran before.")
    ] = False,
    tail: Annotated[int, typer.Option("--tail", help="So many of the last lines; -1: all.")] = -1,
    since: Annotated[str, typer.Option("--since", help="Not older than 30, 30s, 5m, 2h.")] = "",
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="A time before every line.")
    ] = False,
    limit_bytes: Annotated[int, typer.Option("--limit-bytes", help="At most so many.")] = 0,
) -> None:
    """Print what a container writes: logs nginx-abcde -f."""
    from k8slite.client.http import path_of

    query = [("container", container or container_name)] if container or container_name else []
    switches = (("follow", follow), ("previous", previous), ("timestamps", timestamps))
    query += [(name, "true") for name, on in switches if on]
    if tail >= 0:
        query.append(("tailLines", str(tail)))
    if since:
        query.append(("sinceSeconds", str(_seconds(since))))
    if limit_bytes:
        query.append(("limitBytes", str(limit_bytes)))
    path = path_of(POD, call.namespace, await _pod(call, pod), "log")
    async for piece in call.client.pieces(path, query):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def _seconds(text: str) -> int:
    """``90``, ``90s``, ``5m``, ``2h`` → seconds. Raises BadRequest."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1] in units else (text, 1)
    if not number.isdigit():
        raise BadRequest(f"--since={text}: write 30s, 5m or 2h")
    return int(number) * unit


async def execute(
    call: Call,
    command_line: Annotated[
        list[str] | None, typer.Argument(metavar="[POD] -- COMMAND [ARG…]", show_default=False)
    ] = None,
    pod: Annotated[
        str, typer.Option("--pod", "-p", help="The pod, if it is not named first.")
    ] = "",
    container: ContainerName = "",
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="As on a terminal.")] = False,
) -> None:
    """Run a command in a container: exec nginx-abcde -- ls /."""
    from k8slite.client.http import path_of
    from k8slite.client.streams import exec_stream

    given = list(command_line or ())
    name = await _pod(call, pod or (given.pop(0) if given else ""))
    if not name or not given:
        raise BadRequest("exec: name the pod and the command: exec POD -- COMMAND")
    terminal = tty and sys.stdin.isatty()
    query = [("command", word) for word in given]
    query += [("container", container)] if container else []
    switches = (("stdin", stdin), ("stdout", True), ("stderr", not tty), ("tty", tty))
    query += [(switch, "true") for switch, on in switches if on]
    path = path_of(POD, call.namespace, name, "exec")
    async with exec_stream(call.client, path, query) as stream:
        with _raw_terminal(terminal and stdin):
            await _converse(stream, stdin=stdin, terminal=terminal)
        code = stream.exit_code()
    if code:
        raise typer.Exit(code)


async def _converse(stream: ExecStream, *, stdin: bool, terminal: bool) -> None:
    """Carry input there and output here until the command ends."""
    from k8slite.client.streams import STDERR

    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_send_input(stream), name="exec-stdin")] if stdin else []
        if terminal:
            resized = asyncio.Event()
            resized.set()
            loop.add_signal_handler(signal.SIGWINCH, resized.set)
            tasks.append(group.create_task(_send_sizes(stream, resized), name="exec-resize"))
        try:
            async for channel, data in stream.output():
                target = sys.stderr.buffer if channel == STDERR else sys.stdout.buffer
                target.write(data)
                target.flush()
        finally:
            if terminal:
                loop.remove_signal_handler(signal.SIGWINCH)
            for task in tasks:
                task.cancel()


async def _send_input(stream: ExecStream) -> None:
    """Standard input, as it comes. What cannot be watched (a file) is read at once."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
        watched = True
    except (PermissionError, NotImplementedError):
        watched = False
    try:
        while True:
            if watched:
                await ready.wait()
                ready.clear()
            data = os.read(descriptor, 1 << 15)
            if not data:
                await stream.end_input()
                return
            await stream.send(data)
    except ConnectionError:
        pass  # the command ended; its output says how
    finally:
        if watched:
            loop.remove_reader(descriptor)


async def _send_sizes(stream: ExecStream, resized: asyncio.Event) -> None:
    while True:
        await resized.wait()
        resized.clear()
        size = os.get_terminal_size(sys.stdin.fileno())
        await stream.resize(size.columns, size.lines)


@contextmanager
def _raw_terminal(wanted: bool) -> Iterator[None]:
    """The terminal hands every key over as it is; afterwards it is as it was."""
    if not wanted:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
