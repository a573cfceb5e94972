"""Which store the settings mean, and what it costs to mean none of etcd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from k8slite.config import Settings
from k8slite.kit.virtual import HandClock
from k8slite.store.base import StoreUnavailable
from k8slite.store.etcd import EtcdStore
from k8slite.store.memory import MemoryStore
from k8slite.store.opening import open_store
from k8slite.store.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("store", "kind"), [("memory", MemoryStore), ("sqlite", SqliteStore), ("etcd", EtcdStore)]
)
async def test_the_store_is_the_one_of_the_settings(
    tmp_path: Path, store: str, kind: type[object]
) -> None:
    settings = Settings(store=store, data_dir=tmp_path / "data", etcd=("http://127.0.0.1:1",))
    assert isinstance(open_store(settings, HandClock()), kind)


def test_an_unknown_store_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="--store zookeeper: sqlite, memory or etcd"):
        open_store(Settings(store="zookeeper"), HandClock())


def test_a_password_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    settings = Settings(
        store="etcd", etcd=("http://127.0.0.1:1",), etcd_user="u",
        etcd_password_file=tmp_path / "none",
    )  # fmt: skip
    with pytest.raises(StoreUnavailable, match=f"--etcd-password-file {tmp_path / 'none'}"):
        open_store(settings, HandClock())


def test_who_has_no_etcd_never_loads_grpc(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, k8slite.agent.process\n"
        "from k8slite.config import Settings\n"
        "from k8slite.kit.clock import Clock\n"
        "from k8slite.store.opening import open_store\n"
        "open_store(Settings(data_dir=pathlib.Path(sys.argv[1])), Clock())\n"
        "assert not {'grpc', 'aetcd', 'google.protobuf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, timeout=60)
