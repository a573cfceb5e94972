"""Declaring a command of ``k8slite ctl``.

A command is an async function whose first parameter is a ``Call``; ``command`` gives it the global
flags, so that they may stand before or after the command's name (the article writes them last).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from k8slite.cli.ctl.call import Call, Globals, run
from k8slite.cli.ctl.completion import namespaces
from k8slite.client.kubeconfig import Wanted

P = ParamSpec("P")

_PANEL = "Which server, and as whom"


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
