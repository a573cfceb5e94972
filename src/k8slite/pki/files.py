"""The cluster's own certificate authority and the certificates that it signs.

Everything lives under ``<data>/pki``, keys readable by their owner alone. What is there, fits and
is not about to expire is kept; the rest is made anew, so ``ensure`` may run at every start. All
functions block for some milliseconds: call them from a thread or before the loop.

The keys are EC P-256: made in a millisecond, understood by every client.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from k8slite.kit.clock import Clock

log = structlog.get_logger()

CA_DAYS = 3650
CERTIFICATE_DAYS = 365
#: A certificate with fewer days left is renewed.
RENEW_DAYS = 60

#: Names under which clients reach the secure port, beside addresses.
SERVICE_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
)

MASTERS = "system:masters"

_TLS_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_TLS_SERVER = ExtendedKeyUsageOID.SERVER_AUTH


class PkiError(RuntimeError):
    """Files of the authority that cannot be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate as it should be."""

    file: str
    common_name: str
    organizations: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # DNS names and addresses
    usages: tuple[x509.ObjectIdentifier, ...] = (_TLS_CLIENT,)


class Pki:
    """The files under ``<data_dir>/pki``."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self.folder = data_dir / "pki"
        self.kubeconfig = data_dir / "admin.kubeconfig"
        self._clock = clock

    def certificate(self, name: str) -> Path:
        """``ca``, ``apiserver``, ``node`` or ``admin``."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens.csv"

    @property
    def admin_token(self) -> Path:
        return self.folder / "admin.token"

    # -- making ------------------------------------------------------------------------------

    def ensure(self, addresses: Sequence[str], node_name: str = "") -> None:
        """Make or renew whatever is missing, wrong or about to expire.

        ``addresses`` are the node's IPs and the portal IP of the secure port, and further names.
        Raises PkiError when the authority's own files are damaged, OSError when files cannot be
        written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)
        authority, key = self._authority()
        reachable = tuple(dict.fromkeys((*addresses, "127.0.0.1", "::1", *SERVICE_NAMES)))
        node = node_name or (addresses[0] if addresses else "localhost")
        both = (_TLS_SERVER, _TLS_CLIENT)
        for wanted in (
            Wanted("apiserver", "k8slite-apiserver", (MASTERS,), reachable, both),
            Wanted("node", f"system:node:{node}", ("system:nodes",), (*reachable, node), both),
            Wanted("admin", "admin", (MASTERS,)),
        ):
            if not self._fits(wanted, authority):
                log.info("certificate made", role="pki", file=str(self.certificate(wanted.file)))
                self._make(wanted, authority, key)
        if not self.key("service-account").exists():
            _write(self.key("service-account"), _pem(ec.generate_private_key(ec.SECP256R1())))
        self._ensure_admin_token()

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key_file, certificate_file = self.key("ca"), self.certificate("ca")
        if key_file.exists():
            key = _load_key(key_file)
        elif certificate_file.exists():
            raise PkiError(
                f"{key_file} is missing while {certificate_file} is there: bring it back, or "
                f"remove {self.folder} to begin with a new authority"
            )
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            _write(key_file, _pem(key))
        if certificate_file.exists():
            certificate = _load_certificate(certificate_file)
            if certificate.public_key() != key.public_key():
                raise PkiError(
                    f"{certificate_file} does not belong to {key_file}: bring the right one back, "
                    f"or remove {self.folder} to begin with a new authority"
                )
            if not self._expiring(certificate):
                return certificate, key
        # The same key signs itself again: what it signed before stays good.
        certificate = self._sign_authority(key)
        _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return certificate, key

    def _expiring(self, certificate: x509.Certificate) -> bool:
        left = certificate.not_valid_after_utc - self._now()
        return left < timedelta(days=RENEW_DAYS) or certificate.not_valid_before_utc > self._now()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            # An hour ago, for clients whose clocks are behind.
            .not_valid_before(self._now() - timedelta(hours=1))
            .not_valid_after(self._now() + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    def _sign_authority(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "k8slite-ca")])
        builder = self._builder(name, name, key.public_key(), CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_key_usage(signing=True), True)
        return builder.sign(key, hashes.SHA256())

    def _make(
        self, wanted: Wanted, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        organizations = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in wanted.organizations
        ]
        common = x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name[:64])
        subject = x509.Name([*organizations, common])
        builder = self._builder(subject, authority.subject, key.public_key(), CERTIFICATE_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_key_usage(signing=False), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(wanted.usages), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if wanted.names:
            names = x509.SubjectAlternativeName([_general_name(name) for name in wanted.names])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(authority_key, hashes.SHA256())
        # The certificate last: a crash in between leaves a pair that does not fit and is remade.
        _write(self.key(wanted.file), _pem(key))
        encoded = certificate.public_bytes(serialization.Encoding.PEM)
        _write(self.certificate(wanted.file), encoded, 0o644)

    def _fits(self, wanted: Wanted, authority: x509.Certificate) -> bool:
        """Is the certificate on disk the one that is wanted, for long enough?"""
        try:
            certificate = _load_certificate(self.certificate(wanted.file))
            key = _load_key(self.key(wanted.file))
            certificate.verify_directly_issued_by(authority)
        except (OSError, PkiError, ValueError, TypeError):
            return False
        except Exception as error:  # cryptography's InvalidSignature has no nearer parent
            log.warning("certificate not ours", role="pki", file=wanted.file, error=repr(error))
            return False
        if certificate.public_key() != key.public_key() or self._expiring(certificate):
            return False
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if not common or common[0].value != wanted.common_name[:64]:
            return False
        return set(wanted.names) <= _names_of(certificate)

    def _ensure_admin_token(self) -> None:
        if not self.admin_token.exists():
            # Not the clock's rng: whoever saw a few of its numbers could tell the next.
            _write(self.admin_token, secrets.token_urlsafe(32).encode() + b"\n")
        os.chmod(self.admin_token, 0o600)
        if not self.tokens.exists():
            _write(self.tokens, b'# token (or sha256:<hex of it>),user,uid,"group,group"\n')
        os.chmod(self.tokens, 0o600)

    # -- using -------------------------------------------------------------------------------

    def server_context(self, name: str = "apiserver") -> ssl.SSLContext:
        """TLS for a listener that asks for client certificates of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate(name), self.key(name))
        context.load_verify_locations(self.certificate("ca"))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context

    def reload(self, context: ssl.SSLContext, name: str = "apiserver") -> None:
        """Let a context that is in use hand out the certificate that is on disk now."""
        context.load_cert_chain(self.certificate(name), self.key(name))
        context.load_verify_locations(self.certificate("ca"))

    def client_context(self, name: str = "apiserver") -> ssl.SSLContext:
        """TLS for calls to servers of this cluster, with ``name``'s certificate."""
        context = ssl.create_default_context(cafile=str(self.certificate("ca")))
        context.load_cert_chain(self.certificate(name), self.key(name))
        return context

    def write_kubeconfig(self, server: str) -> None:
        """``admin.kubeconfig``: everything that a client needs, in one file of mode 0600."""

        def embedded(path: Path) -> str:
            return base64.b64encode(path.read_bytes()).decode()

        cluster = {
            "server": server,
            "certificate-authority-data": embedded(self.certificate("ca")),
        }
        user = {
            "client-certificate-data": embedded(self.certificate("admin")),
            "client-key-data": embedded(self.key("admin")),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "k8slite", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "k8slite", "context": {"cluster": "k8slite", "user": "admin"}}],
            "current-context": "k8slite",
        }
        text = yaml.safe_dump(document, sort_keys=False).encode()
        with contextlib.suppress(OSError):
            if self.kubeconfig.read_bytes() == text:
                os.chmod(self.kubeconfig, 0o600)
                return
        _write(self.kubeconfig, text)


def _key_usage(*, signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signing, crl_sign=signing,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return {*names.get_values_for_type(x509.DNSName), *addresses}


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises PkiError, OSError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except ValueError as error:
        raise PkiError(f"{path} holds no key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"{path} is no EC key")
    os.chmod(path, 0o600)
    return key


def _load_certificate(path: Path) -> x509.Certificate:
    """Raises PkiError, OSError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise PkiError(f"{path} holds no certificate: {error}") from None


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Whole or not at all, and never readable by others for a moment."""
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
