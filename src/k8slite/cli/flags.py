"""The flags of ``k8slite agent`` and ``k8slite up``: words in, ``Settings`` out."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from k8slite.config import DEFAULT_ADMISSION, Settings

CONTROL = "Control plane (role a)"
NODE = "Node (role i)"
ETCD = "etcd"
NETWORK = "Addresses for the outside"


def parse(
    roles: Annotated[str, typer.Option(help="a: control plane, i: node, ai: both.")] = "ai",
    data_dir: Annotated[
        Path, typer.Option(help="Store, certificates and pods' volumes live here.")
    ] = Path("/var/lib/k8slite"),
    node_ip: Annotated[
        str, typer.Option(help="This machine's address [default: the one of its default route].")
    ] = "",
    node_name: Annotated[str, typer.Option(help="The node's name [default: its address].")] = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    store: Annotated[
        str,
        typer.Option(
            help="sqlite, memory or etcd [default: etcd where --etcd is given, else sqlite].",
            rich_help_panel=CONTROL,
        ),
    ] = "",
    etcd: Annotated[
        list[str] | None,
        typer.Option(
            help="An endpoint of etcd, http(s)://HOST:2379 (repeatable).", rich_help_panel=ETCD
        ),
    ] = None,
    etcd_root: Annotated[
        str, typer.Option(help="This cluster's keys lie below it.", rich_help_panel=ETCD)
    ] = "/k8slite",
    etcd_ca: Annotated[
        Path | None, typer.Option(help="Who vouches for etcd (PEM).", rich_help_panel=ETCD)
    ] = None,
    etcd_cert: Annotated[
        Path | None, typer.Option(help="Our certificate for etcd (PEM).", rich_help_panel=ETCD)
    ] = None,
    etcd_key: Annotated[
        Path | None, typer.Option(help="Its key (PEM).", rich_help_panel=ETCD)
    ] = None,
    etcd_user: Annotated[
        str, typer.Option(help="User, where etcd asks for one.", rich_help_panel=ETCD)
    ] = "",
    etcd_password_file: Annotated[
        Path | None, typer.Option(help="File with the user's password.", rich_help_panel=ETCD)
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(
            help="A master to join, https://HOST:6443 (repeatable, for role i alone).",
            rich_help_panel=NODE,
        ),
    ] = None,
    token: Annotated[
        str,
        typer.Option(
            help="The join token itself; --token-file keeps it out of `ps`.", rich_help_panel=NODE
        ),
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the join token.", rich_help_panel=NODE)
    ] = None,
    overlay: Annotated[
        str,
        typer.Option(
            help="vxlan, host-gw or none: the way between pods of two nodes.", rich_help_panel=NODE
        ),
    ] = "vxlan",
    proxy_mode: Annotated[
        str,
        typer.Option(
            help="userspace: this process forwards; nft: the kernel does.", rich_help_panel=NODE
        ),
    ] = "userspace",
    address_pool: Annotated[
        list[str] | None,
        typer.Option(
            help="Addresses for services of type LoadBalancer, CIDR or FROM-TO (repeatable).",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    announce: Annotated[
        str,
        typer.Option(
            help="arp (IPv6: NDP), bgp or none: how those addresses reach a node.",
            rich_help_panel=NETWORK,
        ),
    ] = "arp",
    bgp_as: Annotated[int, typer.Option(help="Our AS number.", rich_help_panel=NETWORK)] = 64512,
    bgp_peer: Annotated[
        list[str] | None,
        typer.Option(help="A router, ADDRESS or ADDRESS=AS (repeatable).", rich_help_panel=NETWORK),
    ] = None,
    portal_net: Annotated[
        str, typer.Option(help="Portal IPs of services are picked here.", rich_help_panel=CONTROL)
    ] = "192.168.3.0/24",
    flannel_net: Annotated[
        str, typer.Option(help="Pod networks are cut from this.", rich_help_panel=NODE)
    ] = "172.16.0.0/16",
    admission_control: Annotated[
        str, typer.Option(help="Plug-ins, comma-separated, in order.", rich_help_panel=CONTROL)
    ] = ",".join(DEFAULT_ADMISSION),
    port: Annotated[
        int, typer.Option(help="HTTP for this machine only.", rich_help_panel=CONTROL)
    ] = 8080,
    secure_port: Annotated[
        int, typer.Option(help="HTTPS with credentials.", rich_help_panel=CONTROL)
    ] = 6443,
    read_only_port: Annotated[
        int, typer.Option(help="What kubernetes-ro leads to.", rich_help_panel=CONTROL)
    ] = 7080,
    insecure_allow: Annotated[
        list[str] | None,
        typer.Option(
            help="CIDR that may use the HTTP door unauthenticated (repeatable).",
            rich_help_panel=CONTROL,
        ),
    ] = None,
    scheduler_policy: Annotated[
        Path | None,
        typer.Option(help="Predicates and priorities, JSON or YAML.", rich_help_panel=CONTROL),
    ] = None,
    scheduler_name: Annotated[
        str, typer.Option(help="Pods that ask for this name are ours.", rich_help_panel=CONTROL)
    ] = "default-scheduler",
    node_grace: Annotated[
        float, typer.Option(help="Seconds without heartbeat → NotReady.", rich_help_panel=CONTROL)
    ] = 40.0,
    eviction_timeout: Annotated[
        float, typer.Option(help="Seconds NotReady → pods evicted.", rich_help_panel=CONTROL)
    ] = 300.0,
    docker_host: Annotated[
        str, typer.Option(help="Docker's socket [default: $DOCKER_HOST].", rich_help_panel=NODE)
    ] = "",
    node_port: Annotated[
        int, typer.Option(help="The node's own API (HTTPS).", rich_help_panel=NODE)
    ] = 10250,
    manifests: Annotated[
        Path | None,
        typer.Option(help="Folder of static pods [default: DATA/manifests].", rich_help_panel=NODE),
    ] = None,
    warm_sandboxes: Annotated[
        int, typer.Option(help="Pod sandboxes kept ready.", rich_help_panel=NODE)
    ] = 2,
) -> Settings:
    """Every flag by its name → settings."""
    return Settings(
        roles=roles,
        node_name=node_name,
        node_ip=node_ip,
        data_dir=data_dir,
        store=store or ("etcd" if etcd else "sqlite"),
        etcd=_listed(etcd),
        etcd_root=etcd_root,
        etcd_ca=etcd_ca,
        etcd_cert=etcd_cert,
        etcd_key=etcd_key,
        etcd_user=etcd_user,
        etcd_password_file=etcd_password_file,
        server=_listed(server),
        token=token,
        token_file=token_file,
        overlay=overlay,
        proxy_mode=proxy_mode,
        address_pool=_listed(address_pool),
        announce=announce,
        bgp_as=bgp_as,
        bgp_peer=_listed(bgp_peer),
        portal_net=portal_net,
        flannel_net=flannel_net,
        admission_control=tuple(word for word in admission_control.split(",") if word),
        port=port,
        secure_port=secure_port,
        read_only_port=read_only_port,
        node_port=node_port,
        insecure_allow=tuple(insecure_allow or ()),
        docker_host=docker_host or os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
        manifests=manifests,
        scheduler_policy=scheduler_policy,
        scheduler_name=scheduler_name,
        node_grace=node_grace,
        eviction_timeout=eviction_timeout,
        warm_sandboxes=warm_sandboxes,
        log_level=log_level,
    )


def _listed(words: list[str] | None) -> tuple[str, ...]:
    """Repeated flags, each of which may hold several words with commas between them."""
    return tuple(part for word in words or () for part in word.split(",") if part)


def command(
    run: Callable[[Settings], None], instead: Callable[..., bool] | None = None
) -> Callable[..., None]:
    """A typer command with all of these flags that calls ``run`` with their settings.

    ``instead`` has flags of its own and is asked first: True when it has done all there was to do.
    Its parameter ``foreign`` are the names of the flags here that were given beside its own.
    """
    parameters = dict(inspect.signature(parse, eval_str=True).parameters)
    firsts = dict(inspect.signature(instead, eval_str=True).parameters) if instead else {}
    firsts.pop("foreign", None)

    def with_flags(**given: Any) -> None:
        if instead is not None:
            first = {name: given.pop(name) for name in firsts}
            foreign = [n for n, value in given.items() if value != parameters[n].default]
            if instead(**first, foreign=tuple(foreign)):
                return
        run(parse(**given))

    both = {**firsts, **parameters}
    signature = inspect.Signature(list(both.values()))
    with_flags.__signature__ = signature  # type: ignore[attr-defined]
    with_flags.__annotations__ = {n: p.annotation for n, p in both.items()}
    with_flags.__doc__ = run.__doc__
    return with_flags
