"""Whom the authority vouches for, and what travels between masters."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from k8slite.kit.clock import Clock
from k8slite.pki.authority import (
    CLIENT,
    SERVER,
    Authority,
    CsrError,
    PkiError,
    Wanted,
    fingerprint,
    names_of,
    request,
)
from k8slite.pki.files import Pki


@pytest.fixture
def authority() -> Authority:
    return Authority.make(Clock())


def read(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(found.value) for found in certificate.subject.get_attributes_for_oid(oid)]


def test_what_is_wanted_is_issued(authority: Authority) -> None:
    wanted = Wanted(
        "etcd", ("peers",), ("192.168.0.10", "localhost"), (CLIENT, SERVER), serial="u1", days=3
    )
    pem, key = authority.issue(wanted)
    certificate = read(pem)
    certificate.verify_directly_issued_by(authority.certificate)
    assert attribute(certificate, NameOID.COMMON_NAME) == ["etcd"]
    assert attribute(certificate, NameOID.ORGANIZATION_NAME) == ["peers"]
    assert attribute(certificate, NameOID.SERIAL_NUMBER) == ["u1"]
    assert names_of(certificate) == {"192.168.0.10", "localhost"}
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life.total_seconds() == 3 * 86400 + 3600
    assert certificate.public_key() == serialization.load_pem_private_key(key, None).public_key()


def test_an_authority_is_loaded_as_it_was_made(authority: Authority) -> None:
    again = Authority.load(authority.certificate_pem, authority.key_pem, Clock())
    assert again.fingerprint == authority.fingerprint == fingerprint(authority.certificate_pem)
    read(again.issue(Wanted("a"))[0]).verify_directly_issued_by(authority.certificate)


def test_a_certificate_and_a_key_that_are_no_pair_are_refused(authority: Authority) -> None:
    other = Authority.make(Clock())
    with pytest.raises(PkiError, match="does not belong"):
        Authority.load(authority.certificate_pem, other.key_pem, Clock())
    with pytest.raises(PkiError, match="no certificate"):
        Authority.load(b"rubbish", authority.key_pem, Clock())


def test_of_a_request_the_key_alone_is_taken(authority: Authority) -> None:
    csr, key = request("system:masters")
    certificate = read(authority.sign(csr, Wanted("system:node:a", ("system:nodes",))))
    assert attribute(certificate, NameOID.COMMON_NAME) == ["system:node:a"]
    assert certificate.public_key() == serialization.load_pem_private_key(key, None).public_key()


def forged() -> bytes:
    """A request whose signature is another request's."""
    one = x509.load_pem_x509_csr(request("a")[0]).public_bytes(serialization.Encoding.DER)
    other = x509.load_pem_x509_csr(request("b")[0])
    signature = other.signature
    broken = one[: -len(signature)] + signature
    body = ssl.DER_cert_to_PEM_cert(broken)
    return body.replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()


def of_rsa() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("csr", [b"", b"rubbish", forged(), of_rsa()])
def test_a_broken_request_is_refused_in_one_line(authority: Authority, csr: bytes) -> None:
    with pytest.raises(CsrError) as caught:
        authority.sign(csr, Wanted("a"))
    assert "\n" not in str(caught.value)


# --- the files ---------------------------------------------------------------------------------


def test_masters_that_share_a_bundle_have_one_authority(tmp_path: Path) -> None:
    first, second = Pki(tmp_path / "a", Clock()), Pki(tmp_path / "b", Clock())
    first.ensure(["10.0.0.1"])
    second.ensure(["10.0.0.2"])
    assert first.token() != second.token()
    assert second.adopt(first.shared())
    assert not second.adopt(first.shared())
    second.ensure(["10.0.0.2"])
    assert first.token() == second.token()
    assert first.shared() == second.shared()
    for name in ("apiserver", "node", "admin"):
        certificate = read(second.certificate(name).read_bytes())
        certificate.verify_directly_issued_by(read(first.certificate("ca").read_bytes()))


def test_a_damaged_bundle_changes_nothing(tmp_path: Path) -> None:
    pki = Pki(tmp_path, Clock())
    pki.ensure(["10.0.0.1"])
    before = pki.shared()
    other = Pki(tmp_path / "b", Clock())
    other.ensure_shared()
    torn = other.shared().replace(b"-----BEGIN PRIVATE KEY-----", b"", 1)
    for bundle in (b"", b"{}", before[:-9], torn):
        with pytest.raises(PkiError):
            pki.adopt(bundle)
    assert pki.shared() == before


def test_a_token_names_the_authority_and_keeps_the_secret_apart(tmp_path: Path) -> None:
    pki = Pki(tmp_path, Clock())
    pki.ensure_shared()
    shown, _, secret = pki.token().partition(".")
    assert shown == fingerprint(pki.certificate("ca").read_bytes())
    assert secret == pki.join_token.read_text().strip()
    assert len(secret) >= 32
    assert pki.join_token.stat().st_mode & 0o777 == 0o600
