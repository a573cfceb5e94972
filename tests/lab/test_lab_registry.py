"""A site without the Internet has a registry of its own."""

from __future__ import annotations

import pytest
from tests.lab.lab import Lab
from tests.lab.registry import Registry

pytestmark = [pytest.mark.lab, pytest.mark.docker]


def test_an_engine_that_is_told_so_pulls_from_conf(machines: Lab) -> None:
    node = machines["node3"]
    registry = Registry(machines.conf)
    registry.start()
    image = registry.push(machines["node2"], "nginx:latest")
    assert image == "conf:5000/nginx:latest"
    with pytest.raises(AssertionError, match="HTTP response to HTTPS client"):
        node.docker("pull", image)
    node.path("/etc/default/docker").write_text('DOCKER_OPTS="--insecure-registry=conf:5000"\n')
    node.restart_docker()
    node.docker("pull", image)
    command = node.docker("inspect", "--format", "{{.Config.Cmd}}", image)
    assert command == "[nginx -g daemon off;]"
    node.docker("rmi", image)
    node.path("/etc/default/docker").write_text("# DOCKER_OPTS=\n")
    node.restart_docker()
