"""The bundle runs where there is nothing but a C library: no Python, no k8slite, no /usr."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from k8slite.deploy import bundle
from k8slite.deploy.bundle import Bundle, BundleError

pytestmark = pytest.mark.slow

#: The C library's own files, and the loader.
_LIBC = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def made(cache: Path) -> Bundle:
    return bundle.runtime(cache)


@pytest.fixture(scope="module")
def bare(made: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs words in a root that holds busybox, the C library and the unpacked bundle."""
    if os.geteuid() != 0:
        pytest.fail("a root of its own is root's to make: run the tests as root")
    root = tmp_path_factory.mktemp("bare")
    listing = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    loader = Path(re.findall(r"(/\S*ld-linux\S*)", listing)[0])
    libc = Path(re.findall(r"libc\.so\.6 => (\S+)", listing)[0])
    for path in (loader, *(libc.with_name(name) for name in _LIBC)):
        (root / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to("/"))
    for folder in ("bin", "proc", "tmp", "dev", "usr/bin"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "readlink", "dirname", "env"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "usr/bin/env").symlink_to("/bin/busybox")
    target = root / made.folder.lstrip("/")
    target.mkdir(parents=True)
    with tarfile.open(made.archive) as archive:
        archive.extractall(target, filter="fully_trusted")
    (target.parent / "current").symlink_to(made.digest)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/usr/sbin/chroot", str(root), *words],
            capture_output=True, text=True, timeout=60, check=False,
            env={"PATH": "/bin", "HOME": "/"},
        )  # fmt: skip

    return run


def test_k8slite_answers_where_there_is_no_python(bare: Run) -> None:
    for words in (["--help"], ["agent", "--help"], ["ctl", "version", "--help"]):
        done = bare("/opt/k8slite/current/k8slite", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "k8slite" in done.stdout


def test_every_part_that_an_agent_needs_can_be_imported(bare: Run, made: Bundle) -> None:
    modules = (
        "ssl, sqlite3, ctypes, lzma, bz2, zlib, hashlib, uuid, socket, asyncio, json, resource, "
        "aiohttp, aiodocker, msgspec, typer, structlog, aetcd, grpc, prometheus_client, yaml, "
        "cryptography.x509, asyncssh, pyroute2, k8slite.agent, k8slite.agent.process"
    )
    with tarfile.open(made.archive) as archive:
        names = archive.getnames()
    (binary,) = [name for name in names if re.fullmatch(r"bin/python[\d.]+", name)]
    program = (
        f"import sys; sys.path.append('{made.folder}/site'); import {modules}; "
        "from importlib.metadata import version; print(version('aiohttp'), sys.prefix)"
    )
    done = bare(
        *("env", f"LD_LIBRARY_PATH={made.folder}/lib", f"{made.folder}/{binary}"),
        *("-I", "-S", "-c", program),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == made.folder


def test_the_same_content_is_the_same_bundle_and_is_made_once(
    cache: Path, made: Bundle, tmp_path: Path
) -> None:
    said: list[str] = []
    assert bundle.runtime(cache, said.append) == made
    assert said == []
    again = bundle.runtime(tmp_path, said.append)
    assert (again.digest, again.unpacked, again.libc) == (made.digest, made.unpacked, made.libc)
    assert Path(again.archive).read_bytes() == Path(made.archive).read_bytes()


def test_it_holds_no_tests_no_tools_and_nothing_of_this_machine(made: Bundle) -> None:
    with tarfile.open(made.archive) as archive:
        names = archive.getnames()
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"tests", "idlelib", "ensurepip", "pytest", "mypy", "hypothesis", "pip"}
    assert "direct_url.json" not in parts
    assert not [name for name in names if re.search(r"lib(c|pthread|xtables)\.so", name)]


def test_etcd_travels_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle.etcd(cache)
    with tarfile.open(made.archive) as archive:
        assert sorted(archive.getnames()) == ["etcd", "etcdctl"]
    assert made.digest.startswith("etcd-")
    assert made.folder == f"/opt/k8slite/{made.digest}"
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BundleError, match="apt-get install etcd-server"):
        bundle.etcd(cache)
