"""No request gives a 5xx, stalls the loop or takes the server down."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

import pytest
from http_serving import Served, eventually, pod, serving

#: More rounds by hand: FUZZ_ROUNDS=100 pytest …
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "6"))
REQUESTS = 250

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "WEIRD", "get")
WORDS = (
    "api", "apis", "v1", "v1beta3", "watch", "proxy", "namespaces", "default", "pods", "services",
    "nodes", "minions", "secrets", "events", "replicationcontrollers", "endpoints", "bindings",
    "componentstatuses", "web", "web:http", "https:web:443", "status", "binding", "log", "exec",
    "scale", "finalize", "healthz", "version", "metrics", "", "..", "%2e%2e", "%00", "%ff", "%zz",
    "a" * 300, "ü", "kubernetes", "autoscaling",
)  # fmt: skip
PARAMETERS = (
    "watch", "watch=1", "watch=maybe", "limit=1", "limit=-1", "limit=99999999999999999999",
    "continue=abc", "continue=eyJydiI6MSwic3RhcnQiOiIifQ", "resourceVersion=0",
    "resourceVersion=1", "resourceVersion=x", "resourceVersionMatch=Exact",
    "resourceVersionMatch=NotOlderThan", "sendInitialEvents=true", "allowWatchBookmarks=true",
    "labelSelector=a%3Db", "labelSelector=%21%21", "labelSelector=a%20in%20%28", "timeoutSeconds=1",
    "fieldSelector=metadata.name%3Dweb", "fieldSelector=x", "pretty=true", "dryRun=All",
    "dryRun=None", "fieldValidation=Strict", "gracePeriodSeconds=-1", "gracePeriodSeconds=5",
    "propagationPolicy=Orphan", "container=x", "command=sh", "follow=true", "%FF=%FF",
)  # fmt: skip
HEADERS = (
    "Content-Type: application/json", "Content-Type: application/yaml", "Content-Type: text/html",
    "Content-Type: application/merge-patch+json", "Content-Type: application/json-patch+json",
    "Content-Type: application/strategic-merge-patch+json", "Content-Type: \xff",
    "Accept: application/json;as=Table;v=v1;g=meta.k8s.io", "Accept: text/html", "Accept: \xfe;;=",
    "Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "Accept: application/vnd.kubernetes.protobuf", "Content-Encoding: gzip", "Expect: 100-continue",
    "Upgrade: websocket\r\nConnection: Upgrade", "Upgrade: SPDY/3.1\r\nConnection: Upgrade",
    "Transfer-Encoding: chunked", "Content-Length: 5", "Content-Length: -1", "Content-Length: 9999",
    "Authorization: Bearer x", "Origin: http://evil.example", "Host: evil.example", "Range: x",
    "Connection: close", "X: " + "y" * 9000, "\x00: \x00", "Impersonate-User: root",
)  # fmt: skip
PATHS = (
    "/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/pods/web", "/api/v1/pods",
    "/api/v1/namespaces/default/pods/web/status", "/api/v1/namespaces/default/pods/web/binding",
    "/api/v1/namespaces/default/bindings", "/api/v1/namespaces/default/services",
    "/api/v1beta3/namespaces/default/pods", "/api/v1/namespaces/default",
    "/api/v1/namespaces/default/replicationcontrollers/rc/scale", "/api/v1/namespaces/x/finalize",
    "/api/v1/watch/namespaces/default/pods", "/api/v1beta3/watch/nodes", "/api/v1/nodes",
)  # fmt: skip


class Maker:
    """Requests that are nearly right."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def path(self) -> str:
        chance = self.random
        if chance.random() < 0.6:
            path = chance.choice(PATHS)
        else:
            path = "/" + "/".join(chance.choices(WORDS, k=chance.randint(0, 8)))
        parameters = chance.choices(PARAMETERS, k=chance.randint(0, 3))
        return path + ("?" + "&".join(parameters) if parameters else "")

    def value(self, depth: int = 0) -> object:
        chance = self.random
        scalars = (
            None,
            True,
            -1,
            1.5,
            1e999,
            2**70,
            "",
            "web",
            "default",
            "\ud800",
            "a" * 300,
            [],
            {},
        )
        if depth > 4 or chance.random() < 0.5:
            return chance.choice(scalars)
        if chance.random() < 0.3:
            return [self.value(depth + 1) for _ in range(chance.randint(0, 3))]
        keys = (
            "metadata", "spec", "status", "name", "namespace", "labels", "containers", "ports",
            "kind", "apiVersion", "template", "replicas", "selector", "op", "path", "value",
            "target", "$patch", "finalizers", "resourceVersion", "targetPort", "image", "ü",
        )  # fmt: skip
        return {key: self.value(depth + 1) for key in chance.choices(keys, k=chance.randint(0, 4))}

    def mutated(self) -> object:
        """A good pod with one thing in it replaced."""
        document: object = pod(self.random.choice(("web", "other", "", "BAD NAME")))
        place = document
        for _ in range(self.random.randint(0, 4)):
            if isinstance(place, dict) and place:
                key: object = self.random.choice(list(place))
            elif isinstance(place, list) and place:
                key = self.random.randrange(len(place))
            else:
                break
            inner = place[key]  # type: ignore[index]
            if self.random.random() < 0.3 or not isinstance(inner, dict | list):
                place[key] = self.value()  # type: ignore[index]
                break
            place = inner
        return document

    def body(self) -> bytes:
        chance = self.random
        kind = chance.random()
        if kind < 0.3:
            return b""
        if kind < 0.6:
            return json.dumps(self.mutated()).encode()
        if kind < 0.8:
            return json.dumps(self.value()).encode()
        if kind < 0.9:
            return chance.randbytes(chance.randint(1, 200))
        return chance.choice((
            b"[" * 100_000, b'{"a":' * 50_000, b"a: &a [*a]", b"\xff\xfe", b"{", b"null", b"[null]",
            b"a: b: c", b"- - - -\n" * 1000, b"&a [" + b"*a," * 100, b'{"metadata":{"name":null}}',
        ))  # fmt: skip

    def request(self) -> bytes:
        body = self.body()
        headers = self.random.choices(HEADERS, k=self.random.randint(0, 3))
        if not any(header.startswith("Host") for header in headers):
            headers.append("Host: localhost")
        if body and not any(header.startswith(("Content-L", "Transfer")) for header in headers):
            headers.append(f"Content-Length: {len(body)}")
        line = f"{self.random.choice(METHODS)} {self.path()} HTTP/1.{self.random.choice('0111')}"
        head = "\r\n".join((line, *headers, "", ""))
        request = (
            head.encode("utf-8" if self.random.random() < 0.9 else "latin-1", "replace") + body
        )
        if self.random.random() < 0.05:
            request = request[: self.random.randint(1, len(request))]
        if self.random.random() < 0.05:
            place = self.random.randrange(len(request))
            request = request[:place] + self.random.randbytes(3) + request[place:]
        return request


async def send(port: int, request: bytes) -> bytes:
    """What came back within a moment; the connection is then cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(0.25):
            return await reader.read(4096)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        writer.transport.abort()


@pytest.fixture
async def api(shared_data: Path) -> object:
    async with serving(shared_data) as served:
        await served.create_pod("web")
        yield served


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("door", ["insecure", "read-only"])
async def test_no_request_is_the_servers_fault(api: Served, door: str, seed: int) -> None:
    maker = Maker(seed)
    limit = asyncio.Semaphore(32)

    async def check(request: bytes) -> None:
        async with limit:
            answer = await send(api.server.ports[door], request)
        # 502 to 504 speak of the other end of a stream, or of a version that is still to come.
        status = answer[9:12]
        assert not status.startswith(b"50") or status in (b"503", b"504"), (request[:500], answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(REQUESTS):
            group.create_task(check(maker.request()))
    assert (await api.get("/api/v1/namespaces/default/pods?limit=1")).status == 200
    # The streams of clients who left end by themselves.
    await eventually(lambda: len(api.server.dispatcher.ongoing) == 0)
