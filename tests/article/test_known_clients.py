"""A client from another machine, a real Docker, and nginx's own log: who asked?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.lab.docker_host import DockerHost
from tests.lab.network import Namespace, Switch
from tests.lab.site import ADDRESS, ROOT, Site, build_images

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

CLIENT = "192.168.0.50"
EXAMPLE = ROOT / "examples" / "client-address" / "nginx.yaml"

PLAIN = """
apiVersion: v1
kind: Pod
metadata: {name: plain, labels: {name: plain}}
spec:
  containers:
  - {name: nginx, image: nginx, imagePullPolicy: IfNotPresent, ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain, annotations: {k8slite.io/client-address: transparent}}
spec: {selector: {name: plain}, ports: [{port: 80}]}
"""


@dataclass
class Place:
    site: Site
    client: Namespace

    def ask(self, service: str) -> str:
        """What the client hears at the service's address, once somebody is there."""
        address = self.site.ctl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
        retry = ("--retry", "30", "--retry-all-errors", "--retry-delay", "1", "--max-time", "30")
        return self.client.run("curl", "-fsS", *retry, f"http://{address.strip()}/")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("clients")
    with Switch() as switch, Namespace("host") as host, Namespace("client") as client:
        switch.connect(host, f"{ADDRESS}/24")
        switch.connect(client, f"{CLIENT}/24")
        client.ip("route", "add", "192.168.3.0/24", "via", ADDRESS)
        with DockerHost(host, folder / "docker") as docker:
            build_images(docker.url)
            site = Site(host, docker, folder)
            before = state(host)
            site.up()
            try:
                yield Place(site, client)
            finally:
                site.down()
            assert state(host) == before


def state(host: Namespace) -> tuple[str, ...]:
    routes = host.ip("-4", "route", "show", "table", "all")
    return host.run("nft", "-s", "list", "ruleset"), host.ip("rule"), routes


def test_the_example_tells_clients_who_they_are(place: Place, tmp_path: Path) -> None:
    site = place.site
    site.ctl("create", "-f", str(EXAMPLE))
    assert place.ask("whoami") == f"you are {CLIENT}\n"
    assert f"{CLIENT}:" in site.ctl("log", "whoami")


def test_an_nginx_that_knows_nothing_logs_the_client_of_a_transparent_service(
    place: Place, tmp_path: Path
) -> None:
    manifest = tmp_path / "plain.yaml"
    manifest.write_text(PLAIN)
    place.site.ctl("create", "-f", str(manifest))
    assert "Welcome to nginx!" in place.ask("plain")
    assert f"\n{CLIENT} - - " in place.site.ctl("log", "plain")
