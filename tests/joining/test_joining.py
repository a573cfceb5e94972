"""A machine becomes a node, renews itself, and is put out again: real masters, real TLS."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from masters import LOOPBACK, Master, master_on
from msgspec.structs import replace as struct

from k8slite.api import codec
from k8slite.api.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from k8slite.api.joining import JoinRequest
from k8slite.api.kinds import CONFIG_MAP, NODE, POD, SERVICE
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.node.types import Node, NodeAddress, NodeStatus
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.client.access import Access
from k8slite.client.http import HttpClient
from k8slite.decide.serving import PORT_TAKEN, Trouble, condition_of, told
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.pki.authority import request
from k8slite.pki.files import Pki
from k8slite.roles.apiserver import joining
from k8slite.roles.kubelet.identity import JoinRefused, NodeIdentity, Token
from k8slite.store.memory import MemoryStore

DAY = 86400.0


class Calendar(Clock):
    """A clock that tests set forward."""

    days = 0.0

    def now(self) -> float:
        return super().now() + self.days * DAY


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await Clock().sleep(0.005)


def machine(
    folder: Path, masters: list[Master], token: str = "", *, name: str = "n1",
    address: str = "10.0.0.1", clock: Clock | None = None,
) -> NodeIdentity:  # fmt: skip
    return NodeIdentity(
        folder, [master.secure for master in masters], token, clock or Clock(),
        name=name, addresses=(address,), architecture="amd64",
    )  # fmt: skip


@asynccontextmanager
async def joined(
    folder: Path, masters: list[Master], **more: Any
) -> AsyncIterator[tuple[NodeIdentity, HttpClient]]:
    identity = machine(folder, masters, masters[0].pki.token(), **more)
    await identity.obtain()
    async with HttpClient(identity.access(), unauthorized=identity.unauthorized) as client:
        yield identity, client


def node_of(master: Master, name: str = "n1") -> Node | None:
    entry = master.table(NODE).get(name)
    return None if entry is None else entry.object


# --- joining -------------------------------------------------------------------------------


async def test_a_machine_joins_with_a_token_and_is_known_to_every_master(
    two: list[Master], tmp_path: Path
) -> None:
    async with joined(tmp_path / "n1", two) as (identity, client):
        node = await client.get(NODE, "n1")
        assert node.status.addresses[0].address == "10.0.0.1"
        assert node.metadata.label("kubernetes.io/hostname") == "n1"
        # The other master lets it in at once, though it may not have heard of it yet.
        async with HttpClient(replace(identity.access(), server=two[1].secure)) as other:
            assert (await other.get(NODE, "n1")).metadata.uid == node.metadata.uid
        assert (tmp_path / "n1" / "pki").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "n1" / "pki" / "node.key").stat().st_mode & 0o777 == 0o600


async def test_a_certificate_on_disk_is_used_and_no_token_asked_for(
    two: list[Master], tmp_path: Path
) -> None:
    async with joined(tmp_path / "n1", two) as (identity, _):
        before = identity.access()
    again = machine(tmp_path / "n1", two)
    await again.obtain()
    assert again.access() == before


async def test_a_machine_waits_for_a_master_that_is_not_there_yet(
    two: list[Master], tmp_path: Path
) -> None:
    gone = f"https://{LOOPBACK}:9"
    identity = NodeIdentity(
        tmp_path, [gone], two[0].pki.token(), Clock(), name="n1", addresses=("10.0.0.1",)
    )
    with structlog.testing.capture_logs() as logs:
        waiting = asyncio.create_task(identity.obtain())
        await until(lambda: logs)
    assert logs[0]["event"] == "not joined yet"
    assert not waiting.done()
    await stop(waiting)


async def test_a_master_that_is_gone_is_passed_over(two: list[Master], tmp_path: Path) -> None:
    servers = [f"https://{LOOPBACK}:9", two[1].secure]
    identity = NodeIdentity(
        tmp_path, servers, two[0].pki.token(), Clock(), name="n1", addresses=("10.0.0.1",)
    )
    await identity.obtain()
    assert identity.certificate() is not None


async def test_a_wrong_token_is_refused_at_once_in_one_line(
    two: list[Master], tmp_path: Path
) -> None:
    known = two[0].pki.token().partition(".")[0]
    with pytest.raises(JoinRefused, match="the join token is wrong") as caught:
        await machine(tmp_path, two, f"{known}.guess").obtain()
    assert "\n" not in str(caught.value)
    assert two[0].table(NODE).get("n1") is None


async def test_nothing_secret_is_said_to_somebody_between(
    two: list[Master], tmp_path: Path
) -> None:
    secret = two[0].pki.token().partition(".")[2]
    with pytest.raises(
        JoinRefused, match=r"not the one of the join token.*nothing secret was sent"
    ):
        await machine(tmp_path, two, f"{'0' * 64}.{secret}").obtain()


@pytest.mark.parametrize("token", ["x", "x.y", ".", f"{'0' * 64}.", f"{'0' * 63}.abc"])
def test_a_token_has_a_shape(token: str) -> None:
    with pytest.raises(JoinRefused, match="k8slite token"):
        Token.parse(token)


@pytest.mark.parametrize(
    ("name", "address", "why"),
    [
        ("Bad Name", "10.0.0.1", "node name"),
        ("n1", "127.0.0.1", "nobody else can reach it"),
        ("n1", "192.168.3.2", "among the portal IPs"),
    ],
)
async def test_what_will_never_work_is_said_at_once(
    two: list[Master], tmp_path: Path, name: str, address: str, why: str
) -> None:
    with pytest.raises(JoinRefused, match=why):
        await machine(tmp_path, two, two[0].pki.token(), name=name, address=address).obtain()


async def test_two_machines_cannot_be_the_same_node(two: list[Master], tmp_path: Path) -> None:
    async with joined(tmp_path / "a", two):
        token = two[0].pki.token()
        second = machine(tmp_path / "b", two[1:], token, address="10.0.0.2")
        with pytest.raises(JoinRefused, match=r"node n1 is alive at 10\.0\.0\.1: "):
            await second.obtain()


async def test_of_two_machines_at_once_one_becomes_the_node(
    two: list[Master], tmp_path: Path
) -> None:
    token = two[0].pki.token()
    outcomes = await asyncio.gather(
        machine(tmp_path / "a", two[:1], token, address="10.0.0.1").obtain(),
        machine(tmp_path / "b", two[1:], token, address="10.0.0.2").obtain(),
        return_exceptions=True,
    )
    assert sorted(type(outcome) for outcome in outcomes if outcome is not None) == [JoinRefused]


async def test_a_master_does_not_join(two: list[Master], tmp_path: Path) -> None:
    shutil.copytree(two[0].pki.folder, tmp_path / "pki")
    with pytest.raises(JoinRefused, match="this folder is a master's"):
        await machine(tmp_path, two, two[0].pki.token()).obtain()


async def test_another_nodes_certificate_is_not_used(two: list[Master], tmp_path: Path) -> None:
    async with joined(tmp_path, two):
        with pytest.raises(JoinRefused, match="is that of node n1, not of n2"):
            await machine(tmp_path, two, two[0].pki.token(), name="n2").obtain()


async def test_without_certificate_and_token_the_way_is_shown(
    two: list[Master], tmp_path: Path
) -> None:
    with pytest.raises(JoinRefused, match="has not joined: give --token"):
        await machine(tmp_path, two).obtain()


# --- the paths -----------------------------------------------------------------------------


def asked(name: str = "n1", **changes: Any) -> bytes:
    wish = JoinRequest(name=name, addresses=("10.0.0.1",), csr=request("x")[0].decode())
    return codec.encode(replace_struct(wish, changes))


def replace_struct(wish: JoinRequest, changes: dict[str, Any]) -> JoinRequest:
    return JoinRequest(
        **{name: changes.get(name, getattr(wish, name)) for name in JoinRequest.__struct_fields__}
    )


def bearer(master: Master, token: str) -> HttpClient:
    authority = master.pki.certificate("ca").read_bytes()
    return HttpClient(Access(server=master.secure, authority=authority, token=token))


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"name":1}', asked(csr="rubbish")])
async def test_a_broken_request_is_told_so(master: Master, body: bytes) -> None:
    async with bearer(master, master.pki.join_token.read_text().strip()) as client:
        with pytest.raises(BadRequest) as caught:
            await client.request("POST", "/join", body=body)
    assert "\n" not in caught.value.message


async def test_the_join_token_opens_one_path_alone(master: Master) -> None:
    async with bearer(master, master.pki.join_token.read_text().strip()) as client:
        for path in ("/api/v1/nodes", "/join/token", "/healthz"):
            with pytest.raises(Unauthorized):
                await client.request("GET", path)


async def test_guessing_is_slow(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "PENALTY", 3600.0)
    async with bearer(master, "guess") as client:
        with pytest.raises(Unauthorized, match="the join token is wrong"):
            await client.request("POST", "/join", body=asked())
    async with bearer(master, master.pki.join_token.read_text().strip()) as client:
        with pytest.raises(TooManyRequests):
            await client.request("POST", "/join", body=asked())


async def test_the_token_is_the_admins_alone(master: Master, tmp_path: Path) -> None:
    async with HttpClient(master.admin()) as admin:
        answer = (await admin.request("GET", "/join/token")).json()
        assert answer["token"] == master.pki.token()
        with pytest.raises(Forbidden):  # an admin is no node
            await admin.request("POST", "/join", body=asked())
        with pytest.raises(MethodNotAllowed):
            await admin.request("DELETE", "/join/token")
        with pytest.raises(NotFound):
            await admin.request("GET", "/join/nothing")
    async with joined(tmp_path, [master]) as (_, client):
        with pytest.raises(Forbidden):
            await client.request("GET", "/join/token")
    async with HttpClient(f"http://{LOOPBACK}:{master.server.ports['read-only']}") as reader:
        with pytest.raises(Forbidden):
            await reader.request("GET", "/join/token")


async def test_a_rotated_token_counts_at_every_master(two: list[Master], tmp_path: Path) -> None:
    old = two[0].pki.token()
    async with HttpClient(two[0].admin()) as admin:
        fresh = (await admin.request("POST", "/join/token")).json()["token"]
    assert fresh != old
    assert fresh.partition(".")[0] == old.partition(".")[0]
    await until(lambda: two[1].pki.token() == fresh)
    with pytest.raises(JoinRefused, match="the join token is wrong"):
        await machine(tmp_path / "a", two[1:], old).obtain()
    await machine(tmp_path / "b", two[:1], fresh).obtain()


# --- being a node --------------------------------------------------------------------------


async def test_a_sign_of_life_costs_no_write(two: list[Master], tmp_path: Path) -> None:
    async with joined(tmp_path, two) as (_, client):
        await client.heartbeat("n1")
        await until(lambda: two[1].nodes.alive("n1"))
        before = await client.list(NODE)
        await client.heartbeat("n1")
        assert (await client.list(NODE)).resource_version == before.resource_version
        with pytest.raises(Forbidden, match="of its own life"):
            await client.heartbeat("n2")
        with pytest.raises(MethodNotAllowed):
            await client.request("GET", "/api/v1/nodes/n1/heartbeat")


async def test_a_node_reads_everything_and_writes_its_own(
    two: list[Master], tmp_path: Path
) -> None:
    async with joined(tmp_path, two) as (_, client):
        assert (await client.list(POD)).items == ()
        node = await client.get(NODE, "n1")
        await client.update(node, subresource="status")
        config = ConfigMap(metadata=ObjectMeta(name="c", namespace="default"))
        with pytest.raises(Forbidden, match="may not write objects of kind ConfigMap"):
            await client.create(config)
        async with HttpClient(two[0].admin()) as admin:
            await admin.create(Node(metadata=ObjectMeta(name="n2")))
            await admin.create(config)
        with pytest.raises(Forbidden):
            await client.delete(NODE, "n2")
        node = await client.get(NODE, "n1")
        async with HttpClient(two[0].admin()) as admin:
            theirs = NodeStatus(addresses=(NodeAddress(type="InternalIP", address="10.0.0.2"),))
            await admin.update(
                struct(await admin.get(NODE, "n2"), status=theirs), subresource="status"
            )
        with pytest.raises(Forbidden, match=r"the address 10\.0\.0\.2: it is node n2's"):
            await client.update(struct(node, status=theirs), subresource="status")
        with pytest.raises(Forbidden):
            await client.delete(CONFIG_MAP, "c", "default")
        for path in ("/api/v1/nodes/n2/proxy/", "/api/v1/namespaces/default/pods/p/exec"):
            with pytest.raises(Forbidden):
                await client.request("GET", path)


async def test_a_node_says_what_it_cannot_serve_and_writes_nothing_else_of_a_service(
    two: list[Master], tmp_path: Path
) -> None:
    async with joined(tmp_path, two) as (_, client), HttpClient(two[0].admin()) as admin:
        spec = ServiceSpec(cluster_ip="None", ports=(ServicePort(port=80),))
        meta = ObjectMeta(name="web", namespace="default")
        service = await admin.create(Service(metadata=meta, spec=spec))
        for troubles in ([Trouble(PORT_TAKEN, "node port 30080/tcp: …")], []):
            status = told(service, "n1", troubles, "2026-11-27T16:00:00Z")
            assert status is not None
            service = await client.update(struct(service, status=status), subresource="status")
            assert bool(condition_of(service, "n1")) == bool(troubles)
        status = told(service, "n2", [Trouble(PORT_TAKEN, "…")], "2026-11-27T16:00:00Z")
        with pytest.raises(Forbidden, match="its condition of a service, and nothing else"):
            await client.update(struct(service, status=status), subresource="status")
        with pytest.raises(Forbidden):
            await client.update(struct(service, spec=struct(spec, selector={"a": "b"})))
        with pytest.raises(Forbidden):
            await client.delete(SERVICE, "web", "default")


async def test_a_deleted_node_is_put_out_at_every_master(two: list[Master], tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        identity, client = await stack.enter_async_context(joined(tmp_path, two))
        other = HttpClient(replace(identity.access(), server=two[1].secure))
        await stack.enter_async_context(other)
        watching = asyncio.create_task(consume(other))
        await until(lambda: two[1].server.dispatcher.watches.fanout.counts()["pods"] == 1)
        async with HttpClient(two[0].admin()) as admin:
            await admin.delete(NODE, "n1")
        # What is open ends, what is asked is refused, and the certificate cannot be renewed.
        async with asyncio.timeout(20):
            await watching
        with structlog.testing.capture_logs() as logs:
            for each in (client, other):
                with pytest.raises(Unauthorized, match="not any more, a node of this cluster"):
                    await each.list(POD)
            with pytest.raises(Unauthorized):
                await identity.renew(client)
        assert identity.removed.is_set()
        said = [log["event"] for log in logs if log["log_level"] == "error"]
        assert len(said) == 1
        assert "was removed from the cluster; its containers stay" in said[0]


async def consume(client: HttpClient) -> None:
    with pytest.raises(Unavailable, match="ended the connection"):
        async for _ in client.watch(POD):
            pass


async def test_a_node_that_was_made_anew_does_not_know_the_old_certificate(
    two: list[Master], tmp_path: Path
) -> None:
    async with joined(tmp_path / "a", two) as (_, client):
        async with HttpClient(two[0].admin()) as admin:
            await admin.delete(NODE, "n1")
        await machine(tmp_path / "b", two, two[0].pki.token()).obtain()
        with pytest.raises(Unauthorized):
            await client.list(POD)


# --- renewing ------------------------------------------------------------------------------


async def test_a_certificate_is_renewed_at_two_thirds_of_its_life(
    two: list[Master], tmp_path: Path
) -> None:
    calendar = Calendar()
    async with joined(tmp_path, two, clock=calendar) as (identity, client):
        serving = identity.server_context()
        before = identity.certificate()
        uid = (await client.get(NODE, "n1")).metadata.uid
        calendar.days = 240
        running = asyncio.create_task(identity.run(client))
        await Clock().sleep(0.05)
        assert identity.certificate() == before
        await stop(running)
        calendar.days = 250
        running = asyncio.create_task(identity.run(client))
        await until(lambda: identity.certificate() != before)
        await until(lambda: client.access.certificate != b"" and renewed(client, identity))
        await stop(running)
        assert (await client.get(NODE, "n1")).metadata.uid == uid
        assert serving.get_ca_certs()
        async with HttpClient(identity.access()) as fresh:
            await fresh.list(POD)


def renewed(client: HttpClient, identity: NodeIdentity) -> bool:
    return client.access.certificate == identity.access().certificate


async def test_a_crash_between_two_files_of_a_renewal_leaves_a_pair(
    two: list[Master], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined(tmp_path, two) as (identity, client):
        folder = tmp_path / "pki"
        old = {path.name: path.read_bytes() for path in folder.iterdir()}
        await identity.renew(client)
        new = {path.name: path.read_bytes() for path in folder.iterdir()}
        # The new key lies beside, the certificate is still the old one.
        (folder / "node.key.new").write_bytes(new["node.key"])
        for name in ("node.key", "node.crt"):
            (folder / name).write_bytes(old[name])
        assert identity.certificate() is not None
        assert (folder / "node.key").read_bytes() == old["node.key"]
        # The certificate is new, its key not yet in place.
        (folder / "node.crt").write_bytes(new["node.crt"])
        assert identity.certificate() is not None
        assert (folder / "node.key").read_bytes() == new["node.key"]


async def test_a_clock_that_runs_behind_costs_no_certificate(
    two: list[Master], tmp_path: Path
) -> None:
    clock = Calendar()
    async with joined(tmp_path, two):
        pass
    clock.days = -3000.0  # as a machine without a battery wakes up
    await machine(tmp_path, two, clock=clock).obtain()


async def test_an_expired_certificate_needs_a_token(two: list[Master], tmp_path: Path) -> None:
    calendar = Calendar()
    async with joined(tmp_path, two, clock=calendar) as (identity, _):
        before = identity.access()
    calendar.days = 366
    with pytest.raises(JoinRefused, match="has expired: give --token"):
        await machine(tmp_path, two, clock=calendar).obtain()
    again = machine(tmp_path, two, two[0].pki.token(), clock=calendar)
    await again.obtain()
    assert again.access() != before


# --- the authority that masters share ------------------------------------------------------


async def test_masters_that_start_at_once_agree_on_one_authority(tmp_path: Path) -> None:
    async with MemoryStore(Clock()) as store, AsyncExitStack() as stack:
        found = await asyncio.gather(
            *(stack.enter_async_context(master_on(store, tmp_path / str(n))) for n in range(3))
        )
        assert len({master.pki.token() for master in found}) == 1
        assert len({master.pki.shared() for master in found}) == 1


async def test_a_master_with_an_authority_of_its_own_takes_that_of_the_store(
    tmp_path: Path,
) -> None:
    own = Pki(tmp_path / "late", Clock())
    own.ensure(["10.0.0.9"])
    async with MemoryStore(Clock()) as store, AsyncExitStack() as stack:
        first = await stack.enter_async_context(master_on(store, tmp_path / "first"))
        late = await stack.enter_async_context(master_on(store, tmp_path / "late"))
        assert late.pki.token() == first.pki.token()
        # Whoever knows the one knows the other: its own certificates were made anew.
        context = ssl.create_default_context(cafile=str(first.pki.certificate("ca")))
        assert context.get_ca_certs()
        async with HttpClient(replace(first.admin(), server=late.secure)) as client:
            assert (await client.list(POD)).items == ()


async def test_an_authority_that_has_files_already_goes_into_the_store(tmp_path: Path) -> None:
    own = Pki(tmp_path, Clock())
    own.ensure(["10.0.0.9"])
    before = own.token()
    async with MemoryStore(Clock()) as store, master_on(store, tmp_path) as master:
        assert master.pki.token() == before
        found = await store.get("/authority")
        assert found is not None
        assert found.value == own.shared()
        # No API shows it.
        async with HttpClient(master.admin()) as client:
            with pytest.raises(NotFound):
                await client.request("GET", "/authority")


async def test_conflicts_are_errors_of_the_api(master: Master, tmp_path: Path) -> None:
    async with joined(tmp_path, [master]):
        async with bearer(master, master.pki.token()) as client:
            with pytest.raises(Conflict, match="is alive at"):
                await client.request("POST", "/join", body=asked(addresses=("10.0.0.2",)))
