"""``k8slite token``: what a new node needs to join."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer


def token(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make another one; the old one opens nothing then.")
    ] = False,
    server: Annotated[
        list[str] | None, typer.Option("--server", "-s", help="A master, https://HOST:6443.")
    ] = None,
    kubeconfig: Annotated[
        str, typer.Option(help="File [default: DATA/admin.kubeconfig, $KUBECONFIG, …].")
    ] = "",
    data_dir: Annotated[Path, typer.Option(help="The data folder of a master.")] = Path(
        "/var/lib/k8slite"
    ),
) -> None:
    """Print the token with which a node joins, and the command for the new node.

    The first line is the token alone.
    """
    from k8slite.api.errors import ApiError
    from k8slite.api.joining import TokenAnswer
    from k8slite.cli.ctl.call import line_of
    from k8slite.client import kubeconfig as files
    from k8slite.client.http import HttpClient

    async def ask() -> TokenAnswer:
        own = data_dir / "admin.kubeconfig"
        chosen = kubeconfig or (str(own) if os.access(own, os.R_OK) else "")
        found = files.load(files.paths(chosen, os.environ))
        access, _ = found.access(files.Wanted(server=",".join(server or ())))
        async with HttpClient(access) as client:
            answer = await client.request("POST" if rotate else "GET", "/join/token")
            return TokenAnswer(**answer.json())

    try:
        found = asyncio.run(ask())
    except ApiError as error:
        typer.echo(line_of(error), err=True)
        raise typer.Exit(1) from None
    servers = [word for url in found.servers for word in ("--server", url)]
    command = ["k8slite", "agent", "--roles", "i", *servers, "--token", found.token]
    typer.echo(found.token)
    typer.echo(f"\nOn the new node, as root:\n\n  {shlex.join(command)}")
