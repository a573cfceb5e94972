"""kubeconfig: which server, as whom, and what is written back."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
import yaml

from k8slite.api.errors import BadRequest, NotFound
from k8slite.client import kubeconfig
from k8slite.client.access import DEFAULT_SERVER
from k8slite.client.kubeconfig import Kubeconfig, Wanted, cluster_of
from k8slite.pki.kubeconfig import kubeconfig as admin_kubeconfig

AUTHORITY = base64.b64encode(b"ca").decode()
ONE = {"server": "https://one:6443", "certificate-authority-data": AUTHORITY}
CONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [
        {"name": "one", "cluster": ONE},
        {"name": "two", "cluster": {"server": "http://two:8080"}},
    ],
    "users": [
        {"name": "me", "user": {"token": "secret"}},
        {"name": "filed", "user": {"client-certificate": "my.crt", "client-key": "my.key"}},
        {"name": "outside", "user": {"exec": {"command": "login"}}},
    ],
    "contexts": [
        {"name": "first", "context": {"cluster": "one", "user": "me", "namespace": "mine"}},
        {"name": "second", "context": {"cluster": "two", "user": "filed"}},
    ],
    "current-context": "first",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "my.crt").write_bytes(b"certificate")
    (tmp_path / "my.key").write_bytes(b"key")
    return path


@pytest.fixture
def config(path: Path) -> Kubeconfig:
    return kubeconfig.load([path])


def test_the_current_context_says_everything(config: Kubeconfig) -> None:
    access, namespace = config.access(Wanted())
    assert (access.server, access.token, access.authority) == ("https://one:6443", "secret", b"ca")
    assert namespace == "mine"


def test_another_context_and_files_beside_the_kubeconfig(config: Kubeconfig) -> None:
    access, namespace = config.access(Wanted(context="second"))
    assert (access.server, namespace) == ("http://two:8080", "default")
    assert (access.certificate, access.key) == (b"certificate", b"key")


def test_flags_win(config: Kubeconfig, tmp_path: Path) -> None:
    access, namespace = config.access(
        Wanted(cluster="two", user="me", namespace="other", token="mine", insecure=True)
    )
    assert (access.server, access.token, namespace) == ("http://two:8080", "mine", "other")
    assert access.insecure
    named = Wanted(certificate=str(tmp_path / "my.crt"), key=str(tmp_path / "my.key"))
    assert config.access(named)[0].certificate == b"certificate"


def test_credentials_do_not_go_to_a_server_that_they_were_not_written_for(
    config: Kubeconfig,
) -> None:
    assert config.access(Wanted(server="http://stranger:8080"))[0].token == ""
    assert config.access(Wanted(server="https://one:6443/"))[0].token == "secret"
    assert config.access(Wanted(server="http://stranger:8080", user="me"))[0].token == "secret"


def test_without_any_file_it_is_the_local_server() -> None:
    access, namespace = Kubeconfig().access(Wanted())
    assert (access.server, namespace) == (DEFAULT_SERVER, "default")
    assert kubeconfig.load([Path("/nonexistent/config")]).current == ""


def test_what_is_not_there_is_named(config: Kubeconfig) -> None:
    with pytest.raises(NotFound, match=r"no context 'x' \(it has: first, second\)"):
        config.access(Wanted(context="x"))
    with pytest.raises(NotFound, match="no user 'x'"):
        config.access(Wanted(user="x"))
    with pytest.raises(BadRequest, match="'exec', which is not supported"):
        config.access(Wanted(user="outside"))
    with pytest.raises(BadRequest, match="cannot be read"):
        config.access(Wanted(authority="/nonexistent"))


@pytest.mark.parametrize("text", ["[", "- a", "clusters: [{}]", "users: [a]", "\x00"])
def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(BadRequest, match=str(path)):
        kubeconfig.load([path])


def test_which_files_are_read() -> None:
    home = {"HOME": "/home/me", "KUBECONFIG": "/a:/b"}
    assert kubeconfig.paths("/x", home) == [Path("/x")]
    assert kubeconfig.paths("", home) == [Path("/a"), Path("/b")]
    assert kubeconfig.paths("", {"HOME": "/home/me"}) == [Path("/home/me/.kube/config")]
    assert kubeconfig.paths("", {}) == []


def test_a_change_goes_to_the_file_that_holds_the_entry(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    config = kubeconfig.load([other, path])
    changed = config.with_entry("clusters", "two", {"server": "http://new"})
    kubeconfig.save(changed.with_entry("users", "new", {"token": "t", "username": None}))
    again = kubeconfig.load([other, path])
    assert again.entries("clusters")["two"] == {"server": "http://new"}
    assert again.entries("clusters")["one"] == config.entries("clusters")["one"]
    assert yaml.safe_load(other.read_text())["users"] == [{"name": "new", "user": {"token": "t"}}]
    assert stat.S_IMODE(other.stat().st_mode) == 0o600
    switched = again.with_current("second")
    assert switched.current == "second"
    with pytest.raises(NotFound):
        again.with_current("absent")


# --- several masters ----------------------------------------------------------------------

MASTERS = ("https://one:6443", "https://two:6443", "https://three:6443")


@pytest.fixture
def several(tmp_path: Path) -> Kubeconfig:
    path = tmp_path / "admin"
    path.write_bytes(admin_kubeconfig(MASTERS, b"ca", b"certificate", b"key"))
    return kubeconfig.load([path])


def test_the_admins_kubeconfig_names_every_master(several: Kubeconfig) -> None:
    access, _ = several.access(Wanted())
    assert access.urls == MASTERS
    assert (access.authority, access.certificate, access.key) == (b"ca", b"certificate", b"key")
    # Other clients know one server a cluster: there is a context for each.
    servers = [entry["server"] for entry in several.entries("clusters").values()]
    assert servers == list(MASTERS)
    assert list(several.entries("contexts")) == ["k8slite", "k8slite-2", "k8slite-3"]


def test_another_context_begins_with_its_own_master(several: Kubeconfig) -> None:
    access, _ = several.access(Wanted(context="k8slite-2"))
    assert access.urls == ("https://two:6443", "https://one:6443", "https://three:6443")


def test_credentials_are_for_all_masters_and_nobody_else(several: Kubeconfig) -> None:
    access, _ = several.access(Wanted(server="https://three:6443,https://two:6443"))
    assert access.certificate == b"certificate"
    access, _ = several.access(Wanted(server="https://three:6443,https://four:6443"))
    assert access.certificate == b""


def test_several_masters_are_written_down_and_taken_back(config: Kubeconfig) -> None:
    changed = config.with_entry("clusters", "two", cluster_of("https://a,https://b"))
    assert changed.access(Wanted(context="second"))[0].urls == ("https://a", "https://b")
    back = changed.with_entry("clusters", "two", cluster_of("https://c"))
    assert back.access(Wanted(context="second"))[0].urls == ("https://c",)
