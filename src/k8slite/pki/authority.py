"""The certificate authority itself: PEM in, PEM out; no files, the clock is handed in.

The keys are EC P-256: made in a millisecond, understood by every client.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from k8slite.kit.clock import Clock

CA_DAYS = 3650
CERTIFICATE_DAYS = 365
#: An authority with fewer days left signs itself anew.
RENEW_DAYS = 60

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH

#: A common name has room for so many characters (RFC 5280, ub-common-name).
_COMMON_NAME = 64


class PkiError(RuntimeError):
    """Keys or certificates that cannot be used; the message says which and what to do."""


class CsrError(PkiError):
    """A request for a certificate that cannot be granted as it is."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate as it should be."""

    common_name: str
    organizations: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # DNS names and addresses
    usages: tuple[x509.ObjectIdentifier, ...] = (CLIENT,)
    serial: str = ""  # the subject's serialNumber attribute: the uid of who it speaks for
    days: float = CERTIFICATE_DAYS

    def subject(self) -> x509.Name:
        attributes = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in self.organizations
        ]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, self.common_name[:_COMMON_NAME]))
        if self.serial:
            attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, self.serial))
        return x509.Name(attributes)


class Authority:
    """A certificate that signs others, and its key. Made by ``make`` or ``load``."""

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock
    ) -> None:
        self.certificate = certificate
        self._key = key
        self._clock = clock

    @classmethod
    def make(cls, clock: Clock) -> Authority:
        """A new one, for ten years."""
        return cls.of_key(ec.generate_private_key(ec.SECP256R1()), clock)

    @classmethod
    def of_key(cls, key: ec.EllipticCurvePrivateKey, clock: Clock) -> Authority:
        """``key`` signs itself (again): what it signed before stays good."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "k8slite-ca")])
        builder = _builder(name, name, key.public_key(), clock, CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_key_usage(signing=True), True)
        return cls(builder.sign(key, hashes.SHA256()), key, clock)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes, clock: Clock) -> Authority:
        """Raises PkiError for what is no certificate, no key, or no pair."""
        certificate, key = load_certificate(certificate_pem), load_key(key_pem)
        if certificate.public_key() != key.public_key():
            raise PkiError("the authority's certificate does not belong to its key")
        return cls(certificate, key, clock)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self._key)

    @property
    def fingerprint(self) -> str:
        """sha256 of the certificate (DER) in hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def expiring(self) -> bool:
        return expiring(self.certificate, self._clock, RENEW_DAYS)

    def renewed(self) -> Authority:
        """The same key under a new certificate of its own."""
        return Authority.of_key(self._key, self._clock)

    def issue(self, wanted: Wanted) -> tuple[bytes, bytes]:
        """A certificate and its new key, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._sign(key.public_key(), wanted), key_pem(key)

    def sign(self, csr_pem: bytes, wanted: Wanted) -> bytes:
        """A certificate (PEM) for the key of a certificate signing request; of the request only
        the key is taken. Raises CsrError."""
        try:
            csr = x509.load_pem_x509_csr(csr_pem)
            valid, public = csr.is_signature_valid, csr.public_key()
        except (ValueError, TypeError, InvalidSignature) as error:
            words = " ".join(str(error).split())[:200]
            raise CsrError(f"no certificate signing request in PEM: {words}") from None
        if not valid:
            raise CsrError("the certificate signing request is not signed by its own key")
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise CsrError("the certificate signing request is for no EC key; make one of P-256")
        return self._sign(public, wanted)

    def _sign(self, public: ec.EllipticCurvePublicKey, wanted: Wanted) -> bytes:
        issuer = self.certificate.subject
        builder = _builder(wanted.subject(), issuer, public, self._clock, wanted.days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_key_usage(signing=False), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(wanted.usages), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        if wanted.names:
            names = x509.SubjectAlternativeName([_general_name(name) for name in wanted.names])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def request(common_name: str) -> tuple[bytes, bytes]:
    """A certificate signing request and its new key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(Wanted(common_name).subject())
    return csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), key_pem(key)


def fingerprint(certificate_pem: bytes) -> str:
    """sha256 of a certificate (DER) in hex. Raises PkiError."""
    return load_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def expiring(certificate: x509.Certificate, clock: Clock, days: float) -> bool:
    """Has it fewer than ``days`` left, or is it not valid yet?"""
    now = _now(clock)
    left = certificate.not_valid_after_utc - now
    return left < timedelta(days=days) or certificate.not_valid_before_utc > now


def names_of(certificate: x509.Certificate) -> set[str]:
    """The DNS names and addresses that a certificate speaks for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return {*names.get_values_for_type(x509.DNSName), *addresses}


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises PkiError."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise PkiError(f"no key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("no EC key")
    return key


def load_certificate(pem: bytes) -> x509.Certificate:
    """Raises PkiError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise PkiError(f"no certificate: {error}") from None


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _now(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.now(), UTC)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    clock: Clock,
    days: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # An hour ago, for clients whose clocks are behind.
        .not_valid_before(_now(clock) - timedelta(hours=1))
        .not_valid_after(_now(clock) + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


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
