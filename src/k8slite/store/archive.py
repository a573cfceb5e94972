"""A backup is one file: a line of JSON that says what follows, then all keys, compressed.

    {"format":"k8slite-backup","version":1,"revision":…,"count":…,"bytes":…,"sha256":"…","made":"…"}
    zlib(msgpack([ttls, [[key, value, create revision, mod revision, lease], …]]))

``bytes`` and ``sha256`` are of the compressed part: a file that was cut or changed is found out.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import msgspec

from k8slite.store.base import KeyValue
from k8slite.store.contents import Contents

_FORMAT, _VERSION = "k8slite-backup", 1
_HEADER_AT_MOST = 4096


class BadArchive(ValueError):
    """A backup that cannot be used; the message names the file and what is wrong with it."""


class Header(msgspec.Struct, frozen=True):
    format: str
    version: int
    revision: int
    count: int
    bytes: int
    sha256: str
    made: str  # RFC 3339


def write(path: Path, contents: Contents, made: str) -> Header:
    """Write a backup that is whole or not there at all, for its owner's eyes only.

    Raises BadArchive when there is a file already, OSError.
    """
    if path.exists():
        raise BadArchive(f"{path} is there already: a backup never replaces a file")
    rows = [
        (item.key, item.value, item.create_revision, item.mod_revision, item.lease)
        for item in contents.items
    ]
    body = zlib.compress(msgspec.msgpack.encode((dict(contents.ttls), rows)), 6)
    header = Header(
        _FORMAT, _VERSION, contents.revision, len(rows), len(body),
        hashlib.sha256(body).hexdigest(), made,
    )  # fmt: skip
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(msgspec.json.encode(header) + b"\n")
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a renaming, never over a file
    except FileExistsError:
        raise BadArchive(f"{path} is there already: a backup never replaces a file") from None
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return header


def read(path: Path) -> tuple[Header, Contents]:
    """Raises BadArchive, OSError."""
    with path.open("rb") as file:
        line = file.readline(_HEADER_AT_MOST)
        header = _header(path, line)
        body = file.read()
    if len(body) != header.bytes:
        how = "cut short" if len(body) < header.bytes else "too long"
        raise BadArchive(f"{path} is {how}: {len(body)} bytes of {header.bytes} follow its header")
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise BadArchive(f"{path} is damaged: its sha256 is not the one its header says")
    try:
        ttls, rows = msgspec.msgpack.decode(
            zlib.decompress(body),
            type=tuple[dict[int, float], list[tuple[str, bytes, int, int, int]]],
        )
    except (zlib.error, msgspec.MsgspecError) as error:
        raise BadArchive(f"{path} is damaged: {error}") from None
    if len(rows) != header.count:
        raise BadArchive(f"{path} is damaged: {len(rows)} keys, its header says {header.count}")
    return header, Contents(header.revision, [KeyValue(*row) for row in rows], ttls)


def _header(path: Path, line: bytes) -> Header:
    try:
        header = msgspec.json.decode(line, type=Header)
    except msgspec.MsgspecError:
        raise BadArchive(f"{path} is no backup of k8slite, or its first line is damaged") from None
    if header.format != _FORMAT:
        raise BadArchive(f"{path} is no backup of k8slite: its format is {header.format!r}")
    if header.version != _VERSION:
        raise BadArchive(
            f"{path} is a backup of version {header.version}, this k8slite reads version "
            f"{_VERSION}: use the k8slite that wrote it"
        )
    return header
