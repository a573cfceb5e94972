"""Pairs of certificate and key in files, kept as long as they fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from k8slite.kit.clock import Clock
from k8slite.pki.authority import (
    RENEW_DAYS,
    Authority,
    PkiError,
    Wanted,
    expiring,
    load_certificate,
    load_key,
    names_of,
)

Write = Callable[[Path, bytes, int], None]


def keep_pair(
    folder: Path, file: str, wanted: Wanted, authority: Authority, clock: Clock, write: Write
) -> bool:
    """Make ``file``.crt and .key anew unless they are what is wanted; did it? Raises OSError."""
    certificate_file, key_file = folder / f"{file}.crt", folder / f"{file}.key"
    if _fits(certificate_file, key_file, wanted, authority, clock):
        return False
    certificate, key = authority.issue(wanted)
    # The certificate last: a crash in between leaves no pair, and that is remade.
    write(key_file, key, 0o600)
    write(certificate_file, certificate, 0o644)
    return True


def _fits(
    certificate_file: Path, key_file: Path, wanted: Wanted, authority: Authority, clock: Clock
) -> bool:
    try:
        certificate = load_certificate(certificate_file.read_bytes())
        key = load_key(key_file.read_bytes())
        certificate.verify_directly_issued_by(authority.certificate)
    except (OSError, PkiError, ValueError, TypeError):
        return False
    except Exception:  # cryptography's InvalidSignature has no nearer parent
        return False
    if certificate.public_key() != key.public_key():
        return False
    if expiring(certificate, clock, RENEW_DAYS):
        return False
    return certificate.subject == wanted.subject() and set(wanted.names) <= names_of(certificate)
