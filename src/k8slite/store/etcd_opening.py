"""The etcd store that settings mean."""

from __future__ import annotations

from pathlib import Path

from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.store.base import StoreUnavailable
from k8slite.store.etcd import EtcdStore
from k8slite.store.etcd_member import EtcdTls


def open_etcd(
    settings: Settings, clock: Clock, *, compacts: bool, filling: bool = False
) -> EtcdStore:
    """Still to be entered. Raises StoreUnavailable when the password cannot be read."""
    return EtcdStore(
        settings.etcd,
        clock,
        root=settings.etcd_root,
        tls=EtcdTls(settings.etcd_ca, settings.etcd_cert, settings.etcd_key),
        user=settings.etcd_user,
        password=_password(settings.etcd_password_file),
        compacts=compacts,
        filling=filling,
    )


def _password(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"--etcd-password-file {path} cannot be read: {error}") from None
