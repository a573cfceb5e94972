"""``config``: the kubeconfig file, looked at and changed."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from k8slite.api import jsonpath, printing
from k8slite.api.errors import ApiError, BadRequest, NotFound
from k8slite.cli.ctl.call import Globals, line_of
from k8slite.client import kubeconfig
from k8slite.client.kubeconfig import SECTIONS, Kubeconfig, cluster_of

Raw = dict[str, Any]

app = typer.Typer(
    name="config", help="The kubeconfig: servers, users and contexts.",
    short_help="Show and change the kubeconfig", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip

Name = Annotated[str, typer.Argument(show_default=False)]
Embed = Annotated[bool, typer.Option(help="Write the files' content into the kubeconfig.")]


class _File:
    """The kubeconfig of this call. Raises typer.Exit for what goes wrong inside ``with``."""

    def __init__(self, context: typer.Context) -> None:
        outer: Any = context
        while outer.parent is not None and not isinstance(outer.obj, Globals):
            outer = outer.parent
        given = outer.obj if isinstance(outer.obj, Globals) else Globals()
        explicit = given.kubeconfig or str(context.params.get("kubeconfig") or "")
        self.paths = kubeconfig.paths(explicit, os.environ)
        self.wanted = given.wanted

    def __enter__(self) -> _File:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            error = BadRequest(f"the kubeconfig cannot be written: {error}")
        if isinstance(error, ApiError):
            print(line_of(error), file=sys.stderr)
            raise typer.Exit(1) from None

    def load(self) -> Kubeconfig:
        return kubeconfig.load(self.paths)


File = Annotated[str, typer.Option("--kubeconfig", help="File [default: $KUBECONFIG, …].")]


@app.command()
def view(
    context: typer.Context,
    output: Annotated[str, typer.Option("--output", "-o", help="yaml, json, jsonpath=…")] = "yaml",
    raw: Annotated[bool, typer.Option("--raw", help="Show secrets too.")] = False,
    minify: Annotated[bool, typer.Option("--minify", help="The current context alone.")] = False,
    kubeconfig: File = "",
) -> None:
    """Print the merged kubeconfig, its secrets left out."""
    with _File(context) as file:
        form = printing.parse_format(output)
        document = file.load().merged()
        if minify:
            document = _minified(document, file.wanted.context)
        if not raw:
            document = _without_secrets(document)
        if form.name == "jsonpath":
            typer.echo(jsonpath.render(jsonpath.parse(form.argument), document), nl=False)
        else:
            text = printing.as_json if form.name == "json" else printing.as_yaml
            typer.echo(text(document), nl=False)


def _minified(document: Raw, wanted: str) -> Raw:
    current = wanted or document["current-context"]
    contexts = [entry for entry in document["contexts"] if entry["name"] == current]
    if not contexts:
        raise NotFound(f"the kubeconfig has no context {current!r}; set one with use-context")
    body = contexts[0]["context"]
    return {
        **document,
        "current-context": current,
        "contexts": contexts,
        "clusters": [e for e in document["clusters"] if e["name"] == body.get("cluster")],
        "users": [e for e in document["users"] if e["name"] == body.get("user")],
    }


_SECRETS = {"token": "REDACTED", "password": "REDACTED", "client-key-data": "REDACTED",
            "client-certificate-data": "DATA+OMITTED",
            "certificate-authority-data": "DATA+OMITTED"}  # fmt: skip


def _without_secrets(document: Raw) -> Raw:
    shown = dict(document)
    for section, body in SECTIONS.items():
        shown[section] = [
            {**entry, body: {key: _SECRETS.get(key, value) for key, value in entry[body].items()}}
            for entry in document[section]
        ]
    return shown


@app.command("current-context")
def current_context(context: typer.Context, kubeconfig: File = "") -> None:
    """Print the name of the current context."""
    with _File(context) as file:
        current = file.load().current
        if not current:
            raise NotFound("the kubeconfig has no current context; set one with use-context")
        typer.echo(current)


@app.command("use-context")
def use_context(context: typer.Context, name: Name, kubeconfig: File = "") -> None:
    """Make a context the current one."""
    with _File(context) as file:
        _save(file.load().with_current(name))
        typer.echo(f'Switched to context "{name}".')


@app.command("set-cluster")
def set_cluster(
    context: typer.Context,
    name: Name,
    server: Annotated[
        str, typer.Option("--server", "-s", help="http://HOST:PORT; several masters with commas.")
    ] = "",
    certificate_authority: Annotated[str, typer.Option(help="PEM file of its CA.")] = "",
    insecure_skip_tls_verify: Annotated[bool, typer.Option(help="Trust any server.")] = False,
    tls_server_name: Annotated[str, typer.Option(help="Name in its certificate.")] = "",
    embed_certs: Embed = False,
    kubeconfig: File = "",
) -> None:
    """Write down a server."""
    body: Raw = {**cluster_of(server), "tls-server-name": tls_server_name}
    if insecure_skip_tls_verify:
        body["insecure-skip-tls-verify"] = True
    with _File(context) as file:
        body |= _certificate("certificate-authority", certificate_authority, embed_certs)
        _set(file, "clusters", name, body)


@app.command("set-credentials")
def set_credentials(
    context: typer.Context,
    name: Name,
    token: Annotated[str, typer.Option(help="Bearer token.")] = "",
    username: Annotated[str, typer.Option(help="For basic authentication.")] = "",
    password: Annotated[str, typer.Option(help="For basic authentication.")] = "",
    client_certificate: Annotated[str, typer.Option(help="PEM file.")] = "",
    client_key: Annotated[str, typer.Option(help="PEM file.")] = "",
    embed_certs: Embed = False,
    kubeconfig: File = "",
) -> None:
    """Write down a user."""
    with _File(context) as file:
        body: Raw = {"token": token, "username": username, "password": password}
        body |= _certificate("client-certificate", client_certificate, embed_certs)
        body |= _certificate("client-key", client_key, embed_certs)
        _set(file, "users", name, body)


@app.command("set-context")
def set_context(
    context: typer.Context,
    name: Name,
    cluster: Annotated[str, typer.Option(help="Name of a cluster.")] = "",
    user: Annotated[str, typer.Option(help="Name of a user.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
    kubeconfig: File = "",
) -> None:
    """Write down a cluster, a user and a namespace under one name."""
    with _File(context) as file:
        _set(file, "contexts", name, {"cluster": cluster, "user": user, "namespace": namespace})


def _certificate(field: str, name: str, embedded: bool) -> Raw:
    """A certificate by its file's name, or as data; the other of the two is removed."""
    if not name:
        return {}
    path = Path(name).absolute()
    if not embedded:
        return {field: str(path), f"{field}-data": None}
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise BadRequest(f"{name} cannot be read: {error.strerror}") from None
    return {field: None, f"{field}-data": data}


def _set(file: _File, section: str, name: str, body: Raw) -> None:
    if not file.paths:
        raise BadRequest("there is no kubeconfig to write: give --kubeconfig")
    given = {key: value for key, value in body.items() if value != ""}
    _save(file.load().with_entry(section, name, given))
    typer.echo(f'{SECTIONS[section].capitalize()} "{name}" set.')


def _save(config: Kubeconfig) -> None:
    kubeconfig.save(config)
