"""What the masters of a cluster share and what its admin shows: made once, found again later."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from k8slite.api.errors import BadRequest
from k8slite.client import kubeconfig
from k8slite.client.access import Access
from k8slite.deploy.plan import PKI, SECURE_PORT, Shared
from k8slite.kit.clock import Clock
from k8slite.pki import files
from k8slite.pki.authority import Authority, PkiError, Wanted, load_key
from k8slite.pki.files import MASTERS

CONTEXT = "k8slite"

#: File under the masters' pki folder → field of the bundle.
_FILES = {
    "ca.crt": "certificate",
    "ca.key": "key",
    "service-account.key": "service_account_key",
    "admin.token": "admin_token",
    "join.token": "join_token",
    "etcd-ca.crt": "etcd_certificate",
    "etcd-ca.key": "etcd_key",
}

#: Prints them all, each under its name. For root on a master.
SCRIPT = f'cd {PKI} 2>/dev/null && for f in {" ".join(_FILES)}; do echo "@@$f"; cat $f; done'


def make(clock: Clock) -> Shared:
    """A new cluster's."""
    authority, etcd = Authority.make(clock), Authority.make(clock)
    return _shared(
        {
            "certificate": authority.certificate_pem.decode(),
            "key": authority.key_pem.decode(),
            "service_account_key": _new_key(clock),
            "admin_token": files.new_secret(),
            "join_token": files.new_secret(),
        },
        etcd.certificate_pem.decode(),
        etcd.key_pem.decode(),
    )


def _new_key(clock: Clock) -> str:
    return Authority.make(clock).key_pem.decode()


def _shared(bundle: dict[str, str], etcd_certificate: str, etcd_key: str) -> Shared:
    whole = files.Shared(**bundle)
    text = msgspec.json.encode(whole).decode()
    return Shared(bundle=text, etcd_certificate=etcd_certificate, etcd_key=etcd_key)


def parse(answer: str, clock: Clock) -> Shared | None:
    """What ``SCRIPT`` printed; None when not all of it was there. What only etcd lacks is made."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in answer.splitlines():
        if line.startswith("@@"):
            lines = found.setdefault(line[2:], [])
        else:
            lines.append(line)
    texts = {_FILES[name]: "\n".join(part) for name, part in found.items() if name in _FILES}
    texts = {
        field: text if field.endswith("token") else text.strip() + "\n"
        for field, text in texts.items()
        if text.strip()
    }
    etcd_certificate, etcd_key = texts.pop("etcd_certificate", ""), texts.pop("etcd_key", "")
    if len(texts) < len(_FILES) - 2:
        return None
    if not (etcd_certificate and etcd_key):
        etcd = Authority.make(clock)
        etcd_certificate, etcd_key = etcd.certificate_pem.decode(), etcd.key_pem.decode()
    shared = _shared(texts, etcd_certificate, etcd_key)
    try:
        authority_of(shared, clock)
        load_key(texts["service_account_key"].encode())
    except PkiError:
        return None
    return shared


def authority_of(shared: Shared, clock: Clock) -> Authority:
    """Raises PkiError."""
    bundle = msgspec.json.decode(shared.bundle, type=files.Shared)
    return Authority.load(bundle.certificate.encode(), bundle.key.encode(), clock)


def join_token(shared: Shared, clock: Clock) -> str:
    """What a node joins with: ``<sha256 of the authority's certificate>.<secret>``."""
    bundle = msgspec.json.decode(shared.bundle, type=files.Shared)
    return f"{authority_of(shared, clock).fingerprint}.{bundle.join_token}"


def new_identity() -> str:
    """A cluster's id. Not from the clock's rng, which may be seeded alike elsewhere."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin's certificate for the masters at ``addresses``."""

    authority: bytes  # PEM, as the others
    certificate: bytes
    key: bytes
    addresses: tuple[str, ...]

    @property
    def servers(self) -> tuple[str, ...]:
        return tuple(f"https://{address}:{SECURE_PORT}" for address in self.addresses)

    @property
    def access(self) -> Access:
        return Access(
            server=",".join(self.servers),
            authority=self.authority,
            certificate=self.certificate,
            key=self.key,
        )


def admin(shared: Shared, addresses: Sequence[str], clock: Clock) -> Admin:
    authority = authority_of(shared, clock)
    certificate, key = authority.issue(Wanted("admin", (MASTERS,)))
    return Admin(authority.certificate_pem, certificate, key, tuple(addresses))


def merge_into(paths: list[Path], who: Admin) -> tuple[Path, str, bool]:
    """Put the cluster into the kubeconfig and make it current: the file, the context's name, and
    whether anything had to be written. Raises BadRequest for a file that is no kubeconfig."""
    if not paths:
        raise BadRequest("no kubeconfig to write: give --kubeconfig")
    config = kubeconfig.load(paths)
    cluster = {
        **kubeconfig.cluster_of(",".join(who.servers)),
        "certificate-authority-data": _data(who.authority),
    }
    name = _context_name(config, who)
    known = config.entries("clusters").get(name)
    wanted = {key: value for key, value in cluster.items() if value is not None}
    if known == wanted and name in config.entries("users") and config.current == name:
        return paths[0], name, False
    user = {"client-certificate-data": _data(who.certificate), "client-key-data": _data(who.key)}
    config = config.with_entry("clusters", name, cluster).with_entry("users", name, user)
    config = config.with_entry("contexts", name, {"cluster": name, "user": name})
    kubeconfig.save(config.with_current(name))
    return paths[0], name, True


def _context_name(config: kubeconfig.Kubeconfig, who: Admin) -> str:
    """``k8slite``, unless another cluster has that name."""
    there = config.entries("clusters").get(CONTEXT, {})
    if there.get("certificate-authority-data", "") in ("", _data(who.authority)):
        return CONTEXT
    return f"{CONTEXT}-{who.addresses[0]}"


def take_out(paths: list[Path], addresses: Sequence[str]) -> list[str]:
    """Take the contexts of the masters at these addresses out again; their names."""
    if not any(path.exists() for path in paths):
        return []
    config = kubeconfig.load(paths)
    ours = {f"https://{address}:{SECURE_PORT}" for address in addresses}
    named = [CONTEXT, *(f"{CONTEXT}-{address}" for address in addresses)]
    clusters = config.entries("clusters")
    gone = [n for n in named if n in clusters and set(kubeconfig.servers(clusters[n])) & ours]
    if not gone:
        return []
    documents = {}
    for path, document in config.documents.items():
        kept = {
            section: [entry for entry in document.get(section) or () if entry["name"] not in gone]
            for section in kubeconfig.SECTIONS
        }
        current = document.get("current-context", "")
        documents[path] = document and {
            **document, **kept, "current-context": "" if current in gone else current
        }  # fmt: skip
    kubeconfig.save(kubeconfig.Kubeconfig(documents))
    return gone


def _data(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
