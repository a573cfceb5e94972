"""Flags and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from k8slite.cli.ctl import completion

Resources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TYPE[/NAME]",
        help="What: pods,rc or rc nginx or pod/a svc/b.",
        show_default=False,
        autocompletion=completion.resources,
    ),
]
Filename = Annotated[
    list[str] | None,
    typer.Option("--filename", "-f", help="File, folder, or - for standard input (repeatable)."),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-R", help="Folders: what is below them too.")
]
Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", help="json, yaml, name, wide, jsonpath=…, custom-columns=…",
        metavar="FORMAT",
    ),
]  # fmt: skip
Selector = Annotated[
    str, typer.Option("--selector", "-l", help="Labels to select by: a=b,c!=d,e in (f,g).")
]
FieldSelector = Annotated[
    str, typer.Option("--field-selector", help="Fields to select by: status.phase=Running.")
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="In every namespace.")]
NoHeaders = Annotated[bool, typer.Option("--no-headers", help="No line of titles.")]
DryRun = Annotated[
    str,
    typer.Option(
        "--dry-run", metavar="[client|server]", help="Only show what would be sent, or done."
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait; 0: without end.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace values that are there.")]
All = Annotated[bool, typer.Option("--all", help="Every object of the type.")]
Ignored = Annotated[bool, typer.Option(hidden=True)]
