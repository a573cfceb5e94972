"""Every command of ``k8slite ctl``, by its names."""

from __future__ import annotations

import typer

from k8slite.cli.ctl import (
    containers,
    draining,
    information,
    marking,
    reading,
    removing,
    rollout,
    running,
    settings,
    top,
    use,
    writing,
)
from k8slite.cli.ctl.command import command, declare

app = typer.Typer(
    name="ctl",
    help="The command line of a cluster: see, make and change what runs there.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
declare(app)

command(app, "get")(reading.get)
command(app, "describe")(reading.show_description)
command(app, "create")(writing.create)
command(app, "apply")(writing.apply)
command(app, "replace", "update")(writing.replace)
command(app, "delete")(removing.delete)
command(app, "stop")(removing.stop)
command(app, "run-container", "run")(running.run_container)
command(app, "expose")(running.expose)
command(app, "scale", "resize")(running.scale)
command(app, "rolling-update")(rollout.rolling_update)
command(app, "label")(marking.label)
command(app, "annotate")(marking.annotate)
command(app, "cordon")(marking.cordon)
command(app, "uncordon")(marking.uncordon)
command(app, "drain")(draining.drain)
command(app, "logs", "log")(containers.logs)
command(app, "exec")(containers.execute)
command(app, "cluster-info")(information.cluster_info)
command(app, "version")(information.version)
command(app, "api-versions")(information.api_versions)
command(top.app, "services", "service", "svc")(top.services)
command(top.app, "pods", "pod", "po")(use.pods)
command(top.app, "nodes", "node", "no")(use.nodes)
app.add_typer(top.app, name="top")
app.add_typer(settings.app, name="config")
