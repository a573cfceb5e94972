"""``k8slite agent``."""

from __future__ import annotations

import typer

from k8slite.config import Settings


def agent(settings: Settings) -> None:
    """Run this host's part of a cluster until it is stopped."""
    from k8slite import agent as composition

    raise typer.Exit(composition.main(settings))
