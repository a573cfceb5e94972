"""``k8slite up`` and ``k8slite down``: a cluster of this machine alone, or of a file's hosts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from k8slite.cli import cluster
from k8slite.config import Settings


def _fail(error: Exception) -> typer.Exit:
    typer.echo(f"k8slite: {error}", err=True)
    return typer.Exit(1)


def up(settings: Settings) -> None:
    """Bring up a cluster on this machine, or with -c on hosts, and wait until it is Ready."""
    from k8slite.agent import uninstall
    from k8slite.api.errors import ApiError
    from k8slite.client.http import HttpClient
    from k8slite.deploy import report
    from k8slite.deploy.host import HostError
    from k8slite.deploy.local import LocalCluster, report_of
    from k8slite.kit.clock import Clock
    from k8slite.preflight import BadSettings, host_holder, resolve

    async def run() -> None:
        clock = Clock()
        whole = resolve(settings)
        server = f"http://127.0.0.1:{whole.port}"
        async with HttpClient(server) as client:
            cluster = LocalCluster(
                whole, clock, typer.echo,
                client=client, uninstall=lambda: uninstall(whole), holder=host_holder,
            )  # fmt: skip
            await cluster.up()
            typer.echo(await report_of(client, whole, clock), nl=False)
            typer.echo(
                report.next_steps(whole.node_ip, whole.port, str(cluster.places.kubeconfig)),
                nl=False,
            )

    try:
        asyncio.run(run())
    except (HostError, ApiError, BadSettings, OSError) as error:
        raise _fail(error) from None


def up_many(
    config: cluster.OptionalConfig = None,
    identity: cluster.Identity = None,
    sudo_password_file: cluster.SudoPassword = None,
    ssh_port: cluster.SshPort = None,
    kubeconfig: cluster.Kubeconfig = "",
    foreign: tuple[str, ...] = (),
) -> bool:
    """``up -c FILE``: False where there is no file. ``foreign`` are flags of the other ``up``."""
    if config is None:
        return False
    if foreign:
        flag = f"--{foreign[0].replace('_', '-')}"
        raise _fail(
            ValueError(f"{flag} is for a cluster of this machine alone: with -c the file decides")
        )
    cluster.up(config, cluster.Login(identity, sudo_password_file, ssh_port, kubeconfig))
    return True


def down(
    config: cluster.OptionalConfig = None,
    data_dir: Annotated[Path, typer.Option(help="The cluster's data folder.")] = Path(
        "/var/lib/k8slite"
    ),
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="Keep store, certificates and logs.")
    ] = False,
    identity: cluster.Identity = None,
    sudo_password_file: cluster.SudoPassword = None,
    ssh_port: cluster.SshPort = None,
    kubeconfig: cluster.Kubeconfig = "",
) -> None:
    """Stop a cluster and leave its hosts, or this one, as they were found."""
    if config is not None:
        cluster.down(config, cluster.Login(identity, sudo_password_file, ssh_port, kubeconfig))
        return
    from k8slite.agent import uninstall
    from k8slite.deploy.host import HostError
    from k8slite.deploy.local import LocalCluster, recorded_settings
    from k8slite.kit.clock import Clock
    from k8slite.preflight import host_holder

    async def run() -> None:
        settings = recorded_settings(data_dir)
        cluster = LocalCluster(
            settings, Clock(), typer.echo,
            client=None, uninstall=lambda: uninstall(settings), holder=host_holder,
        )  # fmt: skip
        await cluster.down(keep_data=keep_data)

    try:
        asyncio.run(run())
    except (HostError, OSError) as error:
        raise _fail(error) from None
