"""The doors of etcd: TLS with certificates on both sides, users and passwords, wrong addresses."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.lab.certificates import TestAuthority
from tests.lab.etcd import EtcdCluster, free_ports
from tests.store.etcd_load import persist

from k8slite.kit.clock import Clock
from k8slite.store.base import Put, StoreUnavailable
from k8slite.store.etcd import EtcdStore
from k8slite.store.etcd_member import EtcdTls


def etcdctl(cluster: EtcdCluster, *words: str) -> str:
    result = subprocess.run(
        ["etcdctl", "--endpoints", ",".join(cluster.endpoints), *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "ETCDCTL_API": "3"},
    )
    return result.stdout


# -- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, authority: TestAuthority
) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("secure"), tls=authority.issue("server")) as cluster:
        yield cluster


async def test_tls_with_certificates_on_both_sides(
    secure: EtcdCluster, authority: TestAuthority
) -> None:
    files = authority.issue("client")
    tls = EtcdTls(files.ca, files.cert, files.key)
    async with EtcdStore(secure.endpoints, Clock(), root="/k", tls=tls) as store:
        start = await store.revision()
        async with aclosing(store.watch("", start)) as watch:
            revision = await store.commit([Put("/a", b"1")])
            assert (await anext(watch))[0].revision == revision


async def test_a_server_nobody_vouches_for_is_refused(
    secure: EtcdCluster, authority: TestAuthority, tmp_path: Path
) -> None:
    files, stranger = authority.issue("client"), TestAuthority(tmp_path, "stranger")
    tls = EtcdTls(stranger.ca, files.cert, files.key)
    with pytest.raises(StoreUnavailable) as caught:
        await EtcdStore(secure.endpoints, Clock(), tls=tls).__aenter__()
    assert "\n" not in str(caught.value)
    assert f"{secure.endpoints[0]} (its certificate is not vouched for by --etcd-ca)" in str(
        caught.value
    )


async def test_a_client_without_certificate_is_refused(
    secure: EtcdCluster, authority: TestAuthority
) -> None:
    with pytest.raises(StoreUnavailable, match="etcd cannot be reached: https"):
        await EtcdStore(secure.endpoints, Clock(), tls=EtcdTls(authority.ca)).__aenter__()


async def test_plain_http_at_a_secure_port_is_refused(secure: EtcdCluster) -> None:
    plain = secure.endpoints[0].replace("https", "http")
    with pytest.raises(StoreUnavailable, match="etcd cannot be reached: http:"):
        await EtcdStore([plain], Clock()).__aenter__()


async def test_a_file_that_is_not_there_is_named(secure: EtcdCluster, tmp_path: Path) -> None:
    missing = tmp_path / "none.crt"
    with pytest.raises(StoreUnavailable, match=f"{missing}: No such file"):
        await EtcdStore(secure.endpoints, Clock(), tls=EtcdTls(missing)).__aenter__()


# -- nobody there -------------------------------------------------------------------------------


async def test_an_etcd_that_is_not_there_is_refused_in_time_by_every_address() -> None:
    ports = free_ports(2)
    endpoints = [f"http://127.0.0.1:{port}" for port in ports]
    start = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await EtcdStore(endpoints, Clock()).__aenter__()
    assert time.monotonic() - start < 15
    for endpoint in endpoints:
        assert f"{endpoint} (connection refused)" in str(caught.value)


# -- users --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """An etcd with users, whose tokens live for two seconds without use."""
    flags = ["--auth-token-ttl=2"]
    with EtcdCluster(tmp_path_factory.mktemp("guarded"), flags=flags) as cluster:
        etcdctl(cluster, "user", "add", "root:pass")
        etcdctl(cluster, "user", "add", "k8slite:secret")
        etcdctl(cluster, "role", "add", "cluster")
        etcdctl(
            cluster,
            "role",
            "grant-permission",
            "cluster",
            "readwrite",
            "/k8slite/",
            "--prefix=true",
        )
        etcdctl(cluster, "user", "grant-role", "k8slite", "cluster")
        etcdctl(cluster, "user", "grant-role", "root", "root")
        etcdctl(cluster, "auth", "enable")
        yield cluster


async def test_user_and_password_and_a_token_that_expires(guarded: EtcdCluster) -> None:
    async with EtcdStore(
        guarded.endpoints, Clock(), root="/k8slite", user="k8slite", password="secret"
    ) as store:
        async with aclosing(store.watch("", await store.revision())) as watch:
            for turn in range(3):
                lease = await store.grant(30)
                revision = await store.commit([Put("/a", b"%d" % turn, lease)])
                assert (await anext(watch))[0].revision == revision
                await Clock().sleep(4)  # longer than a token lives
                await store.keep_alive(lease)
            assert (await store.stats()).keys == 1
            await store.compact(revision)


async def test_a_token_is_renewed_when_etcd_has_restarted(guarded: EtcdCluster) -> None:
    async with EtcdStore(
        guarded.endpoints, Clock(), root="/k8slite", user="k8slite", password="secret"
    ) as store:
        first = await store.commit([Put("/a", b"1")])
        guarded.members[0].stop()
        guarded.start()
        async with aclosing(store.watch("", first)) as watch:
            await persist(store, Put("/a", b"2"))
            assert (await anext(watch))[0].value == b"2"


@pytest.mark.parametrize(
    ("user", "password", "root", "message"),
    [
        ("", "", "/k8slite", "etcd asks for a user: give --etcd-user"),
        ("k8slite", "wrong", "/k8slite", "etcd refuses the user of --etcd-user"),
        ("nobody", "secret", "/k8slite", "etcd refuses the user of --etcd-user"),
        ("k8slite", "secret", "/other", "permission denied"),
    ],
)
async def test_who_may_not_come_in_is_told_why(
    guarded: EtcdCluster, user: str, password: str, root: str, message: str
) -> None:
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match=message):
        await EtcdStore(
            guarded.endpoints, Clock(), root=root, user=user, password=password
        ).__aenter__()
    assert time.monotonic() - start < 20
