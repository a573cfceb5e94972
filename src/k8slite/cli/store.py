"""``k8slite store``: look at a cluster's store, back it up, move it, make room in it.

Which store: the one of ``--data-dir``, or etcd where ``--etcd`` is given or the cluster of the data
folder was brought up on it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from k8slite.cli import flags
from k8slite.config import Settings

app = typer.Typer(
    help="A cluster's store: look at it, back it up, move it, make room in it",
    no_args_is_help=True,
    rich_markup_mode=None,
)

#: Flags of the agent that say which store is meant.
_FLAGS = (
    "data_dir", "etcd", "etcd_root", "etcd_ca", "etcd_cert", "etcd_key", "etcd_user",
    "etcd_password_file",
)  # fmt: skip


def _settings(**given: Any) -> Settings:
    from k8slite.deploy.local import recorded_settings

    settings = flags.parse(**given)
    if not settings.etcd:
        recorded = recorded_settings(settings.data_dir)
        if recorded.store == "etcd":
            return recorded
    return settings


def _command(run: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A typer command: ``run(settings, …)`` with its own options and those of ``_FLAGS``."""
    own = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
    known = inspect.signature(flags.parse, eval_str=True).parameters

    def command(**given: Any) -> None:
        settings_given = {name: given.pop(name) for name in _FLAGS}
        _finish(lambda: run(_settings(**settings_given), **given))

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (*own, *(known[name] for name in _FLAGS))
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = run.__doc__
    app.command(run.__name__)(command)
    return command


def _finish(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """What stands in the way is one line."""
    from k8slite import log
    from k8slite.store.base import StoreError

    log.configure("error")
    try:
        asyncio.run(run())
    except (StoreError, ValueError, OSError) as error:
        about = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        typer.echo(f"k8slite: {about}", err=True)
        raise typer.Exit(1) from None


@_command
async def stats(settings: Settings) -> None:
    """Revision, history, keys and bytes by kind; with etcd, how its members are."""
    from k8slite.kit.clock import Clock
    from k8slite.store.report import stats_of

    for line in await stats_of(settings, Clock()):
        typer.echo(line)


@_command
async def compact(
    settings: Settings,
    keep: Annotated[int, typer.Option(help="Revisions of history to keep.", min=0)] = 0,
) -> None:
    """Forget history and give the room back; with etcd, defragment every member as well."""
    from k8slite.kit.clock import Clock
    from k8slite.store.report import compacted

    for line in await compacted(settings, Clock(), keep):
        typer.echo(line)


@_command
async def backup(
    settings: Settings,
    file: Annotated[Path, typer.Argument(help="The file to write; it must not be there.")],
) -> None:
    """Write everything, as of one revision, to one file. The cluster may run meanwhile."""
    from k8slite.kit.clock import Clock
    from k8slite.store import archive
    from k8slite.store.moving import shelf_of

    clock = Clock()
    contents = await shelf_of(settings.store, settings, clock).contents()
    header = archive.write(file, contents, clock.stamp())
    typer.echo(
        f"{file}: {header.count} keys at revision {header.revision}, {header.bytes:,} bytes, "
        f"sha256 {header.sha256}"
    )


@_command
async def restore(
    settings: Settings,
    file: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    to: Annotated[
        str,
        typer.Option(help="An empty store: sqlite[:PATH] or etcd[:URL,URL] [default: as flagged]."),
    ] = "",
) -> None:
    """Fill an empty store from a backup."""
    from k8slite.kit.clock import Clock
    from k8slite.store import archive, moving

    header, contents = archive.read(file)
    target = moving.shelf_of(to or settings.store, settings, Clock())
    moved = await moving.restore(contents, target)
    typer.echo(f"{file}, made {header.made}, is in {target.name}")
    _tell(moved)


@_command
async def migrate(
    settings: Settings,
    to: Annotated[str, typer.Option(help="Where to: sqlite[:PATH] or etcd[:URL,URL].")],
    from_: Annotated[
        str, typer.Option("--from", help="Where from [default: the other kind, as flagged].")
    ] = "",
) -> None:
    """Move a cluster between the embedded store and etcd; its agents must be stopped."""
    from k8slite.kit.clock import Clock
    from k8slite.store import moving

    clock = Clock()
    other = "sqlite" if to.startswith("etcd") else "etcd"
    target = moving.shelf_of(to, settings, clock)
    source = moving.shelf_of(from_ or other, settings, clock)
    moved = await moving.migrate(source, target)
    typer.echo(f"{source.name} is in {target.name}")
    _tell(moved)
    typer.echo(f"{source.name} was left as it is: start every agent on the new store only")


def _tell(moved: Any) -> None:
    typer.echo(
        f"{moved.keys} keys, read back and the same (sha256 {moved.sha256}); revision "
        f"{moved.source_revision} there, {moved.revision} here"
    )
    if moved.left_out:
        typer.echo(f"{moved.left_out} signs of life were left out: their holders make them anew")
