"""``cluster-info``, ``version``, ``api-versions``: about the server itself."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from k8slite import __version__
from k8slite.api.kinds import SERVICE
from k8slite.cli.ctl.call import Call


async def cluster_info(call: Call) -> None:
    """Say where the master and the cluster's own services are."""
    labels = "kubernetes.io/cluster-service=true"
    services = (await call.client.list(SERVICE, labels=labels)).items
    call.say(f"Kubernetes master is running at {call.access.url}")
    for service in services:
        meta = service.metadata
        name = meta.label("kubernetes.io/name", meta.name)
        path = f"/api/v1/namespaces/{quote(meta.namespace)}/services/{quote(meta.name)}/proxy/"
        call.say(f"{name} is running at {call.access.url}{path}")


async def version(
    call: Call,
    client: Annotated[bool, typer.Option("--client", "-c", help="Of this program alone.")] = False,
) -> None:
    """Say the versions of this program and of the server."""
    call.say(f"Client Version: v{__version__}")
    if not client:
        raw: dict[str, Any] = (await call.client.request("GET", "/version")).json()
        call.say(f"Server Version: {raw.get('gitVersion', '<unknown>')}")


async def api_versions(call: Call) -> None:
    """List the versions of the API that the server speaks."""
    core: dict[str, Any] = (await call.client.request("GET", "/api")).json()
    named: dict[str, Any] = (await call.client.request("GET", "/apis")).json()
    groups = named.get("groups") or ()
    found = [entry["groupVersion"] for group in groups for entry in group["versions"]]
    call.write("".join(f"{version}\n" for version in sorted([*found, *core["versions"]])))
