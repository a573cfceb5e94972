"""One call of ``k8slite ctl``: the global flags, the way to the server, and what goes wrong.

A command is an async function whose first parameter is a ``Call``; ``command`` gives it the global
flags, so that they may stand before or after the command's name (the article writes them last).
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from k8slite.api.errors import ApiError, BadRequest
from k8slite.cli.ctl.completion import namespaces
from k8slite.client import kubeconfig
from k8slite.client.kubeconfig import Wanted
from k8slite.kit.clock import Clock

if TYPE_CHECKING:
    from k8slite.client.http import Answer, HttpClient

P = ParamSpec("P")

_PANEL = "Which server, and as whom"


@dataclass(frozen=True, slots=True)
class Globals:
    """The flags that every command takes."""

    wanted: Wanted = field(default_factory=Wanted)
    kubeconfig: str = ""
    api_version: str = ""
    validate: str = ""


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL, **more)


def _globals(
    server: Annotated[
        list[str] | None,
        _option("--server", "-s", help="http://HOST:PORT; more masters by commas.", metavar="URL"),
    ] = None,
    namespace: Annotated[
        str, _option("--namespace", "-n", help="Namespace.", autocompletion=namespaces)
    ] = "",
    kubeconfig: Annotated[
        str, _option("--kubeconfig", help="File [default: $KUBECONFIG, ~/.kube/config].")
    ] = "",
    context: Annotated[str, _option("--context", help="Context of the kubeconfig.")] = "",
    cluster: Annotated[str, _option("--cluster", help="Cluster of the kubeconfig.")] = "",
    user: Annotated[str, _option("--user", help="User of the kubeconfig.")] = "",
    token: Annotated[str, _option("--token", help="Bearer token.")] = "",
    username: Annotated[str, _option("--username", help="For basic authentication.")] = "",
    password: Annotated[str, _option("--password", help="For basic authentication.")] = "",
    client_certificate: Annotated[str, _option("--client-certificate", help="PEM file.")] = "",
    client_key: Annotated[str, _option("--client-key", help="PEM file.")] = "",
    certificate_authority: Annotated[
        str, _option("--certificate-authority", help="PEM file of the server's CA.")
    ] = "",
    insecure_skip_tls_verify: Annotated[
        bool, _option("--insecure-skip-tls-verify", help="Trust any server. Not for real use.")
    ] = False,
    api_version: Annotated[
        str, _option("--api-version", help="v1 or v1beta3, for -o json and yaml.")
    ] = "",
    validate: Annotated[
        str, _option("--validate", help="true: refuse fields that nobody knows.", metavar="BOOL")
    ] = "",
) -> Globals:
    """Flags by their names → ``Globals``."""
    wanted = Wanted(
        server=",".join(server or ()),
        context=context,
        cluster=cluster,
        user=user,
        namespace=namespace,
        token=token,
        username=username,
        password=password,
        certificate=client_certificate,
        key=client_key,
        authority=certificate_authority,
        insecure=insecure_skip_tls_verify,
    )
    return Globals(wanted, kubeconfig, api_version, validate)


_GLOBALS = inspect.signature(_globals, eval_str=True).parameters


def over(first: Globals, second: Globals) -> Globals:
    """Flags before the command, and after it; the latter win."""
    given = {
        flag.name: value for flag in fields(Wanted) if (value := getattr(second.wanted, flag.name))
    }
    return Globals(
        replace(first.wanted, **given),
        second.kubeconfig or first.kubeconfig,
        second.api_version or first.api_version,
        second.validate or first.validate,
    )


class Call:
    """What a command works with. ``name`` is the one it was called by."""

    def __init__(self, given: Globals, name: str = "") -> None:
        self.given = given
        self.name = name
        self.clock = Clock()
        self.failed = False
        self._client: HttpClient | None = None
        files = kubeconfig.paths(given.kubeconfig, os.environ)
        if given.kubeconfig and not files[0].exists():
            raise BadRequest(f"--kubeconfig {given.kubeconfig}: there is no such file")
        self.access, self.namespace = kubeconfig.load(files).access(given.wanted)
        if given.api_version not in ("", "v1", "v1beta3"):
            raise BadRequest(f"--api-version {given.api_version!r}: known are v1 and v1beta3")

    @property
    def client(self) -> HttpClient:
        if self._client is None:
            from k8slite.client.http import HttpClient

            self._client = HttpClient(self.access)
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def namespace_of(self, namespaced: bool, everywhere: bool = False) -> str:
        """The namespace to ask for: "" for root-scoped kinds and for all of them."""
        return self.namespace if namespaced and not everywhere else ""

    def say(self, text: str) -> None:
        """A line of standard output."""
        self.write(text + "\n")

    def write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def warn(self, answer: Answer) -> None:
        """The server's warnings, on standard error."""
        for warning in answer.warnings:
            print(f"Warning: {warning}", file=sys.stderr)

    def fail(self, error: ApiError, about: str = "") -> None:
        """Say what went wrong with one of several objects; the exit code will tell."""
        self.failed = True
        print(line_of(error, about), file=sys.stderr)


def line_of(error: ApiError, about: str = "") -> str:
    """An error as one line. What the server said is told apart from what was seen here."""
    from k8slite.client.http import said_by_server

    text = " ".join(error.message.split())
    if about and about not in text:
        text = f"{about}: {text}"
    if said_by_server(error):
        return f"Error from server: {text}"
    whole = text.startswith(("The connection to the server", "Unable to connect to the server"))
    return text if whole else f"Error: {text}"


def run(function: Callable[[Call], Awaitable[None]], given: Globals, name: str) -> None:
    """Run a command to its end. Raises typer.Exit with 1 for any failure."""

    async def main() -> bool:
        call = Call(given, name)
        try:
            await function(call)
        finally:
            await call.close()
        return call.failed

    try:
        failed = asyncio.run(main())
    except ApiError as error:
        print(line_of(error), file=sys.stderr)
        failed = True
    if failed:
        raise typer.Exit(1)


def remember(invocation: typer.Context, **flags: Any) -> None:
    """The command line of a cluster: what runs, what it looks like, what it should be."""
    invocation.obj = _globals(**flags)


def declare(app: typer.Typer) -> None:
    """Give the app itself the global flags."""
    _sign(remember, [])
    app.callback()(remember)


def command(
    app: typer.Typer, *names: str
) -> Callable[
    [Callable[Concatenate[Call, P], Awaitable[None]]],
    Callable[Concatenate[Call, P], Awaitable[None]],
]:
    """Declare a command under its name and further ones, which the help does not list."""

    def register(
        function: Callable[Concatenate[Call, P], Awaitable[None]],
    ) -> Callable[Concatenate[Call, P], Awaitable[None]]:
        def invoke(invocation: typer.Context, **flags: Any) -> None:
            shared = {key: flags.pop(key) for key in _GLOBALS}
            before = invocation.obj if isinstance(invocation.obj, Globals) else Globals()
            given = over(before, _globals(**shared))
            run(lambda call: function(call, **flags), given, invocation.info_name or "")  # type: ignore[call-arg]

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        invoke.__doc__ = function.__doc__
        brief = inspect.cleandoc(function.__doc__ or "").partition(":")[0].rstrip(".")
        _sign(invoke, own)
        for place, name in enumerate(names):
            app.command(name, hidden=place > 0, short_help=brief)(invoke)
        return function

    return register


_INVOCATION = inspect.Parameter(
    "invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
)


def _sign(function: Callable[..., Any], own: list[inspect.Parameter]) -> None:
    """Let ``function(invocation, **flags)`` show its true parameters to the parser."""
    flags = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *_GLOBALS.values())]
    parameters = [_INVOCATION, *flags]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
