"""The files of the authority and of the certificates that it signs.

Everything lives under ``<data>/pki``, keys readable by their owner alone. What is there, fits and
is not about to expire is kept; the rest is made anew, so ``ensure`` may run at every start. All
functions block for some milliseconds: call them from a thread or before the loop.

What several masters must share (the authority, the key of service accounts, the admin's token and
the secret with which nodes join) travels as one bundle: ``shared`` reads it, ``adopt`` writes it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from weakref import ref

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from k8slite.kit.clock import Clock
from k8slite.pki.authority import (
    CLIENT,
    SERVER,
    Authority,
    PkiError,
    Wanted,
    expiring,
    key_pem,
    load_certificate,
    load_key,
    names_of,
)
from k8slite.pki.kubeconfig import kubeconfig

__all__ = ["MASTERS", "NODES", "Pki", "PkiError", "SERVICE_NAMES"]

log = structlog.get_logger()

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
NODES = "system:nodes"


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What all masters of a cluster have in common, as text."""

    certificate: str
    key: str
    service_account_key: str
    admin_token: str
    join_token: str


P = ParamSpec("P")
T = TypeVar("T")


def _alone(method: Callable[Concatenate[Pki, P], T]) -> Callable[Concatenate[Pki, P], T]:
    """One thread at a time."""

    @wraps(method)
    def guarded(self: Pki, /, *given: P.args, **named: P.kwargs) -> T:
        with self._writing:
            return method(self, *given, **named)

    return guarded


class Pki:
    """The files under ``<data_dir>/pki``."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self.folder = data_dir / "pki"
        self.kubeconfig = data_dir / "admin.kubeconfig"
        self._clock = clock
        self._contexts: list[tuple[ref[ssl.SSLContext], str]] = []
        self._writing = threading.RLock()  # the functions below are called from several threads

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

    @property
    def join_token(self) -> Path:
        """The secret half of the token with which nodes join."""
        return self.folder / "join.token"

    # -- making ------------------------------------------------------------------------------

    @_alone
    def ensure(self, addresses: Sequence[str], node_name: str = "") -> None:
        """Make or renew whatever is missing, wrong or about to expire.

        ``addresses`` are the node's IPs and the portal IP of the secure port, and further names.
        Raises PkiError when the authority's own files are damaged, OSError when files cannot be
        written.
        """
        authority = self.ensure_shared()
        reachable = tuple(dict.fromkeys((*addresses, "127.0.0.1", "::1", *SERVICE_NAMES)))
        node = node_name or (addresses[0] if addresses else "localhost")
        both = (SERVER, CLIENT)
        for file, wanted in {
            "apiserver": Wanted("k8slite-apiserver", (MASTERS,), reachable, both),
            "node": Wanted(f"system:node:{node}", (NODES,), (*reachable, node), both),
            "admin": Wanted("admin", (MASTERS,)),
        }.items():
            if not self._fits(file, wanted, authority):
                log.info("certificate made", role="pki", file=str(self.certificate(file)))
                certificate, key = authority.issue(wanted)
                # The certificate last: a crash in between leaves no pair, and that is remade.
                write(self.key(file), key)
                write(self.certificate(file), certificate, 0o644)

    @_alone
    def ensure_shared(self) -> Authority:
        """Make or renew what all masters share. Raises as ``ensure``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)
        authority = self.authority()
        if not self.key("service-account").exists():
            write(self.key("service-account"), key_pem(ec.generate_private_key(ec.SECP256R1())))
        for path in (self.admin_token, self.join_token):
            if not path.exists():
                write(path, new_secret().encode() + b"\n")
            os.chmod(path, 0o600)
        if not self.tokens.exists():
            write(self.tokens, b'# token (or sha256:<hex of it>),user,uid,"group,group"\n')
        os.chmod(self.tokens, 0o600)
        return authority

    @_alone
    def authority(self) -> Authority:
        """The authority of the files; made when there is none, renewed when it is about to expire.
        Raises PkiError, OSError."""
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
            write(key_file, key_pem(key))
        if certificate_file.exists():
            certificate = _load_certificate(certificate_file)
            if certificate.public_key() != key.public_key():
                raise PkiError(
                    f"{certificate_file} does not belong to {key_file}: bring the right one back, "
                    f"or remove {self.folder} to begin with a new authority"
                )
            authority = Authority(certificate, key, self._clock)
            if not authority.expiring:
                return authority
        authority = Authority.of_key(key, self._clock)
        write(certificate_file, authority.certificate_pem, 0o644)
        return authority

    def _fits(self, file: str, wanted: Wanted, authority: Authority) -> bool:
        """Is the certificate on disk the one that is wanted, for long enough?"""
        try:
            certificate = _load_certificate(self.certificate(file))
            key = _load_key(self.key(file))
            certificate.verify_directly_issued_by(authority.certificate)
        except (OSError, PkiError, ValueError, TypeError):
            return False
        except Exception as error:  # cryptography's InvalidSignature has no nearer parent
            log.warning("certificate not ours", role="pki", file=file, error=repr(error))
            return False
        if certificate.public_key() != key.public_key():
            return False
        if expiring(certificate, self._clock, RENEW_DAYS):
            return False
        common = wanted.subject().get_attributes_for_oid(NameOID.COMMON_NAME)
        if certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME) != common:
            return False
        return set(wanted.names) <= names_of(certificate)

    # -- sharing -----------------------------------------------------------------------------

    @_alone
    def shared(self) -> bytes:
        """The bundle that all masters have in common (JSON). ``ensure_shared`` made its files."""
        return msgspec.json.encode(
            Shared(
                certificate=self.certificate("ca").read_text(),
                key=self.key("ca").read_text(),
                service_account_key=self.key("service-account").read_text(),
                admin_token=self.admin_token.read_text().strip(),
                join_token=self.join_token.read_text().strip(),
            )
        )

    @_alone
    def adopt(self, bundle: bytes) -> bool:
        """Take over a bundle that ``shared`` made elsewhere; did it change a file?

        What another authority signed is not kept: ``ensure`` makes it anew. Raises PkiError for
        what is no bundle, and then changes nothing.
        """
        try:
            shared = msgspec.json.decode(bundle, type=Shared)
        except msgspec.MsgspecError as error:
            raise PkiError(f"the store's authority is damaged: {error}") from None
        Authority.load(shared.certificate.encode(), shared.key.encode(), self._clock)
        load_key(shared.service_account_key.encode())
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)
        changed = [
            _replace(self.key("ca"), shared.key),
            _replace(self.certificate("ca"), shared.certificate, 0o644),
            _replace(self.key("service-account"), shared.service_account_key),
            _replace(self.admin_token, shared.admin_token + "\n"),
            _replace(self.join_token, shared.join_token + "\n"),
        ]
        return any(changed)

    def token(self) -> str:
        """What a node needs to join: ``<sha256 of the authority's certificate>.<secret>``."""
        certificate = _load_certificate(self.certificate("ca"))
        authority = Authority(certificate, _load_key(self.key("ca")), self._clock)
        return f"{authority.fingerprint}.{self.join_token.read_text().strip()}"

    # -- using -------------------------------------------------------------------------------

    def server_context(self, name: str = "apiserver") -> ssl.SSLContext:
        """TLS for a listener that asks for client certificates of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.reload(context, name)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        self._contexts.append((ref(context), name))
        return context

    def client_context(self, name: str = "apiserver") -> ssl.SSLContext:
        """TLS for calls to servers of this cluster, with ``name``'s certificate."""
        context = ssl.create_default_context(cafile=str(self.certificate("ca")))
        context.load_cert_chain(self.certificate(name), self.key(name))
        self._contexts.append((ref(context), name))
        return context

    def reload(self, context: ssl.SSLContext, name: str = "apiserver") -> None:
        """Let a context that is in use hand out the certificate that is on disk now."""
        context.load_cert_chain(self.certificate(name), self.key(name))
        context.load_verify_locations(self.certificate("ca"))

    def reload_all(self) -> None:
        """The same for every context that was made here and is still in use."""
        self._contexts = [(found, name) for found, name in self._contexts if found() is not None]
        for found, name in self._contexts:
            context = found()
            if context is not None:
                self.reload(context, name)

    def write_kubeconfig(self, *servers: str) -> None:
        """``admin.kubeconfig``: everything that a client needs, in one file of mode 0600.
        ``servers`` are the URLs of the masters, the nearest first."""
        text = kubeconfig(
            servers,
            self.certificate("ca").read_bytes(),
            self.certificate("admin").read_bytes(),
            self.key("admin").read_bytes(),
        )
        _replace(self.kubeconfig, text.decode())
        os.chmod(self.kubeconfig, 0o600)


def new_secret() -> str:
    # Not the clock's rng: whoever saw a few of its numbers could tell the next.
    return secrets.token_urlsafe(32)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises PkiError, OSError."""
    try:
        key = load_key(path.read_bytes())
    except PkiError as error:
        raise PkiError(f"{path} holds {error}") from None
    os.chmod(path, 0o600)
    return key


def _load_certificate(path: Path) -> x509.Certificate:
    """Raises PkiError, OSError."""
    try:
        return load_certificate(path.read_bytes())
    except PkiError as error:
        raise PkiError(f"{path} holds {error}") from None


def _replace(path: Path, text: str, mode: int = 0o600) -> bool:
    """Write what differs; did it?"""
    data = text.encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return False
    write(path, data, mode)
    return True


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
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
