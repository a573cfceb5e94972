"""What the authority keeps, renews and refuses."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509

from k8slite.kit.clock import Clock
from k8slite.pki.files import SERVICE_NAMES, Pki, PkiError

DAY = 86400.0
NAMES = ("ca", "apiserver", "node", "admin")


class Calendar(Clock):
    """A clock that tests set."""

    days = 0.0

    def now(self) -> float:
        return 1_800_000_000.0 + self.days * DAY


def contents(pki: Pki) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in pki.folder.iterdir()}


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def pki(tmp_path: Path, calendar: Calendar) -> Pki:
    made = Pki(tmp_path, calendar)
    made.ensure(["10.0.0.1", "192.168.3.2"], "10.0.0.1")
    return made


def test_the_server_certificate_names_every_way_to_reach_it(pki: Pki) -> None:
    certificate = x509.load_pem_x509_certificate(pki.certificate("apiserver").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(SERVICE_NAMES) <= set(names.get_values_for_type(x509.DNSName))
    addresses = set(map(str, names.get_values_for_type(x509.IPAddress)))
    assert {"10.0.0.1", "192.168.3.2", "127.0.0.1", "::1"} <= addresses


def test_keys_are_for_their_owner_alone(pki: Pki) -> None:
    assert stat.S_IMODE(pki.folder.stat().st_mode) == 0o700
    private = [*pki.folder.glob("*.key"), pki.admin_token, pki.tokens]
    assert len(private) == 7
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_what_fits_is_kept(pki: Pki) -> None:
    before = contents(pki)
    pki.ensure(["10.0.0.1"], "10.0.0.1")
    assert contents(pki) == before


def test_a_new_address_renews_the_servers_alone(pki: Pki) -> None:
    before = contents(pki)
    pki.ensure(["10.0.0.2", "192.168.3.2"], "10.0.0.1")
    after = contents(pki)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"apiserver.crt", "apiserver.key", "node.crt", "node.key"}


def test_what_is_about_to_expire_is_renewed_under_the_same_authority(
    pki: Pki, calendar: Calendar
) -> None:
    before = contents(pki)
    calendar.days = 320
    pki.ensure(["10.0.0.1", "192.168.3.2"], "10.0.0.1")
    after = contents(pki)
    assert all(before[f"{name}.crt"] != after[f"{name}.crt"] for name in NAMES[1:])
    assert before["ca.crt"] == after["ca.crt"]


def test_the_authority_renews_itself_and_keeps_its_key(pki: Pki, calendar: Calendar) -> None:
    before = contents(pki)
    calendar.days = 3640
    pki.ensure(["10.0.0.1"], "10.0.0.1")
    after = contents(pki)
    assert before["ca.key"] == after["ca.key"]
    assert before["ca.crt"] != after["ca.crt"]


@pytest.mark.parametrize("name", ["apiserver.crt", "apiserver.key", "admin.crt", "node.key"])
def test_a_damaged_certificate_is_made_anew(pki: Pki, name: str) -> None:
    (pki.folder / name).write_bytes(b"rubbish")
    pki.ensure(["10.0.0.1", "192.168.3.2"], "10.0.0.1")
    assert (pki.folder / name).read_bytes().startswith(b"-----BEGIN")
    pki.server_context()
    pki.client_context("node")


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_a_damaged_authority_is_refused_and_the_file_named(pki: Pki, name: str) -> None:
    (pki.folder / name).write_bytes(b"rubbish")
    with pytest.raises(PkiError, match=name):
        pki.ensure(["10.0.0.1"])


def test_a_lost_authority_key_is_not_replaced_in_silence(pki: Pki) -> None:
    pki.key("ca").unlink()
    with pytest.raises(PkiError, match=r"ca\.key is missing"):
        pki.ensure(["10.0.0.1"])


def test_an_interrupted_start_is_an_ordinary_start(tmp_path: Path) -> None:
    first = Pki(tmp_path, Clock())
    first.ensure(["10.0.0.1"])
    for path in sorted(first.folder.iterdir()):
        if path.name != "ca.key":
            path.unlink()
            Pki(tmp_path, Clock()).ensure(["10.0.0.1"])
            assert path.exists()


def test_a_context_in_use_takes_the_renewed_certificate(pki: Pki, calendar: Calendar) -> None:
    context = pki.server_context()
    calendar.days = 320
    pki.ensure(["10.0.0.1", "192.168.3.2"], "10.0.0.1")
    pki.reload(context)
    assert {entry["subject"] for entry in context.get_ca_certs()} == {
        ((("commonName", "k8slite-ca"),),)
    }
