"""One call of ``k8slite ctl``: what was asked, the way to the server, and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from k8slite.api.errors import ApiError, BadRequest
from k8slite.client import kubeconfig
from k8slite.client.kubeconfig import Wanted
from k8slite.kit.clock import Clock

if TYPE_CHECKING:
    from k8slite.client.http import Answer, HttpClient


@dataclass(frozen=True, slots=True)
class Globals:
    """The flags that every command takes."""

    wanted: Wanted = field(default_factory=Wanted)
    kubeconfig: str = ""
    api_version: str = ""
    validate: str = ""


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
