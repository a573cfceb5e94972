"""What clients send that cannot be: the code, the field path, and nothing half done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "apiserver"))

from http_serving import Answer, Served, pod, serving

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
RCS = "/api/v1/namespaces/default/replicationcontrollers"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, portal_net="192.168.3.0/29") as running:
        yield running


def refused(answer: Answer, code: int, *said: str) -> None:
    """A Status with the code, in one line that says everything of ``said``."""
    status = answer.json
    assert answer.status == code == status["code"], status
    assert status["kind"] == "Status"
    assert status["status"] == "Failure"
    assert "\n" not in status["message"]
    for words in said:
        assert words in status["message"]


async def names(served: Served, path: str) -> list[str]:
    return [item["metadata"]["name"] for item in (await served.get(path)).json["items"]]


def service(name: str, *ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    body = {"selector": {"app": "x"}, "ports": list(ports) or [{"port": 80}], **spec}
    return {"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": body}


def controller(**spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "c"}}, "spec": pod("x")["spec"]}
    body = {"replicas": 1, "selector": {"a": "b"}, "template": template, **spec}
    meta = {"name": "x"}
    return {"kind": "ReplicationController", "apiVersion": "v1", "metadata": meta, "spec": body}


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"", 400, "body"),
        (b'{"kind":"Pod",', 400, "malformed JSON"),
        (b"\xff\xfe{}", 400, "malformed JSON"),
        (b"[" * 20_000, 400, "nests too deeply"),
        (b'"text"', 400, "expected an object, got a string"),
        (b"[]", 400, "expected an object, got a list"),
        ({**pod("x"), "kind": "Podd"}, 400, "Podd"),
        ({**pod("x"), "apiVersion": "v9"}, 400, "v9"),
        ({**pod("x"), "spec": 5}, 400, "spec: expected an object, got an integer"),
        ({**pod("x"), "spec": {"containers": {}}}, 400, "spec.containers: expected a list"),
        (pod("x" * 300), 422, "metadata.name"),
        (pod("../../etc"), 422, "metadata.name"),
        (pod("x", labels={"Größe": "1"}), 422, "metadata.labels"),
        (pod("x", labels={"a": "y" * 70}), 422, "metadata.labels"),
        (pod("x", annotations={"a": "y" * 300_000}), 422, "metadata.annotations"),
    ],
)
async def test_a_pod_that_cannot_be_is_refused_with_its_path(
    served: Served, body: Any, code: int, said: str
) -> None:
    refused(await served.post(PODS, body), code, said)
    assert await names(served, PODS) == []


async def test_malformed_yaml_says_where_and_an_unknown_form_says_what_is_known(
    served: Served,
) -> None:
    yaml = {"Content-Type": "application/yaml"}
    broken = b"kind: Pod\n  metadata: [x\n"
    refused(await served.post(PODS, broken, headers=yaml), 400, "malformed YAML: line 2")
    bomb = b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n".encode()
    refused(await served.post(PODS, bomb, headers=yaml), 400, "aliases add more than")
    form = {"Content-Type": "text/csv"}
    refused(await served.post(PODS, b"a,b", headers=form), 415, "text/csv")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (service("x", {"port": 80, "name": "a"}, {"port": 80, "name": "b"}), "spec.ports[1].port"),
        (service("x", {"port": 80, "name": "a"}, {"port": 81, "name": "a"}), "spec.ports[1].name"),
        (service("x", {"port": 80}, {"port": 81}), "spec.ports[0].name"),
        (service("x", {"port": 99999}), "spec.ports[0].port"),
        (service("x", {"port": 8000, "targetPort": "80 порт"}), "spec.ports[0].targetPort"),
        (service("x", clusterIP="10.0.0.1"), "spec.clusterIP"),
        (service("x", clusterIP="192.168.3.1"), "spec.clusterIP"),
        (service("x", clusterIP="192.168.3.0"), "spec.clusterIP"),
        (service("x", clusterIP="portal"), "spec.clusterIP"),
    ],
)
async def test_a_service_that_cannot_be_is_refused_with_its_path(
    served: Served, body: dict[str, Any], path: str
) -> None:
    refused(await served.post(SERVICES, body), 422, f"{path}: ")
    assert await names(served, SERVICES) == []


async def test_a_portal_ip_is_given_once_and_the_last_is_not_lost(served: Served) -> None:
    taken = await served.post(SERVICES, service("first", clusterIP="192.168.3.3"))
    assert taken.status == 201
    again = await served.post(SERVICES, service("second", clusterIP="192.168.3.3"))
    refused(again, 422, "spec.clusterIP", '"192.168.3.3" is taken')
    made = ["first"]
    while (answer := await served.post(SERVICES, service(f"s{len(made)}"))).status == 201:
        made.append(f"s{len(made)}")
    refused(answer, 422, "spec.clusterIP", "no address is free in the portal net 192.168.3.0/29")
    assert sorted(await names(served, SERVICES)) == sorted(made)
    assert (await served.ask("DELETE", f"{SERVICES}/first")).status == 200
    assert (await served.post(SERVICES, service("after"))).json["spec"]["clusterIP"] == (
        "192.168.3.3"
    )


async def test_a_controller_whose_selector_misses_its_template_is_refused(served: Served) -> None:
    refused(await served.post(RCS, controller()), 422, "spec.template.metadata.labels", "a=b")
    ok = controller(selector={"a": "c"})
    refused(await served.post(RCS, {**ok, "spec": {**ok["spec"], "replicas": -1}}), 422,
            "spec.replicas: -1")  # fmt: skip
    assert (await served.post(RCS, ok)).status == 201
    scale = {"kind": "Scale", "apiVersion": "v1", "metadata": {"name": "x"}}
    for replicas, code in ((-1, 422), ("three", 400), (99_999_999_999, 422)):
        body = {**scale, "spec": {"replicas": replicas}}
        answer = await served.ask("PUT", f"{RCS}/x/scale", body)
        refused(answer, code, "spec.replicas")
    assert (await served.get(f"{RCS}/x")).json["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    "query",
    [
        "watch=1&resourceVersion=abc", "watch=1&resourceVersion=-5", "watch=1&timeoutSeconds=x",
        "watch=1&timeoutSeconds=-1", "limit=x", "limit=-1", "continue=junk",
        "labelSelector=a%20in", "labelSelector=%3D%3D", "fieldSelector=no.such%3D1", "watch=maybe",
    ],
)  # fmt: skip
async def test_absurd_parameters_are_400_at_once(served: Served, query: str) -> None:
    async with asyncio.timeout(5):
        answer = await served.get(f"{PODS}?{query}")
    refused(answer, 400)


async def test_absurd_but_lawful_parameters_are_served(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8slite.roles.apiserver.watching.FUTURE_WAIT", 0.01)
    async with asyncio.timeout(30):
        future = await served.get(f"{PODS}?watch=1&resourceVersion=99999999999&timeoutSeconds=1")
        assert future.status in (200, 410, 504)
        assert (await served.get(f"{PODS}?limit=99999999999999999999")).status in (200, 400)


@pytest.mark.parametrize(
    "namespace", ["api", "watch", "namespaces", "proxy", "default.x", "status", "pods"]
)
async def test_names_of_paths_are_good_names_of_objects(served: Served, namespace: str) -> None:
    if "." not in namespace:
        path = f"/api/v1/namespaces/{namespace}/pods"
        assert (await served.post(path, pod(namespace))).status == 201
        assert (await served.get(f"{path}/{namespace}")).json["metadata"]["name"] == namespace
        assert (await served.get(f"/api/v1/watch/namespaces/{namespace}/pods?timeoutSeconds=1"))\
            .status == 200  # fmt: skip
    else:
        path = f"/api/v1/namespaces/{namespace}/pods"
        assert (await served.post(path, pod("x"))).status in (400, 404, 422)
    for strange in ("..", "%2e%2e", "a%2Fb", "A%20B", "%00"):
        answer = await served.post(f"/api/v1/namespaces/{strange}/pods", pod("x"))
        assert answer.status in (400, 404, 422), answer.body


async def test_of_concurrent_creates_of_one_name_exactly_one_wins(served: Served) -> None:
    answers = await asyncio.gather(*(served.post(PODS, pod("one")) for _ in range(50)))
    codes = sorted(answer.status for answer in answers)
    assert codes == [201] + [409] * 49
    refused(next(a for a in answers if a.status == 409), 409, "pods", '"one"', "already exists")


async def test_creates_and_deletes_that_cross_leave_what_was_last_acknowledged(
    served: Served,
) -> None:
    async def turn(method: str) -> int:
        if method == "POST":
            return (await served.post(PODS, pod("one"))).status
        return (await served.ask("DELETE", f"{PODS}/one?gracePeriodSeconds=0")).status

    codes = await asyncio.gather(*(turn("POST" if n % 2 else "DELETE") for n in range(60)))
    assert set(codes) <= {200, 201, 404, 409}
    there = len(await names(served, PODS))
    assert codes.count(201) - codes.count(200) == there


async def test_ten_thousand_objects_are_listed_whole_while_the_server_answers_others(
    served: Served,
) -> None:
    from k8slite.api.kinds import CONFIG_MAP
    from k8slite.api.user import ANONYMOUS

    kind = CONFIG_MAP
    for start in range(0, 10_000, 500):
        await asyncio.gather(
            *(
                served.registry.create(
                    kind,
                    kind.type(metadata=_meta(f"c{start + n:05}")),
                    user=ANONYMOUS,
                )
                for n in range(500)
            )
        )
    path = "/api/v1/namespaces/default/configmaps"
    whole, version = await asyncio.gather(served.get(path), served.get("/version"))
    assert version.status == 200
    assert len(whole.json["items"]) == 10_000
    pages, token = 0, ""
    seen: list[str] = []
    while True:
        page = (await served.get(f"{path}?limit=3000&continue={token}")).json
        seen += [item["metadata"]["name"] for item in page["items"]]
        pages += 1
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert pages == 4
    assert seen == sorted(set(seen))
    assert len(seen) == 10_000


def _meta(name: str) -> Any:
    from k8slite.api.meta import ObjectMeta

    return ObjectMeta(name=name, namespace="default")


@pytest.fixture
def descriptors() -> Iterator[int]:
    """As many as this process may have, for the length of a test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_that_say_nothing_or_half_of_it_hold_nobody_up(
    descriptors: int, served: Served
) -> None:
    """2,000 idle connections (fewer where both of their ends, which are here, would be too many),
    slow headers, half a body, a half-closed socket."""
    idle = min(2000, (descriptors - 500) // 2)
    port = served.server.ports["insecure"]
    writers: list[asyncio.StreamWriter] = []

    async def dial(words: bytes = b"") -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(words)
        return reader

    try:
        for start in range(0, idle, 100):
            await asyncio.gather(*(dial() for _ in range(min(100, idle - start))))
        await dial(b"GET /version HTTP/1.1\r\nHost: localhost\r\nX-Slow:")
        await dial(
            b"POST " + PODS.encode() + b" HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
        )
        half = await dial(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        writers[-1].write_eof()
        async with asyncio.timeout(10):
            await half.read()  # whether it was answered or not, it ended
            assert (await served.get("/healthz")).status == 200
            assert (await served.post(PODS, pod("after"))).status == 201
        assert await names(served, PODS) == ["after"]
    finally:
        for writer in writers:
            writer.close()
        for writer in writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_what_is_no_http_gets_one_line(served: Served) -> None:
    port = served.server.ports["insecure"]
    for words in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HELO there\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(words)
        writer.write_eof()
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        if answer:
            status = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert status["code"] in (400, 505)
            assert "\n" not in status["message"]
