"""Who asks at the secure port: a client certificate or a bearer token gives the answer.

``tokens.csv`` holds a line for each token, as kube-apiserver's --token-auth-file has it::

    token,user,uid,"group1,group2"

where the token may be written as ``sha256:<hex>``, so that the file gives nothing away. The file is
read again when it changes.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from aiohttp.web_request import BaseRequest

from k8slite.api.errors import Unauthorized
from k8slite.api.paths import Target
from k8slite.api.user import ANONYMOUS, User
from k8slite.kit.clock import Clock
from k8slite.pki.files import MASTERS, Pki
from k8slite.pki.peer import subject
from k8slite.roles.apiserver.doors import address_of
from k8slite.roles.apiserver.information import HEALTH
from k8slite.roles.apiserver.joining import CA, JOIN, JoinToken

log = structlog.get_logger()

AUTHENTICATED = "system:authenticated"

#: How a browser's WebSocket, which cannot set headers, carries a token.
_SOCKET_TOKEN = "base64url.bearer.authorization.k8s.io."

#: Paths that anybody may read: is it alive, what is it, and who vouches for it?
OPEN_PATHS = frozenset((*HEALTH, "version", CA))


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Tokens:
    """Bearer tokens, known by their digests."""

    def __init__(self, file: Path, admin_token: Path) -> None:
        self._file = file
        self._admin_token = admin_token
        self._users: dict[bytes, User] = {}
        self._seen: tuple[object, ...] = ()

    def find(self, token: str) -> User | None:
        self._refresh()
        presented = digest(token)
        found: User | None = None
        # Every digest is compared in full, so the time taken tells nothing about any of them.
        for known, user in self._users.items():
            if hmac.compare_digest(known, presented):
                found = user
        return found

    def _refresh(self) -> None:
        seen = (_fingerprint(self._file), _fingerprint(self._admin_token))
        if seen == self._seen:
            return
        users: dict[bytes, User] = {}
        try:
            if self._file.exists():
                users.update(parse_tokens(self._file.read_text().splitlines()))
            token = self._admin_token.read_text().strip()
            if token:
                users[digest(token)] = User("admin", (MASTERS, AUTHENTICATED))
        except (OSError, ValueError) as error:
            log.error("tokens cannot be read", role="apiserver", error=str(error))
        self._users, self._seen = users, seen


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def parse_tokens(lines: Iterable[str]) -> dict[bytes, User]:
    """Digest → user. Lines that are empty or begin with # say nothing; broken ones are reported
    by number (never by content) and left out."""
    users: dict[bytes, User] = {}
    for number, row in enumerate(csv.reader(lines), 1):
        if not row or not row[0].strip() or row[0].lstrip().startswith("#"):
            continue
        token, name = row[0].strip(), row[1].strip() if len(row) > 1 else ""
        hexadecimal = token.removeprefix("sha256:")
        try:
            key = bytes.fromhex(hexadecimal) if hexadecimal != token else digest(token)
        except ValueError:
            key = b""
        if not name or len(key) != 32:
            log.warning("token ignored", role="apiserver", line=number)
            continue
        groups = [group.strip() for group in row[3].split(",")] if len(row) > 3 else []
        users[key] = User(name, (*filter(None, groups), AUTHENTICATED))
    return users


def user_of_certificate(certificate: Mapping[str, Any]) -> User | None:
    """CN is the name, every O a group, the serialNumber attribute the uid; None for a certificate
    that names nobody."""
    found = subject(certificate)
    if not found.name:
        return None
    return User(found.name, (*found.organizations, AUTHENTICATED), found.serial)


class SecureDoor:
    """HTTPS for everybody who can say who he is."""

    name = "secure"
    by_address = False

    def __init__(self, pki: Pki, clock: Clock) -> None:
        self._tokens = Tokens(pki.tokens, pki.admin_token)
        self._join = JoinToken(pki, clock)

    def welcomes(self, peer: str) -> bool:
        return True

    def admit(self, request: BaseRequest, target: Target) -> User:
        """Raises Unauthorized."""
        connection: Any = request.protocol
        if connection.user is not None:
            return connection.user  # type: ignore[no-any-return]
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        if certificate:
            user = user_of_certificate(certificate)
            if user is not None:
                connection.user = user
                return user
        token = _bearer(request)
        if token:
            user = self._tokens.find(token)
            if user is not None:
                return user
            if target.path.rstrip("/") == f"/{JOIN}":
                peer = transport.get_extra_info("peername") if transport is not None else None
                return self._join.require(token, address_of(peer))
        elif target.path.split("/", 2)[1] in OPEN_PATHS:
            return ANONYMOUS
        raise Unauthorized("Unauthorized")


def _bearer(request: BaseRequest) -> str:
    """The token of a request, "" when it has none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if scheme:
        return "-"  # other credentials are none of ours: no anonymous welcome either
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        encoded = protocol.strip()
        if encoded.startswith(_SOCKET_TOKEN):
            encoded = encoded.removeprefix(_SOCKET_TOKEN)
            try:
                raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            except (binascii.Error, ValueError):
                return "-"
            return raw.decode("utf-8", "replace")
    return ""
