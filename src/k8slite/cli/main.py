"""``k8slite``: the one entry point. A command's code is imported when that command is called."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Literal, TextIO

import typer
from typer.exceptions import TyperException

#: Exit codes as shells have them: 128 + SIGINT, 128 + SIGPIPE.
INTERRUPTED, BROKEN_PIPE = 130, 141

#: Command → what the help says of it. ``ctl`` is a group of its own.
_COMMANDS = {
    "agent": "Run this host's part of a cluster until it is stopped",
    "up": "Bring up a cluster on this machine, or on the hosts of config-default.sh (-c)",
    "down": "Stop a cluster and leave its hosts as they were found",
    "validate": "Check config-default.sh, its hosts and the cluster on them; changes nothing",
    "add-node": "Install one more host into a running cluster",
    "remove-node": "Drain a node, take it out and leave its host as it was found",
    "upgrade": "Put this k8slite on every node, one after another; pods go on running",
    "token": "Print the token with which a node joins, and the command for the new node",
    "store": "A cluster's store: look at it, back it up, move it, make room in it",
    "ctl": "The command line of a cluster: see, make and change what runs there",
}


def _agent() -> Callable[..., None]:
    import_module("k8slite.log")  # first: it brings in structlog without what the agent never uses
    flags, agent = import_module("k8slite.cli.flags"), import_module("k8slite.cli.agent")
    wrapped: Callable[..., None] = flags.command(agent.agent)
    return wrapped


def _up() -> Callable[..., None]:
    flags, host = import_module("k8slite.cli.flags"), import_module("k8slite.cli.host")
    wrapped: Callable[..., None] = flags.command(host.up, host.up_many)
    return wrapped


def _of_cluster(name: str) -> Callable[[], Callable[..., None]]:
    """A loader of a command in ``cli.cluster``."""

    def load() -> Callable[..., None]:
        found: Callable[..., None] = getattr(import_module("k8slite.cli.cluster"), name)
        return found

    return load


def _down() -> Callable[..., None]:
    down: Callable[..., None] = import_module("k8slite.cli.host").down
    return down


def _token() -> Callable[..., None]:
    token: Callable[..., None] = import_module("k8slite.cli.token").token
    return token


_LOADERS: dict[str, Callable[[], Callable[..., None]]] = {
    "agent": _agent,
    "up": _up,
    "down": _down,
    "token": _token,
    "validate": _of_cluster("validate"),
    "add-node": _of_cluster("add_node"),
    "remove-node": _of_cluster("remove_node"),
    "upgrade": _of_cluster("upgrade"),
}
#: Commands with commands of their own, by module.
_GROUPS = {"ctl": "k8slite.cli.ctl.app", "host": "k8slite.cli.onhost", "store": "k8slite.cli.store"}
#: What `up -c` and its kin run on hosts; not for people, so no help mentions it.
_HIDDEN = {"host": "What `up -c` runs on each host"}


def _not_loaded() -> None:
    """Stands in the help for a command that is not being called."""


def build(called: str) -> typer.Typer:
    """The command line with ``called`` loaded and the others by their names alone."""
    app = typer.Typer(
        name="k8slite",
        help="Kubernetes small enough to read.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, told in (_COMMANDS | _HIDDEN).items():
        hidden = name in _HIDDEN
        if name != called:
            app.command(name, short_help=told, hidden=hidden)(_not_loaded)
        elif name in _GROUPS:
            group = import_module(_GROUPS[name]).app
            app.add_typer(group, name=name, short_help=told, hidden=hidden)
        else:
            app.command(name, short_help=told)(_LOADERS[name]())
    app.callback()(_root)
    return app


@cache
def _command(called: str) -> Any:
    return typer.main.get_command(build(called))


def _root() -> None:
    """Kubernetes small enough to read."""


def _called(words: Sequence[str]) -> str:
    """The command among the words of a command line, or ""."""
    return next((word for word in words if word in _COMMANDS or word in _HIDDEN), "")


def run(words: Sequence[str]) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    called = _called(os.environ.get("COMP_WORDS", "").split() or words)
    if called == "ctl":
        words = import_module("k8slite.cli.ctl.arguments").normalised(words)
    try:
        code = _command(called).main(list(words), prog_name="k8slite", standalone_mode=False)
    except TyperException as error:
        return _refuse(error)
    except typer.Exit as ended:
        return ended.exit_code
    except typer.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; there is nobody left to tell.
        sys.stdout = _nowhere("w")
        return BROKEN_PIPE
    except OSError as error:
        # What could not be written is not tried again when the process ends.
        sys.stdout = _nowhere("w")
        about = f"{error.filename}: " if error.filename else ""
        print(f"Error: {about}{error.strerror or error}", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def _refuse(error: TyperException) -> int:
    """A command line that cannot be understood: one line, or the help if nothing was asked."""
    text = error.format_message()
    if "\n" in text:
        print(text)
        return 0
    path = getattr(getattr(error, "ctx", None), "command_path", "k8slite")
    hint = "" if text.endswith("?") else f"; see `{path} --help`"
    print(f"Error: {text.rstrip('.')}{hint}", file=sys.stderr)
    return 1


def _nowhere(mode: Literal["r", "w"]) -> TextIO:
    return open(os.devnull, mode)


def prepare_streams() -> None:
    """Standard streams that a program may use in peace: closed ones lead nowhere, and text that
    the terminal's encoding lacks is escaped."""
    sys.stdin = sys.stdin or _nowhere("r")
    sys.stdout, sys.stderr = sys.stdout or _nowhere("w"), sys.stderr or _nowhere("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    prepare_streams()
    sys.exit(run(sys.argv[1:]))
