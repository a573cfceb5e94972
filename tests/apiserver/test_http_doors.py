"""Who may come in through which door, and as whom."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from http_serving import Served, pod, serving
from tests.lab.docker_host import inside
from tests.lab.network import Namespace

from k8slite.kit.clock import Clock
from k8slite.pki.files import Pki
from k8slite.roles.apiserver import doors
from k8slite.roles.apiserver.auth import parse_tokens, user_of_certificate
from k8slite.roles.apiserver.server import PortInUse

PODS = "/api/v1/namespaces/default/pods"


def test_the_kernel_knows_the_hosts_own_addresses() -> None:
    for address in ("127.0.0.1", "127.8.9.1", "::1", *doors.own_addresses()):
        assert doors.is_own(address), address
    for address in ("203.0.113.7", "2001:db8::1", "0.0.0.0", "", "localhost"):
        assert not doors.is_own(address), address


def test_a_host_that_may_bind_anything_still_knows_what_is_its_own() -> None:
    """Keepalived and its like set ip_nonlocal_bind; nobody becomes this host by that."""
    with Namespace("binds") as site:
        site.ip("addr", "add", "192.168.0.10/24", "dev", "lo")
        site.ip("route", "add", "default", "dev", "lo")
        site.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind")
        with inside(site):
            assert doors.is_own("192.168.0.10")
            assert not doors.is_own("203.0.113.7")


@pytest.mark.parametrize("door", ["insecure", "read-only"])
async def test_a_stranger_gets_one_line_and_the_end(
    api: Served, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    monkeypatch.setattr(doors, "is_own", lambda address: False)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.ports[door])
    writer.write(b"GET /api HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 403 ")
    line = answer.partition(b"\r\n\r\n")[2]
    assert line.count(b"\n") == 1
    assert b"127.0.0.1 is not welcome" in line
    writer.close()


async def test_a_stranger_may_be_allowed_by_network(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "is_own", lambda address: False)
    async with serving(shared_data, insecure_allow=("127.0.0.0/8",)) as api:
        assert (await api.get("/healthz")).status == 200
        with pytest.raises(AssertionError):
            assert (await api.get("/healthz", door="read-only")).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "192.168.7.10"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "kubernetes.default.svc.cluster.local"}, 200),
        ({"Host": "rebound.example.com"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ],
)
@pytest.mark.parametrize("door", ["insecure", "read-only"])
async def test_a_browser_does_nobody_elses_bidding(
    api: Served, door: str, headers: dict[str, str], status: int
) -> None:
    assert (await api.get("/api", door=door, headers=headers)).status == status


# -- read-only ------------------------------------------------------------------------------------


async def test_the_read_only_door_reads(api: Served) -> None:
    await api.create_pod("web")
    assert (await api.get(f"{PODS}/web", door="read-only")).status == 200
    assert (await api.get("/api/v1/pods", door="read-only")).status == 200
    assert (await api.ask("HEAD", "/api/v1/pods", door="read-only")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", PODS, 405),
        ("PUT", f"{PODS}/web", 405),
        ("PATCH", f"{PODS}/web", 405),
        ("DELETE", f"{PODS}/web", 405),
        ("GET", "/api/v1/secrets", 403),
        ("GET", "/api/v1/namespaces/default/secrets/s", 403),
        ("GET", "/api/v1/secrets?watch=1", 403),
        ("GET", "/api/v1/watch/secrets", 403),
        ("GET", "/api/v1beta3/namespaces/default/secrets", 403),
        ("GET", f"{PODS}/web/log", 403),
        ("GET", f"{PODS}/web/exec?command=sh", 403),
        ("GET", f"{PODS}/web/proxy/", 403),
        ("GET", "/api/v1/proxy/namespaces/default/pods/web/", 403),
        ("GET", "/api/v1/nodes/n/proxy/", 403),
    ],
)
async def test_the_read_only_door_does_nothing_else(
    api: Served, method: str, path: str, status: int
) -> None:
    body = pod("web") if method in ("POST", "PUT", "PATCH") else None
    answer = await api.ask(method, path, body, door="read-only")
    assert (answer.status, answer.json["code"]) == (status, status)


async def test_no_form_of_a_secret_passes_the_read_only_door(api: Served) -> None:
    for accept in (
        "as=Table;v=v1;g=meta.k8s.io",
        "as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    ):
        headers = {"Accept": f"application/json;{accept}"}
        assert (await api.get("/api/v1/secrets", door="read-only", headers=headers)).status == 403


# -- secure ---------------------------------------------------------------------------------------


class Secure:
    """A client of the secure door."""

    def __init__(self, api: Served, **tls: Any) -> None:
        self.api = api
        self.pki = api.server.pki
        self.context = ssl.create_default_context(cafile=str(self.pki.certificate("ca")))
        if tls.get("certificate"):
            name = tls["certificate"]
            self.context.load_cert_chain(self.pki.certificate(name), self.pki.key(name))

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        url = f"https://127.0.0.1:{self.api.server.ports['secure']}{path}"
        async with self.api.session.get(url, ssl=self.context, headers=headers) as response:
            body = await response.read()
            return response.status, json.loads(body) if body[:1] in b"{[" else body


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version", "/healthz/ping"])
async def test_anybody_may_ask_how_it_is(api: Served, path: str) -> None:
    assert (await Secure(api).get(path))[0] == 200


@pytest.mark.parametrize("path", ["/", "/api", "/metrics", PODS, "/nothing", "/api/v1/horses"])
async def test_everything_else_asks_who_you_are(api: Served, path: str) -> None:
    status, body = await Secure(api).get(path)
    assert (status, body["reason"], body["message"]) == (401, "Unauthorized", "Unauthorized")
    assert (await Secure(api).get(path, Authorization="Bearer wrong"))[0] == 401
    assert (await Secure(api).get(path, Authorization="Basic YTpi"))[0] == 401


async def test_wrong_credentials_are_not_nobody(api: Served) -> None:
    assert (await Secure(api).get("/healthz", Authorization="Bearer wrong"))[0] == 401


async def test_the_admin_token_opens(api: Served) -> None:
    token = api.server.pki.admin_token.read_text().strip()
    assert (await Secure(api).get(PODS, Authorization=f"Bearer {token}"))[0] == 200


async def test_a_token_may_be_added_while_the_server_runs(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        digest = hashlib.sha256(b"letmein").hexdigest()
        api.server.pki.tokens.write_text(f'sha256:{digest},ann,1,"dev,ops"\nplain,bob\nbroken\n')
        assert (await Secure(api).get(PODS, Authorization="Bearer letmein"))[0] == 200
        assert (await Secure(api).get(PODS, Authorization="Bearer plain"))[0] == 200
        assert (await Secure(api).get(PODS, Authorization="Bearer broken"))[0] == 401


@pytest.mark.parametrize("name", ["admin", "apiserver"])
async def test_a_certificate_of_the_cluster_opens(api: Served, name: str) -> None:
    assert (await Secure(api, certificate=name).get(PODS))[0] == 200


async def test_a_nodes_certificate_opens_nothing_without_its_node(api: Served) -> None:
    assert (await Secure(api, certificate="node").get(PODS))[0] == 401


async def test_a_certificate_of_somebody_else_opens_nothing(api: Served, tmp_path: Path) -> None:
    other = Pki(tmp_path, Clock())
    other.ensure(["127.0.0.1"])
    client = Secure(api)
    client.context.load_cert_chain(other.certificate("admin"), other.key("admin"))
    with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
        await client.get(PODS)
    assert (await Secure(api).get("/healthz"))[0] == 200


async def test_the_kubeconfig_is_all_that_a_client_needs(api: Served) -> None:
    path = api.server.pki.kubeconfig
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = yaml.safe_load(path.read_text())
    assert config["current-context"] == config["contexts"][0]["name"]
    assert config["clusters"][0]["cluster"]["server"].startswith("https://127.0.0.1:")
    assert {"client-certificate-data", "client-key-data"} <= set(config["users"][0]["user"])


def test_tokens_are_lines_of_a_table() -> None:
    lines = ["# a comment", "", 'secret,ann,1,"dev,ops"', "sha256:zz,bob", ",carl", "x"]
    (user,) = parse_tokens(lines).values()
    assert (user.name, user.groups) == ("ann", ("dev", "ops", "system:authenticated"))


def test_a_certificate_names_a_user_and_groups() -> None:
    subject = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "c"),))
    user = user_of_certificate({"subject": subject})
    assert user is not None
    assert (user.name, user.groups) == ("c", ("a", "b", "system:authenticated"))
    assert user_of_certificate({"subject": ()}) is None


# -- ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["port", "secure_port", "read_only_port"])
async def test_a_port_in_use_is_named_with_the_way_out(shared_data: Path, setting: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(PortInUse) as error:
            async with serving(shared_data, **{setting: number}):
                pass
    line = str(error.value)
    assert f"port {number} " in line
    assert f"--{setting.replace('_', '-')}" in line
    assert "\n" not in line
