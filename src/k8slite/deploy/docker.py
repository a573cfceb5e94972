"""Docker on a host of the cluster: started where it does not run, its options changed and put back.

What is changed is written into the ``HostRecord`` first.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from k8slite.deploy.dockeropts import RELOADABLE, DockerOptionsError, merged
from k8slite.deploy.host import (
    DockerConfig,
    Engine,
    HostError,
    HostRecord,
    command,
    remember,
    restore,
)
from k8slite.deploy.services import Services
from k8slite.deploy.units import Service
from k8slite.kit.clock import Clock

CONFIG = Path("/etc/docker/daemon.json")
_PIDFILE = Path("/var/run/docker.pid")
_SCRIPT = Path("/etc/init.d/docker")
SERVICE = "k8slite-docker"
#: Seconds in which the engine has to answer.
_PATIENCE = 60.0

Say = Callable[[str], None]


class Docker:
    """The engine of this host at its usual place."""

    def __init__(
        self, record: HostRecord, save: Callable[[], None], services: Services, clock: Clock
    ) -> None:
        self._record = record
        self._save = save
        self._services = services
        self._clock = clock
        self._engine = Engine("unix:///var/run/docker.sock", clock)

    @property
    def _systemd(self) -> bool:
        return Path("/run/systemd/system").exists()

    @property
    def started_by_us(self) -> bool:
        record = self._record
        return record.dockerd_unit or record.docker_script or record.docker_service

    # -- up -----------------------------------------------------------------------------------

    async def ensure(self, options: Mapping[str, Any], say: Say) -> None:
        """The engine runs, with these entries in its daemon.json. Raises HostError."""
        changed = self._configure(options)
        if version := await self._engine.answers():
            if changed:
                await self._take_up(changed)
                say(f"Docker {version} takes DOCKER_OPTS up")
            return
        await self.start()
        say(f"Docker {await self._engine.answers()} started")

    async def start(self) -> None:
        """Start the engine, to be stopped again at the end. Raises HostError."""
        record = self._record
        if not self.started_by_us:
            remember(record)
        if self._systemd:
            record.dockerd_unit = True
        elif _SCRIPT.exists():
            record.docker_script = True
        else:
            record.docker_service = True
        self._save()
        if record.dockerd_unit:
            command("systemctl", "start", "docker")
        elif record.docker_script:
            command(str(_SCRIPT), "start")
        else:
            if shutil.which("dockerd") is None:
                raise HostError("dockerd is not installed: apt-get install docker.io")
            self._services.define(Service(SERVICE, ("dockerd",), "Docker, started by k8slite"))
            self._services.start(SERVICE)
        await self._answering()

    async def answers(self) -> str:
        return await self._engine.answers()

    async def _answering(self) -> None:
        deadline = self._clock.monotonic() + _PATIENCE
        while not await self._engine.answers():
            if self._clock.monotonic() > deadline:
                raise HostError(f"Docker does not answer within {_PATIENCE:.0f} s: see its log")
            await self._clock.sleep(0.1)

    # -- options ------------------------------------------------------------------------------

    def _configure(self, options: Mapping[str, Any]) -> set[str]:
        """Write daemon.json; which of its keys changed?"""
        had = self._record.docker_config
        base = had.before if had else _read(CONFIG)
        try:
            text, changed = merged(base or "", options)
        except DockerOptionsError as error:
            raise HostError(f"/etc/docker/{error}") from None
        now = _read(CONFIG)
        if now == text or (now is None and not changed):
            return set()
        if had is None and not changed:
            return set()
        stale = set(had.changed) if had else set()
        folder = had.folder if had else CONFIG.parent.exists()
        self._record.docker_config = DockerConfig(base, text, sorted(changed | stale), folder)
        self._save()
        _write(CONFIG, text)
        return changed | stale

    async def _take_up(self, changed: set[str]) -> None:
        """Make the running engine read its file again; containers go on where that is possible."""
        if changed <= RELOADABLE:
            os.kill(_pid(), signal.SIGHUP)
        elif self._systemd:
            command("systemctl", "restart", "docker")
        elif _SCRIPT.exists():
            command(str(_SCRIPT), "restart")
        elif self._record.docker_service:
            self._services.restart(SERVICE)
        else:
            raise HostError(
                f"Docker was started by hand and {', '.join(sorted(changed))} need a restart: "
                "restart dockerd, then run the same again"
            )
        await self._answering()

    # -- down ---------------------------------------------------------------------------------

    async def put_back(self, say: Say) -> None:
        """daemon.json and the engine as they were found. Raises HostError."""
        config = self._record.docker_config
        if config is not None:
            if _read(CONFIG) == config.after:
                await self._restore_file(config)
                say("Docker's daemon.json is as it was found")
            else:
                say("Docker's daemon.json was changed by others since: left as it is")
            self._record.docker_config = None
            self._save()
        if self.started_by_us:
            if self._record.dockerd_unit:
                command("systemctl", "stop", "docker.socket", "docker", "containerd")
            elif self._record.docker_script:
                command(str(_SCRIPT), "stop")
            else:
                self._services.remove(SERVICE)
            restore(self._record)
            say("Docker stopped, as it was found")

    async def _restore_file(self, config: DockerConfig) -> None:
        """An entry that only goes from the file stays in a running engine: say its opposite."""
        changed = set(config.changed)
        runs = not self.started_by_us and await self._engine.answers()
        if runs and changed <= RELOADABLE:
            before = json.loads(config.before or "{}")
            opposite = {key: _nothing(json.loads(config.after).get(key)) for key in changed}
            _write(CONFIG, json.dumps({**before, **opposite, **_only(before, changed)}))
            await self._take_up(changed)
            # The engine reads the file in its own time.
            await self._settled()
        if config.before is None:
            CONFIG.unlink()
            if not config.folder:
                CONFIG.parent.rmdir()
        else:
            _write(CONFIG, config.before)
        if runs and not changed <= RELOADABLE:
            await self._take_up(changed)

    async def _settled(self) -> None:
        await self._clock.sleep(0.5)


def _only(document: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: document[key] for key in keys if key in document}


def _nothing(value: Any) -> Any:
    """What an entry is when nobody asked for it."""
    if isinstance(value, bool):
        return False
    if isinstance(value, list):
        return []
    return {} if isinstance(value, dict) else value


def _pid() -> int:
    """dockerd's. Raises HostError."""
    try:
        return int(_PIDFILE.read_text())
    except (OSError, ValueError):
        raise HostError(f"{_PIDFILE} does not tell dockerd's pid: restart Docker") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.k8slite")
    part.write_text(text)
    part.replace(path)
