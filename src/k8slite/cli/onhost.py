"""``k8slite host``: what `up -c` and its kin run on every host. Not for people."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from k8slite.deploy.onhost import OnHost

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def apply() -> None:
    """Make this host what the plan on standard input says; the last line tells what changed."""
    from k8slite.deploy import plan

    wanted = plan.decode(sys.stdin.buffer.read())

    async def run(host: OnHost) -> None:
        print("changed:", ", ".join(await host.apply(wanted)))

    _run(run)


@app.command()
def remove() -> None:
    """Take everything of k8slite off this host and put back what was found."""
    _run(lambda host: host.remove())


def _run(work: Callable[[OnHost], Awaitable[None]]) -> None:
    from aiodocker import DockerError

    from k8slite.agent import uninstall
    from k8slite.api.errors import ApiError
    from k8slite.deploy.host import HostError
    from k8slite.deploy.onhost import OnHost
    from k8slite.deploy.services import services
    from k8slite.kit.clock import Clock
    from k8slite.pki.files import PkiError

    def say(line: str) -> None:
        print(line, flush=True)

    async def run() -> None:
        await work(OnHost(services(), Clock(), say, uninstall))

    try:
        asyncio.run(run())
    except (HostError, PkiError, ApiError, DockerError, OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        raise typer.Exit(1) from None
