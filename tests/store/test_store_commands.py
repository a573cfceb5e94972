"""``k8slite store``: what a user types and reads."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import pytest
from tests.lab.etcd import EtcdCluster, free_ports

from k8slite.cli.main import run
from k8slite.kit.clock import Clock
from k8slite.store.base import Create, OutcomeUnknown, Put
from k8slite.store.etcd import EtcdStore
from k8slite.store.sqlite import SqliteStore

ROOTS = count()


@pytest.fixture(autouse=True)
def logs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sets up the logs of its process, which here is that of other tests too."""
    monkeypatch.setattr("k8slite.log.configure", lambda level: None)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder whose store holds three keys."""

    async def fill() -> None:
        async with SqliteStore(tmp_path / "data" / "store.db", Clock()) as store:
            await store.commit([Create("/registry/pods/n/a", b"12345"), Create("/authority", b"k")])
            for number in range(50):
                await store.commit([Put("/registry/services/specs/n/s", b"%02d" % number)])

    asyncio.run(fill())
    return tmp_path / "data"


@pytest.fixture
def flags(etcd: EtcdCluster) -> list[str]:
    return ["--etcd", *etcd.endpoints, "--etcd-root", f"/command{next(ROOTS)}"]


def test_stats_of_an_embedded_store(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "stats", "--data-dir", str(data_dir)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["store", f"sqlite:{data_dir}/store.db"] in lines
    assert ["revision", "52"] in lines
    assert ["keys", "3"] in lines
    assert lines[-4:] == [
        ["KIND", "KEYS", "BYTES"],
        ["/authority", "1", "1"],
        ["pods", "1", "5"],
        ["services", "1", "2"],
    ]


def test_stats_work_while_the_store_is_open(
    data_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def main() -> int:
        async with SqliteStore(data_dir / "store.db", Clock()) as store:
            await store.commit([Create("/more", b"")])
            words = ["--data-dir", str(data_dir)]
            backup = ["store", "backup", str(tmp_path / "copy"), *words]
            return await asyncio.to_thread(
                run, ["store", "stats", *words]
            ) + await asyncio.to_thread(run, backup)

    assert asyncio.run(main()) == 0
    out = capsys.readouterr().out
    assert "keys        4\n" in out
    assert f"{tmp_path / 'copy'}: 4 keys at revision 53" in out


def test_there_and_back_by_hand(
    data_dir: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-dir", str(data_dir), *flags]
    assert run(["store", "migrate", "--to", "etcd", *words]) == 0
    out = capsys.readouterr().out
    assert f"sqlite:{data_dir}/store.db is in etcd:{flags[1]} below {flags[3]}\n" in out
    assert "3 keys, read back and the same (sha256 " in out
    assert "start every agent on the new store only" in out

    assert run(["store", "stats", *flags]) == 0
    out = capsys.readouterr().out
    assert "etcd0" in out
    assert "healthy, leader, etcd 3." in out
    assert "keys        3\n" in out

    back = tmp_path / "back" / "store.db"
    assert run(["store", "migrate", "--to", f"sqlite:{back}", *flags]) == 0
    assert "3 keys, read back" in capsys.readouterr().out
    assert back.exists()


def test_backup_and_restore_by_hand(
    data_dir: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backup"
    assert run(["store", "backup", str(file), "--data-dir", str(data_dir)]) == 0
    assert run(["store", "restore", str(file), *flags]) == 0
    assert "3 keys, read back and the same" in capsys.readouterr().out
    assert run(["store", "restore", str(file), "--data-dir", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "store.db").exists()
    assert run(["store", "restore", str(file), *flags]) == 1
    assert "is not empty: it holds 3 keys (1 /authority, 1 pods, 1 services)" in (
        capsys.readouterr().err
    )


def test_compact_of_an_embedded_store(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "compact", "--data-dir", str(data_dir), "--keep", "10"]) == 0
    assert "compacted at revision 42\n" in capsys.readouterr().out
    assert run(["store", "stats", "--data-dir", str(data_dir)]) == 0
    assert "compacted   42\n" in capsys.readouterr().out


def test_compact_makes_room_in_an_etcd_that_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill(endpoints: list[str]) -> None:
        async with EtcdStore(endpoints, Clock(), root="/k8slite", compacts=False) as store:
            for _ in range(200):
                await store.commit([Put("/a", bytes(100_000))])

    async def write(endpoints: list[str]) -> None:
        async with EtcdStore(endpoints, Clock(), root="/k8slite") as store:
            await store.commit([Put("/a", b"again")])

    with EtcdCluster(tmp_path, flags=["--quota-backend-bytes=4000000"]) as cluster:
        with pytest.raises(OutcomeUnknown, match="no space left"):
            asyncio.run(fill(cluster.endpoints))
        words = ["--etcd", *cluster.endpoints]
        assert run(["store", "stats", *words]) == 0
        assert "alarm:NOSPACE" in capsys.readouterr().out.replace(" ", "")
        assert run(["store", "compact", *words]) == 0
        out = capsys.readouterr().out
        assert "etcd0: " in out
        assert "alarm NOSPACE of member" in out
        asyncio.run(write(cluster.endpoints))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("stats --data-dir {}/none", "there is no store {}/none/store.db"),
        ("backup {}/b --data-dir {}/none", "there is no store {}/none/store.db"),
        ("compact --data-dir {}/none", "there is no store {}/none/store.db"),
        ("migrate --to etcd --data-dir {}/none", "etcd: where is it? give --etcd"),
        ("migrate --to zoo", "'zoo' names no store: write sqlite, sqlite:"),
        ("migrate --from sqlite:{}/a --to sqlite:{}/a", "cannot be moved onto itself"),
        ("migrate", "Missing option '--to'"),
        ("restore {}/none", "{}/none: No such file or directory"),
        ("restore {}/text", "{}/text is no backup of k8slite"),
        ("stats --etcd http://127.0.0.1:{port}", "(connection refused)"),
        ("stat", "No such command 'stat'. Did you mean"),
    ],
)
def test_refusals_are_one_line(
    words: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("text\n")
    (port,) = free_ports(1)
    words = words.replace("{}", str(tmp_path)).replace("{port}", str(port))
    assert run(["store", *words.split()]) == 1
    captured = capsys.readouterr()
    assert told.replace("{}", str(tmp_path)) in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
