"""Files named with ``-f``: documents, and where they came from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k8slite.api import codec, v1beta3
from k8slite.api.errors import BadRequest
from k8slite.api.kinds import SCHEME
from k8slite.api.scheme import Kind
from k8slite.api.words import document_kind

Raw = dict[str, Any]

_SUFFIXES = frozenset((".yaml", ".yml", ".json"))


@dataclass(frozen=True, slots=True)
class Document:
    """One object as its author wrote it. ``source`` is the file's name."""

    raw: Raw
    source: str

    @property
    def kind(self) -> Kind[Any]:
        """Raises BadRequest for a kind that nobody declared."""
        try:
            return document_kind(self.raw["kind"], SCHEME)
        except BadRequest as error:
            raise BadRequest(f"{self.source}: {error.message}") from None

    @property
    def version(self) -> str:
        """``v1`` or ``v1beta3``: the last part of apiVersion."""
        return str(self.raw["apiVersion"]).rpartition("/")[2]

    @property
    def metadata(self) -> Raw:
        found = self.raw.get("metadata")
        return found if isinstance(found, dict) else {}

    @property
    def name(self) -> str:
        return str(self.metadata.get("name", ""))

    def modern(self) -> Raw:
        """The document in ``v1``."""
        if self.raw["apiVersion"] == v1beta3.VERSION:
            return v1beta3.from_v1beta3(self.raw, self.kind)
        return self.raw

    def namespace(self, wanted: str, asked: str) -> str:
        """Where the object goes: its own namespace, or ``wanted``. ``asked`` is ``-n``.

        Raises BadRequest when the two disagree.
        """
        if not self.kind.namespaced:
            return ""
        own = str(self.metadata.get("namespace", ""))
        if own and asked and own != asked:
            raise BadRequest(
                f"{self.source}: {self.kind.singular} {self.name!r} says namespace {own!r}, the "
                f"command {asked!r}; drop one of the two"
            )
        return own or wanted


def read(names: Sequence[str], *, recursive: bool = False) -> list[Document]:
    """Every document of the files, in order. Raises BadRequest that names the file."""
    found = [document for name in names for document in _read(name, recursive)]
    if not found:
        places = ", ".join("standard input" if name == "-" else name for name in names)
        raise BadRequest(f"{places}: no objects there; expected YAML or JSON (.yaml, .yml, .json)")
    return found


def _read(name: str, recursive: bool) -> Iterator[Document]:
    if name == "-":
        yield from _documents(sys.stdin.buffer.read(), "standard input")
        return
    path = Path(name)
    if path.is_dir():
        pattern = "**/*" if recursive else "*"
        files = sorted(p for p in path.glob(pattern) if p.suffix in _SUFFIXES and p.is_file())
    else:
        files = [path]
    for file in files:
        try:
            text = file.read_bytes()
        except OSError as error:
            raise BadRequest(f"{file}: cannot be read: {error.strerror}") from None
        yield from _documents(text, str(file))


def _documents(text: bytes, source: str) -> Iterator[Document]:
    try:
        for raw in codec.decode_documents(text):
            yield Document(raw, source)
    except BadRequest as error:
        raise BadRequest(f"{source}: {error.message}") from None
