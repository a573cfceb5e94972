"""The edge to a host's service manager: systemd where it runs, init scripts where not."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Protocol

from k8slite.deploy.host import HostError, command
from k8slite.deploy.units import Service, init_script, systemd_unit

UNITS = Path("/etc/systemd/system")
SCRIPTS = Path("/etc/init.d")


class Services(Protocol):
    """All raise HostError with the manager's own words."""

    def define(self, service: Service) -> bool:
        """Write it down, to be started at boot; did that change anything?"""
        ...

    def running(self, name: str) -> bool: ...
    def start(self, name: str) -> None: ...
    def restart(self, name: str) -> None: ...

    def remove(self, name: str) -> bool:
        """Stop it and forget it; was there anything?"""
        ...


class Systemd:
    def define(self, service: Service) -> bool:
        path = UNITS / f"{service.name}.service"
        if not _write(path, systemd_unit(service), 0o644):
            return False
        command("systemctl", "daemon-reload")
        command("systemctl", "enable", "--quiet", service.name)
        return True

    def running(self, name: str) -> bool:
        try:
            return command("systemctl", "is-active", name).strip() == "active"
        except HostError:
            return False

    def start(self, name: str) -> None:
        command("systemctl", "start", name)

    def restart(self, name: str) -> None:
        command("systemctl", "restart", name)

    def remove(self, name: str) -> bool:
        path = UNITS / f"{name}.service"
        if not path.exists():
            return False
        command("systemctl", "disable", "--now", "--quiet", name)
        path.unlink()
        command("systemctl", "daemon-reload")
        with contextlib.suppress(HostError):
            command("systemctl", "reset-failed", name)
        return True


class InitScripts:
    def define(self, service: Service) -> bool:
        if not _write(SCRIPTS / service.name, init_script(service), 0o755):
            return False
        self._at_boot(service.name, "defaults")
        return True

    def running(self, name: str) -> bool:
        try:
            command(str(SCRIPTS / name), "status")
        except HostError:
            return False
        return True

    def start(self, name: str) -> None:
        command(str(SCRIPTS / name), "start")

    def restart(self, name: str) -> None:
        command(str(SCRIPTS / name), "restart")

    def remove(self, name: str) -> bool:
        path = SCRIPTS / name
        if not path.exists():
            return False
        command(str(path), "stop")
        path.unlink()
        self._at_boot(name, "remove")
        return True

    def _at_boot(self, name: str, what: str) -> None:
        """Links for the run levels, on systems that have such."""
        if shutil.which("update-rc.d"):
            with contextlib.suppress(HostError):
                command("update-rc.d", name, what)


def services() -> Services:
    """The manager of this host."""
    return Systemd() if Path("/run/systemd/system").exists() else InitScripts()


def _write(path: Path, text: str, mode: int) -> bool:
    """Write what differs; did it?"""
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.chmod(mode)
    part.replace(path)
    return True
