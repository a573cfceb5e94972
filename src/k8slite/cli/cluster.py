"""``up -c``, ``down -c``, ``validate``, ``add-node``, ``remove-node``, ``upgrade``: many hosts."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from k8slite.deploy.cluster import ClusterSpec
    from k8slite.deploy.rollout import Rollout
    from k8slite.deploy.ssh import Hosts
    from k8slite.kit.clock import Clock

HOSTS = "Cluster of several hosts (-c)"

Config = Annotated[
    Path, typer.Option("-c", "--config", help="config-default.sh: nodes, roles, networks.")
]
OptionalConfig = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        help="config-default.sh: a cluster of the hosts it names.",
        rich_help_panel=HOSTS,
    ),
]
Identity = Annotated[
    Path | None,
    typer.Option(help="SSH key [default: ssh-agent, ~/.ssh].", rich_help_panel=HOSTS),
]
SudoPassword = Annotated[
    Path | None,
    typer.Option(
        help="File with the password that sudo asks for [default: $K8SLITE_SUDO_PASSWORD, or "
        "asked once for each node].",
        rich_help_panel=HOSTS,
    ),
]
SshPort = Annotated[int | None, typer.Option(help="Port of sshd.", rich_help_panel=HOSTS)]
Kubeconfig = Annotated[
    str,
    typer.Option(
        help="File for the cluster's context [default: $KUBECONFIG or ~/.kube/config].",
        rich_help_panel=HOSTS,
    ),
]


@dataclass(frozen=True, slots=True)
class Login:
    """The flags that say how to log in, and where credentials go."""

    identity: Path | None = None
    sudo_password_file: Path | None = None
    ssh_port: int | None = None
    kubeconfig: str = ""


def up(config: Path, login: Login) -> None:
    _work(config, login, lambda rollout, *_: rollout.up())


def down(config: Path, login: Login) -> None:
    from k8slite.deploy import removal
    from k8slite.deploy.bundle import cache_folder

    async def run(rollout: Rollout, hosts: Hosts, clock: Clock) -> None:
        await removal.down(
            rollout.spec, hosts, clock, typer.echo,
            cache=cache_folder(), kubeconfig=_kubeconfigs(login),
        )  # fmt: skip

    _work(config, login, run)


def validate(
    config: Config,
    identity: Identity = None,
    sudo_password_file: SudoPassword = None,
    ssh_port: SshPort = None,
) -> None:
    """Check a file, its hosts and the cluster on them; changes nothing."""
    from k8slite.deploy import removal

    login = Login(identity, sudo_password_file, ssh_port)
    _work(config, login, lambda rollout, *_: removal.validate(rollout, typer.echo), changes=False)


def add_node(
    node: Annotated[str, typer.Argument(metavar="USER@ADDRESS")],
    config: Config,
    roles: Annotated[str, typer.Option(help="a, i or ai.")] = "i",
    identity: Identity = None,
    sudo_password_file: SudoPassword = None,
    ssh_port: SshPort = None,
    kubeconfig: Kubeconfig = "",
) -> None:
    """Install one more host into a running cluster."""
    from k8slite.deploy.cluster import node_of
    from k8slite.deploy.removal import Nodes

    try:
        wanted = node_of(node, roles)
    except ValueError as error:
        raise _fail([str(error)]) from None

    async def run(rollout: Rollout, hosts: Hosts, clock: Clock) -> None:
        await Nodes(rollout, hosts, clock, typer.echo, file=config).add(wanted)

    _work(config, Login(identity, sudo_password_file, ssh_port, kubeconfig), run)


def remove_node(
    node: Annotated[str, typer.Argument(metavar="[USER@]ADDRESS")],
    config: Config,
    identity: Identity = None,
    sudo_password_file: SudoPassword = None,
    ssh_port: SshPort = None,
    kubeconfig: Kubeconfig = "",
) -> None:
    """Drain a node, take it out of the cluster and leave its host as it was found."""
    from k8slite.deploy.removal import Nodes

    async def run(rollout: Rollout, hosts: Hosts, clock: Clock) -> None:
        address = node.rpartition("@")[2]
        await Nodes(rollout, hosts, clock, typer.echo, file=config).remove(address)

    _work(config, Login(identity, sudo_password_file, ssh_port, kubeconfig), run)


def upgrade(
    config: Config,
    identity: Identity = None,
    sudo_password_file: SudoPassword = None,
    ssh_port: SshPort = None,
    kubeconfig: Kubeconfig = "",
) -> None:
    """Put this k8slite on every node, one after another; pods go on running."""
    login = Login(identity, sudo_password_file, ssh_port, kubeconfig)
    _work(config, login, lambda rollout, *_: rollout.upgrade())


Run = Callable[["Rollout", "Hosts", "Clock"], Awaitable[None]]


def _work(config: Path, login: Login, run: Run, *, changes: bool = True) -> None:
    """Read the file, log in, run; whatever stands in the way is told line by line."""
    from k8slite.api.errors import ApiError
    from k8slite.deploy import ssh
    from k8slite.deploy.bundle import BundleError, cache_folder
    from k8slite.deploy.rollout import Rollout, Trouble
    from k8slite.deploy.survey import Refused
    from k8slite.kit.clock import Clock

    spec = _spec(config)
    clock = Clock()
    access = ssh.Access(
        identity=login.identity,
        port=login.ssh_port,
        ask_password=_passwords(login.sudo_password_file),
        learn=changes,
    )

    async def whole() -> None:
        async with ssh.hosts(access, clock) as hosts:
            rollout = Rollout(
                spec, hosts, clock, typer.echo,
                cache=cache_folder(), kubeconfig=_kubeconfigs(login) if changes else (),
            )  # fmt: skip
            await run(rollout, hosts, clock)

    try:
        asyncio.run(whole())
    except Refused as refusal:
        raise _fail(refusal.problems) from None
    except (Trouble, ssh.SshError, BundleError, ApiError) as error:
        raise _fail(str(error).splitlines()) from None


def _spec(config: Path) -> ClusterSpec:
    """The cluster that the file asks for; exits with everything that is wrong in it."""
    from k8slite.deploy import cluster, configfile
    from k8slite.roles.apiserver.admission import PLUGINS

    try:
        found = configfile.parse(config.read_text(), os.environ)
        reading = cluster.read(found, PLUGINS)
    except OSError as error:
        raise _fail([f"{config} cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise _fail([f"{config} is no text in UTF-8"]) from None
    except configfile.ConfigError as error:
        raise _fail([f"{config}: {problem}" for problem in error.problems]) from None
    for warning in reading.warnings:
        typer.echo(f"... note: {warning}")
    if reading.spec is None:
        raise _fail([f"{config}: {problem}" for problem in reading.problems])
    return reading.spec


def _passwords(file: Path | None) -> Callable[[str], Awaitable[str | None]]:
    """Where sudo's password comes from: the file, the environment, or whoever sits here."""
    known: str | None = os.environ.get("K8SLITE_SUDO_PASSWORD")
    if file is not None:
        try:
            known = file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise _fail([f"--sudo-password-file {file} cannot be read: {error}"]) from None

    async def ask(login: str) -> str | None:
        if known is not None:
            return known
        if not sys.stdin.isatty():
            return None
        return await asyncio.to_thread(getpass.getpass, f"[sudo] password for {login}: ")

    return ask


def _kubeconfigs(login: Login) -> list[Path]:
    from k8slite.client import kubeconfig

    return kubeconfig.paths(login.kubeconfig, os.environ)


def _fail(problems: list[str] | tuple[str, ...]) -> typer.Exit:
    for problem in problems:
        typer.echo(f"k8slite: {problem}", err=True)
    if len(problems) > 1:
        typer.echo(f"k8slite: {len(problems)} things to mend", err=True)
    return typer.Exit(1)
