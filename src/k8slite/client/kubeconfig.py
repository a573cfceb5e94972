"""kubeconfig files: clusters, users and contexts, read from $KUBECONFIG or ~/.kube/config.

Several files (separated as in $PATH) count as one: what an earlier file says stands. A change goes
to the file that holds the entry, or to the first.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from k8slite.api.errors import BadRequest, NotFound
from k8slite.client.access import DEFAULT_SERVER, Access, servers_of

Raw = dict[str, Any]

#: Section of the file → the name of an entry's body.
SECTIONS = {"clusters": "cluster", "users": "user", "contexts": "context"}

#: Extension of a cluster's entry that lists every master: ``{"servers": [URL, …]}``. Other clients
#: pass over it and use ``server`` alone.
EXTENSION = "k8slite.io/servers"


def paths(explicit: str, environment: Mapping[str, str]) -> list[Path]:
    """The files to read: ``--kubeconfig``, $KUBECONFIG, or ~/.kube/config."""
    if explicit:
        return [Path(explicit)]
    listed = [name for name in environment.get("KUBECONFIG", "").split(os.pathsep) if name]
    if listed:
        return [Path(name) for name in listed]
    home = environment.get("HOME", "")
    return [Path(home, ".kube", "config")] if home else []


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says, over what the file says; "" leaves it to the file."""

    server: str = ""
    context: str = ""
    cluster: str = ""
    user: str = ""
    namespace: str = ""
    token: str = ""
    username: str = ""
    password: str = ""
    certificate: str = ""  # files
    key: str = ""
    authority: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """``documents`` are the files, in order; those that do not exist are empty."""

    documents: dict[Path, Raw] = field(default_factory=dict)

    def entries(self, section: str) -> dict[str, Raw]:
        """Name → body of ``clusters``, ``users`` or ``contexts``."""
        found: dict[str, Raw] = {}
        for document in self.documents.values():
            for entry in document.get(section) or ():
                found.setdefault(entry["name"], entry.get(SECTIONS[section]) or {})
        return found

    @property
    def current(self) -> str:
        """The name of the current context, or ""."""
        named = (document.get("current-context") for document in self.documents.values())
        return next((name for name in named if name), "")

    def merged(self) -> Raw:
        """All files as one document."""
        document: Raw = {"apiVersion": "v1", "kind": "Config", "preferences": {}}
        for section, body in SECTIONS.items():
            entries = self.entries(section).items()
            document[section] = [{"name": name, body: entry} for name, entry in entries]
        document["current-context"] = self.current
        return document

    def access(self, wanted: Wanted) -> tuple[Access, str]:
        """The way to the server and the namespace.

        Raises NotFound for a context, cluster or user that the file lacks, BadRequest for
        credentials that cannot be read.
        """
        context = self._named("contexts", wanted.context or self.current, strict=wanted.context)
        cluster_name = wanted.cluster or context.get("cluster", "")
        user_name = wanted.user or context.get("user", "")
        cluster = self._named("clusters", cluster_name, strict=cluster_name)
        user = self._named("users", user_name, strict=user_name)
        known = servers(cluster)
        server = wanted.server or ",".join(known) or DEFAULT_SERVER
        namespace = wanted.namespace or context.get("namespace", "") or "default"
        access = Access(
            server=server,
            authority=_file(wanted.authority) or self._pem(cluster, "certificate-authority"),
            insecure=wanted.insecure or bool(cluster.get("insecure-skip-tls-verify")),
            tls_name=cluster.get("tls-server-name", ""),
        )
        # Credentials are for the server they were written for, unless they are given anew.
        if wanted.server and not set(access.urls) <= set(known):
            user = {} if not wanted.user else user
        return self._identified(access, user, wanted), namespace

    def _identified(self, access: Access, user: Raw, wanted: Wanted) -> Access:
        for unsupported in ("exec", "auth-provider"):
            if unsupported in user and not (wanted.token or wanted.certificate):
                raise BadRequest(
                    f"the kubeconfig's user gets credentials by {unsupported!r}, which is not "
                    "supported; give --token or a client certificate"
                )
        token = wanted.token or user.get("token", "")
        if not token and user.get("tokenFile"):
            token = _file(self._beside(user["tokenFile"])).decode().strip()
        return replace(
            access,
            token=token,
            username=wanted.username or user.get("username", ""),
            password=wanted.password or user.get("password", ""),
            certificate=_file(wanted.certificate) or self._pem(user, "client-certificate"),
            key=_file(wanted.key) or self._pem(user, "client-key"),
        )

    def _named(self, section: str, name: str, *, strict: str) -> Raw:
        entries = self.entries(section)
        if name in entries:
            return entries[name]
        if strict:
            known = ", ".join(sorted(entries)) or "none"
            raise NotFound(f"the kubeconfig has no {SECTIONS[section]} {name!r} (it has: {known})")
        return {}

    def _pem(self, entry: Raw, name: str) -> bytes:
        """``<name>-data`` (base64) or the file ``<name>``."""
        data = entry.get(f"{name}-data")
        if data:
            try:
                return base64.b64decode(data, validate=True)
            except (binascii.Error, ValueError):
                raise BadRequest(f"the kubeconfig's {name}-data is no base64") from None
        return _file(self._beside(entry[name])) if entry.get(name) else b""

    def _beside(self, name: str) -> str:
        """File names in a kubeconfig are relative to it."""
        home = next(iter(self.documents), Path())
        return str(home.parent / name)

    # --- changes -----------------------------------------------------------------------------

    def with_entry(self, section: str, name: str, body: Raw) -> Kubeconfig:
        """With ``body`` merged into the entry ``name`` (None removes a field)."""
        target = self._holder(section, name)
        document = dict(self.documents.get(target) or _empty())
        entries = list(document.get(section) or ())
        place = next((i for i, entry in enumerate(entries) if entry["name"] == name), len(entries))
        old = entries[place].get(SECTIONS[section]) or {} if place < len(entries) else {}
        merged = {key: value for key, value in {**old, **body}.items() if value is not None}
        entries[place : place + 1] = [{"name": name, SECTIONS[section]: merged}]
        return Kubeconfig({**self.documents, target: {**document, section: entries}})

    def with_current(self, context: str) -> Kubeconfig:
        """With another current context. Raises NotFound."""
        self._named("contexts", context, strict=context)
        first = next(iter(self.documents))
        document = {**(self.documents[first] or _empty()), "current-context": context}
        return Kubeconfig({**self.documents, first: document})

    def _holder(self, section: str, name: str) -> Path:
        for path, document in self.documents.items():
            if any(entry["name"] == name for entry in document.get(section) or ()):
                return path
        return next(iter(self.documents))


def servers(cluster: Raw) -> tuple[str, ...]:
    """The masters of a cluster's entry: its ``server``, and whatever else our extension lists."""
    named = [str(cluster.get("server") or "")]
    for entry in cluster.get("extensions") or ():
        if isinstance(entry, dict) and entry.get("name") == EXTENSION:
            listed = (entry.get("extension") or {}).get("servers")
            named += [str(server) for server in listed or ()]
    return servers_of(",".join(named))


def cluster_of(text: str) -> Raw:
    """What to write down for ``text``, one server or several with commas between them."""
    urls = text.split(",")
    if len(urls) == 1:
        return {"server": text, "extensions": None} if text else {}
    listed = list(servers_of(text))
    extension = {"name": EXTENSION, "extension": {"servers": listed}}
    return {"server": listed[0], "extensions": [extension]}


def _empty() -> Raw:
    return {
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "clusters": [], "users": [],
        "contexts": [], "current-context": "",
    }  # fmt: skip


def _file(name: str) -> bytes:
    """The content of a file; b"" for no name. Raises BadRequest."""
    if not name:
        return b""
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise BadRequest(f"{name} cannot be read: {error.strerror}") from None


def load(files: list[Path]) -> Kubeconfig:
    """Read the files. Raises BadRequest for one that is no kubeconfig."""
    documents: dict[Path, Raw] = {}
    for path in files:
        try:
            document = yaml.safe_load(path.read_text()) or {}
        except (FileNotFoundError, NotADirectoryError):
            document = {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadRequest(f"the kubeconfig {path} cannot be read: {_brief(error)}") from None
        if not _plausible(document):
            raise BadRequest(f"the kubeconfig {path} has not the shape of one; see `config view`")
        documents[path] = document
    return Kubeconfig(documents)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())


def _plausible(document: Any) -> bool:
    return isinstance(document, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get(body) or {}, dict)
        for section, body in SECTIONS.items()
        for entry in document.get(section) or ()
    )


def save(config: Kubeconfig) -> None:
    """Write back every file that has content, whole or not at all, readable by the owner alone."""
    for path, document in config.documents.items():
        if not document:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            yaml.safe_dump(document, file, sort_keys=False, allow_unicode=True)
        os.replace(draft, path)
