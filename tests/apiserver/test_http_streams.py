"""Logs, shells and proxies: what goes in at one end comes out at the other."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from http_serving import Served, eventually, pod, serving

from k8slite.roles.apiserver.backends import proxyable
from k8slite.roles.apiserver.streams import relocated

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"


class Backend:
    """An HTTP server that tells what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.ended = asyncio.Event()
        self.release = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self.shell(request)
        if request.path == "/follow":
            return await self.follow(request)
        if request.path.startswith("/containerLogs/default/web/"):
            return web.Response(text=f"line\n{request.query_string}\n")
        if request.path.startswith("/containerLogs"):
            status = {"kind": "Status", "message": "no such container", "reason": "NotFound"}
            return web.json_response({**status, "code": 404}, status=404)
        if request.path == "/away":
            return web.Response(status=302, headers={"Location": f"http://{request.host}/here?x=1"})
        if request.path == "/brew":
            return web.Response(status=418, text="a teapot")
        body = await request.read()
        return web.json_response(
            {
                "method": request.method,
                "path": request.raw_path,
                "body": body.decode(),
                "headers": {name.lower(): value for name, value in request.headers.items()},
            }
        )

    async def follow(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        try:
            await self.release.wait()
            await response.write(b"second\n")
        finally:
            self.ended.set()
        return response

    async def shell(self, request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        await socket.send_bytes(b"\x01" + request.raw_path.encode())
        async for message in socket:
            if message.type is WSMsgType.BINARY and message.data == b"\x00exit":
                break
            await socket.send_bytes(b"\x01" + message.data[1:])
        await socket.close()
        return socket


@asynccontextmanager
async def listening(context: ssl.SSLContext | None = None) -> AsyncIterator[Backend]:
    backend = Backend()
    server = web.Server(backend.handle, handler_cancellation=True)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server, "127.0.0.1", 0, ssl=context)
    backend.port = listener.sockets[0].getsockname()[1]
    try:
        yield backend
    finally:
        listener.close()
        await server.shutdown(0.1)


@pytest.fixture
async def api(shared_data: Path) -> AsyncIterator[Served]:
    """The backends of these tests listen on loopback, which is not proxied to otherwise."""
    async with serving(shared_data) as served:
        served.server.dispatcher.backends.dialable = lambda address: True
        yield served


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with listening() as found:
        yield found


@pytest.fixture
async def node(api: Served) -> AsyncIterator[Backend]:
    """The node API behind the pod ``web``: it demands a certificate of the cluster."""
    context = api.server.pki.server_context("node")
    context.verify_mode = ssl.CERT_REQUIRED
    async with listening(context) as found:
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": found.port}},
        }
        await api.post("/api/v1/nodes", {"metadata": {"name": "n1"}})
        answer = await api.ask(
            "PATCH", "/api/v1/nodes/n1/status", {"status": status},
            headers={"Content-Type": "application/merge-patch+json"},
        )  # fmt: skip
        assert answer.status == 200, answer.body
        await running(api, "web")
        yield found


async def running(api: Served, name: str, port: int = 0) -> None:
    """A pod on node n1 with the address of loopback."""
    document = pod(name)
    if port:
        document["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": port}]
    document["spec"]["nodeName"] = "n1"
    assert (await api.post(PODS, document)).status == 201
    answer = await api.ask(
        "PATCH", f"{PODS}/{name}/status", {"status": {"podIP": "127.0.0.1"}},
        headers={"Content-Type": "application/merge-patch+json"},
    )  # fmt: skip
    assert answer.status == 200


# -- logs and shells --------------------------------------------------------------------------


async def test_logs_come_from_the_node(api: Served, node: Backend) -> None:
    answer = await api.get(f"{PODS}/web/log?tailLines=5&timestamps=true&pretty=true")
    assert (answer.status, answer.body) == (200, b"line\ntailLines=5&timestamps=true\n")
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_the_nodes_refusal_is_passed_on(api: Served, node: Backend) -> None:
    await running(api, "other")
    answer = await api.get(f"{PODS}/other/log")
    assert (answer.status, answer.json["message"]) == (404, "no such container")


async def test_logs_that_cannot_be_had(api: Served) -> None:
    await api.create_pod("web")
    answer = await api.get(f"{PODS}/web/log")
    assert (answer.status, answer.json["message"]) == (
        400,
        "pod web does not have a host assigned",
    )
    assert (await api.get(f"{PODS}/nobody/log")).status == 404
    assert (await api.get(f"{PODS}/web/log?container=other")).status == 400
    two = pod("two")
    two["spec"]["containers"].append({"name": "side", "image": "busybox"})
    await api.post(PODS, two)
    assert "choose one of: [main side]" in (await api.get(f"{PODS}/two/log")).json["message"]


async def test_a_node_that_does_not_answer_is_unavailable(api: Served, node: Backend) -> None:
    body = {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    await api.ask("PATCH", "/api/v1/nodes/n1/status", body, headers=headers)
    answer = await api.get(f"{PODS}/web/log")
    assert (answer.status, answer.json["reason"]) == (503, "ServiceUnavailable")


async def test_a_shell_is_passed_through(api: Served, node: Backend) -> None:
    url = api.url(f"{PODS}/web/exec?command=ls&command=-l&stdin=1&container=main")
    protocols = ("v5.channel.k8s.io", "v4.channel.k8s.io")
    async with api.session.ws_connect(url, protocols=protocols) as socket:
        assert socket.protocol == "v4.channel.k8s.io"
        path = (await socket.receive_bytes(timeout=10))[1:].decode()
        assert path == "/exec/default/web/main?command=ls&command=-l&stdin=1"
        await socket.send_bytes(b"\x00hello")
        assert await socket.receive_bytes(timeout=10) == b"\x01hello"
        await socket.send_bytes(b"\x00exit")
        assert (await socket.receive(timeout=10)).type is WSMsgType.CLOSE


async def test_shells_that_cannot_be_had(api: Served, node: Backend) -> None:
    path = f"{PODS}/web/exec?command=ls"
    assert (await api.get(path)).status == 400
    spdy = {"Upgrade": "SPDY/3.1", "Connection": "Upgrade"}
    answer = await api.ask("POST", path, headers=spdy)
    assert answer.status == 400
    assert "WebSocket" in answer.json["message"]
    for url in (f"{PODS}/web/exec", path):  # no command; a protocol that nobody speaks
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await api.session.ws_connect(api.url(url), protocols=("v1.channel.k8s.io",))
        assert error.value.status == 400


# -- proxies ----------------------------------------------------------------------------------


async def ask_pod(api: Served, backend: Backend, path: str, **options: Any) -> Any:
    await running(api, "web", backend.port)
    return await api.ask(options.pop("method", "GET"), f"{PODS}/{path}", **options)


@pytest.mark.parametrize("name", ["web", "web:http", "http:web:http", "web:{port}"])
async def test_a_pod_is_proxied_by_any_of_its_names(
    api: Served, backend: Backend, name: str
) -> None:
    path = f"{name.format(port=backend.port)}/proxy/a%20b/?c=d%2Fe"
    answer = await ask_pod(api, backend, path)
    assert (answer.status, answer.json["path"]) == (200, "/a%20b/?c=d%2Fe")


async def test_method_body_and_headers_pass_but_credentials_do_not(
    api: Served, backend: Backend
) -> None:
    headers = {"Authorization": "Bearer secret", "X-Own": "1", "Content-Type": "text/x"}
    answer = await ask_pod(
        api, backend, "web/proxy/in", method="PUT", body=b"payload", headers=headers
    )
    assert (answer.json["method"], answer.json["body"]) == ("PUT", "payload")
    passed = answer.json["headers"]
    assert (passed["x-own"], passed["content-type"]) == ("1", "text/x")
    assert "authorization" not in passed
    assert passed["x-forwarded-for"] == "127.0.0.1"


async def test_answers_pass_as_they_are(api: Served, backend: Backend) -> None:
    answer = await ask_pod(api, backend, "web/proxy/brew")
    assert (answer.status, answer.body) == (418, b"a teapot")


async def test_redirections_stay_behind_the_proxy(api: Served, backend: Backend) -> None:
    answer = await ask_pod(api, backend, "web/proxy/away", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, f"{PODS}/web/proxy/here?x=1")
    answer = await api.get(f"{PODS}/web/proxy?a=b", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (301, f"{PODS}/web/proxy/?a=b")


async def test_a_stream_flows_and_ends_with_its_client(api: Served, backend: Backend) -> None:
    await running(api, "web", backend.port)
    async with api.session.get(api.url(f"{PODS}/web/proxy/follow")) as response:
        assert await response.content.readline() == b"first\n"
    async with asyncio.timeout(10):
        await backend.ended.wait()
    await eventually(lambda: len(api.server.dispatcher.ongoing) == 0)


async def test_a_websocket_of_a_pod_is_proxied(api: Served, backend: Backend) -> None:
    await running(api, "web", backend.port)
    async with api.session.ws_connect(api.url(f"{PODS}/web/proxy/socket?a=b")) as socket:
        assert await socket.receive_bytes(timeout=10) == b"\x01/socket?a=b"


@pytest.mark.parametrize("name", ["web", "web:http", "web:80"])
async def test_a_service_is_proxied_to_its_endpoints(
    api: Served, backend: Backend, name: str
) -> None:
    spec = {"ports": [{"name": "http", "port": 80}]}
    assert (await api.post(SERVICES, {"metadata": {"name": "web"}, "spec": spec})).status == 201
    answer = await api.get(f"{SERVICES}/{name}/proxy/")
    assert answer.status == 503
    assert "no endpoints available" in answer.json["message"]
    subset = {
        "addresses": [{"ip": "10.9.9.9"}],
        "ports": [{"name": "http", "port": backend.port}],
    }
    body = {"metadata": {"name": "web"}, "subsets": [subset]}
    answer = await api.post("/api/v1/namespaces/default/endpoints", body)
    assert answer.status == 201, answer.body
    seen: list[str] = []

    def note(address: str) -> bool:
        seen.append(address)
        return False

    api.server.dispatcher.backends.dialable = note
    assert (await api.get(f"{SERVICES}/{name}/proxy/")).status == 400
    assert seen == ["10.9.9.9"]


async def test_the_node_api_is_proxied_with_our_certificate(api: Served, node: Backend) -> None:
    answer = await api.get("/api/v1/nodes/n1/proxy/pods")
    assert (answer.status, answer.json["path"]) == (200, "/pods")


async def test_what_cannot_be_proxied(api: Served, backend: Backend) -> None:
    answer = await ask_pod(api, backend, "web:1/proxy/")
    assert answer.status == 503
    assert (await api.get(f"{PODS}/web:nothing/proxy/")).status == 400
    assert (await api.get(f"{PODS}/ftp:web:1/proxy/")).status == 400
    await api.create_pod("pending")
    assert (await api.get(f"{PODS}/pending/proxy/")).status == 503


def test_the_proxy_does_not_dial_what_only_this_host_could_mean() -> None:
    assert proxyable("10.0.0.1")
    for address in ("127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "224.0.0.1", "name", ""):
        assert not proxyable(address)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/a", "/p/a"),
        ("http://10.0.0.1:80/a?b#c", "/p/a?b#c"),
        ("http://10.0.0.1:80", "/p/"),
        ("http://elsewhere/a", "http://elsewhere/a"),
        ("next", "next"),
    ],
)
def test_where_a_redirection_leads(location: str, expected: str) -> None:
    assert relocated(location, "http://10.0.0.1:80", "/p") == expected
